//! The command line of nnz. [`main`] is given the methods and layers of every room; it knows none itself.
#![forbid(unsafe_code)]

mod call;
mod commands;
mod ui;

pub use call::{Answer, Argument, Described, Failure, call, described};
pub use commands::model::{outputs, writable};
pub use ui::{Caller, Event};

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use nnz_core::Registry;
use nnz_engine::Layers;
use std::process::ExitCode;

/// Neural networks that are sparse all the way down.
#[derive(Parser)]
#[command(name = "nnz", version, arg_required_else_help = true, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Print one JSON document on stdout; text for people goes to stderr
    #[arg(long, global = true)]
    json: bool,
    /// Print only what was asked for
    #[arg(long, short, global = true)]
    quiet: bool,
    /// Threads to compute with [default: all cores]
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
}

const EXAMPLES: &str = "Examples:
  nnz train mnist --method rigl --density 0.05           train a sparse network and its controls
  nnz train mnist --method set --density 0.02 --seeds 3  three seeds, with 95% intervals
  nnz prune runs/ID/models/dense.safetensors --method magnitude --density 0.1 -o small.safetensors
  nnz eval small.safetensors mnist                       accuracy on the test split
  nnz train table.csv --target species --method set --density 0.3
  nnz top                                                watch the newest run
  nnz reproduce rigl                                     run and judge the claims of a method

`nnz help COMMAND` explains a command by example. Exit codes: 0 done, 1 the answer is no, 2 a request that cannot be \
carried out, 130 interrupted (what was done is saved). NO_COLOR turns colours off.";

#[derive(Subcommand)]
enum Command {
    /// Train a sparse network and compare it with its controls
    Train(commands::train::Args),
    /// Compare methods fairly: equal steps, equal tuning, control arms, paired intervals; or experiments by their metrics
    Compare(commands::compare::Args),
    /// Run a recipe: a file, the name of one that comes with nnz, or a run directory to resume
    Run(commands::run::Args),
    /// Prune a trained model
    Prune(commands::prune::Args),
    /// What a network loses when one of its layers alone is pruned, and the densities that lose least
    Sensitivity(commands::sensitivity::Args),
    /// Extract the changes of fine-tuning from a network; fuse, unfuse and switch them, to the bit
    Adapter(commands::adapter::Args),
    /// How well a language model predicts a text
    Perplexity(commands::language::PerplexityArgs),
    /// Go on with a text by a language model
    Generate(commands::language::GenerateArgs),
    /// Write a model of another program as safetensors, dense or packed
    Convert(commands::language::ConvertArgs),
    /// Accuracy and loss of a model on a data set; a language model's accuracy on questions
    Eval(commands::model::EvalArgs),
    /// What a model consists of: density, bytes, degrees, dead units, components, spectral gap
    Inspect(commands::model::InspectArgs),
    /// Apply a model: the class of an image or a row, the vector of a text, how a text continues, which text fits an image
    Predict(commands::model::PredictArgs),
    /// List the methods
    Methods(commands::methods::MethodsArgs),
    /// Everything about one method: idea, paper, options, claims
    Show(commands::methods::ShowArgs),
    /// BibTeX entries to cite for a method or a recipe
    Cite(commands::methods::CiteArgs),
    /// Run the claims of a method and judge them
    Reproduce(commands::reproduce::Args),
    /// Write the report of a finished run again
    Report(commands::run::ReportArgs),
    /// How fast a model or a kernel is on this machine, and why
    Bench(commands::bench::Args),
    /// List, fetch and check data sets
    Data(commands::data::Args),
    /// Show a run in progress
    Top(commands::top::Args),
    /// Check processor, threads, memory, data and directories; exit code 1 if something will not work
    Doctor,
    /// Print completions of commands and options for a shell
    Completions(commands::shell::CompletionsArgs),
    /// Print the manual page, or write one for every command
    Man(commands::shell::ManArgs),
}

/// The whole command line.
fn command() -> clap::Command {
    let what = "Data set: a name from `nnz data list`, or a file or folder; or experiments, separated by commas";
    Cli::command().mut_subcommand("compare", |c| c.mut_arg("data", |a| a.help(what).value_name("DATA|EXPERIMENT,…")))
}

/// Reads the command line and carries it out with these methods, and these layers besides the engine's.
pub fn main(registry: Registry, layers: Layers) -> ExitCode {
    layers.make_known();
    let matches = command().get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|e| e.exit());
    commands::given::remember(&command(), &matches);
    if let Err(why) = nnz_kernels::Isa::forced() {
        return ui::fail(&anyhow::anyhow!(why));
    }
    if let Err(e) = nnz_kernels::threads::build_in_main(cli.threads.unwrap_or(0).into()) {
        eprintln!("error: cannot start threads to compute with: {e}");
        return ExitCode::from(2);
    }
    nnz_kernels::answer_cuts();
    let ui = ui::Ui { registry, json: cli.json, quiet: cli.quiet, caller: None };
    match cli.command.run(ui) {
        Ok(code) => code,
        Err(e) => ui::fail(&e),
    }
}

impl Command {
    fn run(self, ui: ui::Ui) -> anyhow::Result<ExitCode> {
        match self {
            Command::Train(args) => commands::train::run(&args, ui),
            Command::Compare(args) => commands::compare::run(&args, ui),
            Command::Run(args) => commands::run::run(&args, ui),
            Command::Prune(args) => commands::prune::run(&args, ui),
            Command::Sensitivity(args) => commands::sensitivity::run(&args, ui),
            Command::Adapter(args) => commands::adapter::run(&args, ui),
            Command::Perplexity(args) => commands::language::perplexity(&args, ui),
            Command::Generate(args) => commands::language::generate_with(&args, ui),
            Command::Convert(args) => commands::language::convert(&args, ui),
            Command::Eval(args) => commands::model::eval(&args, ui),
            Command::Inspect(args) => commands::model::inspect(&args, ui),
            Command::Predict(args) => commands::model::predict(&args, ui),
            Command::Methods(args) => commands::methods::list(&args, ui),
            Command::Show(args) => commands::methods::show(&args, ui),
            Command::Cite(args) => commands::methods::cite(&args, ui),
            Command::Reproduce(args) => commands::reproduce::run(&args, ui),
            Command::Report(args) => commands::run::report(&args, ui),
            Command::Bench(args) => commands::bench::run(&args, ui),
            Command::Data(args) => commands::data::run(&args, ui),
            Command::Top(args) => commands::top::run(&args, ui),
            Command::Doctor => commands::doctor::run(ui),
            Command::Completions(args) => commands::shell::completions(&args, command(), ui),
            Command::Man(args) => commands::shell::man(&args, command(), ui),
        }
    }
}
