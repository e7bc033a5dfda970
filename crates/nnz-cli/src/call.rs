//! Commands for a program that calls them in its own process: no output, no handlers, no end of the process.

use crate::commands::given;
use crate::ui::{self, Caller, Ui};
use crate::{Cli, command};
use clap::{ArgAction, FromArgMatches};
use nnz_core::Registry;
use serde::Serialize;
use std::any::TypeId;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// What a command found.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The JSON document that `--json` prints.
    pub document: String,
    /// Whether the answer is no: the program's exit code is 1.
    pub no: bool,
}

/// Why a command found nothing.
#[derive(Clone, Debug)]
pub enum Failure {
    /// The request is none that the command takes.
    Request(String),
    /// It cannot be carried out.
    Failed {
        /// One sentence.
        why: String,
        /// Whether a file is not there.
        missing: bool,
    },
    /// The caller stopped it.
    Interrupted {
        /// One sentence.
        why: String,
        /// The run that can go on.
        run: Option<PathBuf>,
    },
}

/// Carries out a command, given as its words without the program's name, such as `["eval", "small.safetensors"]`. Its threads
/// are those of the pool it is called in; `--threads` takes a pool of its own.
///
/// # Errors
/// When the words are no command, or it fails.
pub fn call(registry: Registry, words: &[String], caller: &Caller<'_>) -> Result<Answer, Failure> {
    let request = |e: clap::Error| Failure::Request(sentence(&e));
    let program = command();
    let matches = command().try_get_matches_from(std::iter::once("nnz").chain(words.iter().map(String::as_str)));
    let matches = matches.map_err(request)?;
    let cli = Cli::from_arg_matches(&matches).map_err(request)?;
    nnz_kernels::Isa::forced().map_err(|why| Failure::Failed { why: why.to_string(), missing: false })?;
    let ui = Ui { registry, json: true, quiet: cli.quiet, caller: Some(caller) };
    let carry_out = || {
        let before = given::remember(&program, &matches);
        let found = cli.command.run(ui);
        given::restore(before);
        found
    };
    let found = match cli.threads {
        None => carry_out(),
        Some(n) => match rayon::ThreadPoolBuilder::new().num_threads(n.into()).build() {
            Ok(pool) => pool.install(carry_out),
            Err(e) => Err(anyhow::anyhow!("cannot start threads to compute with: {e}")),
        },
    };
    match found {
        Ok(code) => {
            Ok(Answer { document: caller.take().unwrap_or_else(|| "null".into()), no: code != ExitCode::SUCCESS })
        }
        Err(e) => Err(failure(&e)),
    }
}

fn failure(e: &anyhow::Error) -> Failure {
    let why = ui::shown(&format!("{e:#}")).into_owned();
    if ui::interrupted(e) {
        let run = match e.downcast_ref() {
            Some(nnz_lab::Error::Interrupted { dir }) => Some(dir.clone()),
            _ => None,
        };
        return Failure::Interrupted { why, run };
    }
    let absent = |e: &std::io::Error| e.kind() == std::io::ErrorKind::NotFound;
    // Errors of the engine, of lab and of foreign keep a path, and of what the system said the words.
    let gone = |path: &Path, why: &str| !path.exists() && why.contains("(os error 2)");
    let missing = e.chain().any(|c| {
        let file = match (c.downcast_ref(), c.downcast_ref(), c.downcast_ref()) {
            (Some(nnz_engine::Error::File { path, why }), ..)
            | (_, Some(nnz_lab::Error::File { path, why }), _)
            | (_, Some(nnz_lab::Error::Engine(nnz_engine::Error::File { path, why })), _)
            | (.., Some(nnz_foreign::Error::File { path, why }))
            | (.., Some(nnz_foreign::Error::Engine(nnz_engine::Error::File { path, why }))) => Some((path, why)),
            _ => None,
        };
        if file.is_some_and(|(path, why)| gone(path, why)) {
            return true;
        }
        let data = match c.downcast_ref() {
            Some(nnz_data::Error::Io { why, .. }) => Some(why),
            _ => match c.downcast_ref() {
                Some(nnz_lab::Error::Data(nnz_data::Error::Io { why, .. })) => Some(why),
                _ => None,
            },
        };
        data.or_else(|| c.downcast_ref()).is_some_and(absent)
    });
    Failure::Failed { why, missing }
}

