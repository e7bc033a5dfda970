//! Options that were given on the command line. Some apply to one kind of model only: for another, they are refused by
//! name instead of being ignored.

use anyhow::{Result, bail};
use clap::parser::ValueSource;
use clap::{ArgMatches, Command};
use std::cell::RefCell;

thread_local! {
    /// Those of the command that this thread carries out. A program may have several carried out at once.
    static GIVEN: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Records which options of the subcommand were given, and returns those of the command before.
pub fn remember(command: &Command, matches: &ArgMatches) -> Vec<String> {
    let Some((name, found)) = matches.subcommand() else { return Vec::new() };
    let arguments = command.get_subcommands().filter(|c| c.get_name() == name).flat_map(Command::get_arguments);
    let given = arguments.filter(|a| {
        let id = a.get_id().as_str();
        found.try_contains_id(id).unwrap_or(false) && found.value_source(id) == Some(ValueSource::CommandLine)
    });
    let names = given.filter_map(|a| a.get_long().map(str::to_owned)).collect();
    restore(names)
}

/// Puts back what [`remember`] returned.
pub fn restore(names: Vec<String>) -> Vec<String> {
    GIVEN.replace(names)
}

/// Whether an option was given.
pub fn has(name: &str) -> bool {
    GIVEN.with_borrow(|given| given.iter().any(|g| g == name))
}

/// Refuses options that do not apply to a kind of model.
pub fn refuse(names: &[&str], why: &str) -> Result<()> {
    match names.iter().find(|n| has(n)) {
        Some(name) => bail!("--{name} {why}"),
        None => Ok(()),
    }
}

/// Options for the reader of a table.
pub const TABLE: [&str; 3] = ["target", "missing", "unseen"];

/// Options of training, which do not apply to models of other programs.
pub const TRAINING: [&str; 13] = [
    "prune",
    "batch",
    "optimizer",
    "lr",
    "schedule",
    "warmup",
    "storage",
    "clip",
    "ema",
    "smoothing",
    "augment",
    "dtype",
    "finetune",
];

/// Refuses options of training.
pub fn no_training() -> Result<()> {
    refuse(&["dtype"], "is for networks that nnz trained; --numbers says how numbers of other models are written")?;
    refuse(&TRAINING, "is for training, which needs --data; language models are pruned without")
}

/// Refuses layout options if a file has its own layout.
pub fn no_layout(onnx: bool) -> Result<()> {
    match onnx {
        true => refuse(
            &["layout", "numbers", "dense-layout"],
            "is for folders and safetensors files; an ONNX file has all entries, in the types of the network",
        ),
        false => Ok(()),
    }
}