/// The sentence of a refused command line, without the reminder of its usage.
fn sentence(e: &clap::Error) -> String {
    let text = e.render().to_string();
    let text = text.trim_start_matches("error: ");
    let end = text.find("\n\nUsage:").or_else(|| text.find("\n\nFor more information")).unwrap_or(text.len());
    let lines = text[..end].lines().map(str::trim).filter(|l| !l.is_empty());
    lines.fold(String::new(), |all, line| match &*all {
        "" => line.into(),
        before if before.ends_with(':') => format!("{before} {line}"),
        before => format!("{before}; {line}"),
    })
}

/// A command, for programs that offer it in their own words.
#[derive(Clone, Debug, Serialize)]
pub struct Described {
    /// Its words: `train`, or `data list`.
    pub name: String,
    /// One line.
    pub about: String,
    /// What it is given.
    pub arguments: Vec<Argument>,
}

/// An argument of a command.
#[derive(Clone, Debug, Serialize)]
pub struct Argument {
    /// Its name: `density` for `--density`; of a place in the line, the place's.
    pub name: String,
    /// Whether it is named on the line.
    pub option: bool,
    /// Whether the command wants it.
    pub required: bool,
    /// Whether it has a value; else it is on or off.
    pub value: bool,
    /// Kind of the value: `int`, `float`, `path` or `text`.
    pub kind: &'static str,
    /// Whether it may be given several times.
    pub repeated: bool,
    /// What stands between several values.
    pub delimiter: Option<char>,
    /// The values it can have, if they are few.
    pub values: Vec<String>,
    /// Its value if it is not given.
    pub default: Option<String>,
    /// One line.
    pub about: String,
}

/// Every command with its arguments, but for those of shells.
pub fn described() -> Vec<Described> {
    let mut program = command();
    program.build();
    let mut all = Vec::new();
    for sub in program.get_subcommands() {
        match sub.get_name() {
            "help" | "completions" | "man" => {}
            name if sub.has_subcommands() => {
                if !sub.is_subcommand_required_set() {
                    all.push(describe(name.into(), sub));
                }
                let verbs = sub.get_subcommands().filter(|v| v.get_name() != "help");
                all.extend(verbs.map(|v| describe(format!("{name} {}", v.get_name()), v)));
            }
            name => all.push(describe(name.into(), sub)),
        }
    }
    all
}

fn describe(name: String, command: &clap::Command) -> Described {
    let text = |s: Option<&clap::builder::StyledStr>| s.map(ToString::to_string).unwrap_or_default();
    let told = |a: &&clap::Arg| !matches!(a.get_id().as_str(), "help" | "version" | "json");
    let arguments = command.get_arguments().filter(told).map(|a| {
        let value = a.get_action().takes_values();
        Argument {
            name: a.get_long().unwrap_or(a.get_id().as_str()).replace('-', "_"),
            option: a.get_long().is_some(),
            required: a.is_required_set(),
            value,
            kind: kind(a),
            repeated: matches!(a.get_action(), ArgAction::Append),
            delimiter: a.get_value_delimiter(),
            values: if value {
                a.get_possible_values().iter().map(|v| v.get_name().into()).collect()
            } else {
                Vec::new()
            },
            default: a.get_default_values().first().filter(|_| value).map(|v| v.to_string_lossy().into_owned()),
            about: text(a.get_help()),
        }
    });
    let arguments = arguments.collect();
    Described { name, about: text(command.get_about()), arguments }
}

fn kind(a: &clap::Arg) -> &'static str {
    let id = a.get_value_parser().type_id();
    let of = |known: &[TypeId]| known.iter().any(|&k| id == k);
    if of(&[TypeId::of::<f64>(), TypeId::of::<f32>()]) {
        "float"
    } else if of(&[TypeId::of::<u64>(), TypeId::of::<u32>(), TypeId::of::<u16>(), TypeId::of::<usize>()]) {
        "int"
    } else if of(&[TypeId::of::<PathBuf>()]) {
        "path"
    } else {
        "text"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ui::Event;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Arc, Mutex};

    fn called(words: &[&str], listener: Option<&(dyn Fn(Event<'_>) + Sync)>) -> (Result<Answer, Failure>, bool) {
        let heeds = Arc::new(AtomicBool::new(false));
        let caller = Caller::new(Arc::default(), heeds.clone(), listener);
        let words: Vec<String> = words.iter().map(ToString::to_string).collect();
        (call(Registry(&[]), &words, &caller), heeds.load(Ordering::SeqCst))
    }

    #[test]
    fn a_document_is_handed_back() {
        let (found, heeds) = called(&["methods"], None);
        let found = found.unwrap();
        assert_eq!((&*found.document, found.no, heeds), ("[]", false, false));
        let (found, _) = called(&["data", "check", "mnist10k", "--threads", "2"], None);
        let document: serde_json::Value = serde_json::from_str(&found.unwrap().document).unwrap();
        assert_eq!(document.as_array().map(Vec::len), Some(4));
    }

    #[test]
    fn a_wrong_request_is_one_sentence_and_ends_nothing() {
        for (words, says) in [
            (&["shoow"][..], "shoow"),
            (&["show"], "METHOD"),
            (&["train", "mnist", "--method", "x", "--optimizer", "adamm"], "invalid value 'adamm' for '--optimizer"),
            (&["--version"], "nnz"),
        ] {
            let (Err(Failure::Request(why)), _) = called(words, None) else { panic!("{words:?}") };
            assert!(why.contains(says) && !why.contains('\n') && !why.starts_with("error"), "{why}");
        }
        let (Err(Failure::Failed { why, missing: false }), _) = called(&["show", "rigl"], None) else { panic!() };
        assert!(why.contains("rigl"), "{why}");
        let (Err(Failure::Failed { missing, .. }), _) = called(&["data", "check", "no/such.npz"], None) else {
            panic!()
        };
        assert!(missing);
        for words in [
            &["eval", "no/such.safetensors"][..],
            &["inspect", "no/such.safetensors"],
            &["convert", "no/such.safetensors", "--output", "x.safetensors"],
            &["predict", "no/such.safetensors", "x.csv"],
            &["bench", "no/such.onnx"],
            &["perplexity", "no/such.gguf", "text.txt"],
            &["run", "no/such.toml"],
        ] {
            let (Err(Failure::Failed { missing: true, .. }), _) = called(words, None) else { panic!("{words:?}") };
        }
        let (Err(Failure::Failed { why, missing: false }), _) =
            called(&["convert", "no/such.safetensors", "--output", "no/such.pt"], None)
        else {
            panic!()
        };
        assert!(why.contains(".pt are not written"), "{why}");
    }

    #[test]
    fn options_are_those_of_the_call() {
        assert!(called(&["eval", "no.safetensors", "--target", "x"], None).0.is_err());
        assert!(!given::has("target"), "what was given before is put back");
    }

    #[test]
    fn notes_are_told_to_the_caller() {
        let seen = Mutex::new(Vec::new());
        let listener = |event: Event<'_>| {
            if let Event::Note(text) = event {
                seen.lock().unwrap().push(text.to_string());
            }
        };
        let dir = tempfile::tempdir().unwrap();
        let table = dir.path().join("t.csv");
        std::fs::write(&table, "a,b\n".to_string() + &"1,x\n2,y\n".repeat(20)).unwrap();
        let (found, _) = called(&["data", "check", table.to_str().unwrap(), "--target", "b"], Some(&listener));
        assert!(found.is_ok());
        let told = seen.into_inner().unwrap().len();
        let (quiet, _) = called(&["data", "check", "mnist10k", "--quiet"], Some(&|_: Event<'_>| panic!("quiet")));
        assert!(quiet.is_ok() && told < 10);
    }

    #[test]
    fn every_command_is_described() {
        let all = described();
        let train = all.iter().find(|c| c.name == "train").unwrap();
        let of = |name: &str| train.arguments.iter().find(|a| a.name == name).unwrap();
        assert!(!of("data").option && of("data").required && !of("method").required);
        assert_eq!((of("density").kind, of("epochs").kind, of("run_dir").kind), ("float", "int", "path"));
        assert_eq!((of("keep").delimiter, of("set").repeated, of("prune_head").value), (Some(','), true, false));
        assert!(of("optimizer").values.contains(&"adam".to_string()) && of("quiet").option);
        for name in ["data list", "bench", "bench kernels", "adapter switch"] {
            assert!(all.iter().any(|c| c.name == name), "{name}");
        }
    }
}
