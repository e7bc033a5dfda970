use std::io;
use std::path::PathBuf;

use nnz_engine::data::DataError;

/// Errors of named data sets and images. Every message names the place and the way out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A name that is not in the catalog.
    #[error("{0}; a file or a folder can be named too, by its path")]
    Unknown(nnz_core::Error),
    /// Bad files or inconsistent parts.
    #[error(transparent)]
    Data(#[from] DataError),
    /// No data directory.
    #[error("there is no home directory to keep data in; set NNZ_DATA to a folder")]
    NoDirectory,
    /// A folder in which no data set was recognized.
    #[error(
        "{} holds no data set that is known: neither the four IDX files of MNIST's layout, nor CIFAR's batches, nor one \
         subfolder a class with pictures (PNG, JPEG) or clips (WAV)",
        folder.display()
    )]
    Folder {
        /// The folder.
        folder: PathBuf,
    },
    /// A folder with some of MNIST's files.
    #[error("{} is not a data set: it lacks {missing} (plain or .gz)", folder.display())]
    Lacks {
        /// The folder.
        folder: PathBuf,
        /// Files it lacks.
        missing: String,
    },
    /// A known data set with missing parts.
    #[error("data set `{name}` in {} lacks {missing}; `nnz data get {name}` completes it", folder.display())]
    Incomplete {
        /// The data set.
        name: String,
        /// Files it lacks.
        missing: String,
        /// Where they belong.
        folder: PathBuf,
    },
    /// A file that differs from the published one.
    #[error("{file} is not the published file: its SHA-256 is {got}, not {want}; `nnz data get {name}` replaces it")]
    Checksum {
        /// The file.
        file: String,
        /// Published checksum.
        want: String,
        /// Checksum of the file.
        got: String,
        /// The data set.
        name: String,
    },
    /// Neither the addresses nor the package delivered.
    #[error("cannot download {set} with {tool}: {why}; or put {files} of the published set into {} yourself", folder.display())]
    Download {
        /// The data set.
        set: String,
        /// The last tool that was run.
        tool: String,
        /// Its last lines of output.
        why: String,
        /// The files to put there.
        files: String,
        /// Where the files belong.
        folder: PathBuf,
    },
    /// An archive without the right files. Nothing of it was kept.
    #[error("{archive}: {why}; nothing was installed")]
    Archive {
        /// The archive.
        archive: String,
        /// The defect.
        why: String,
    },
    /// Another process is fetching.
    #[error("another process is fetching data into {}; wait for it to end", dir.display())]
    Busy {
        /// The data directory.
        dir: PathBuf,
    },
    /// An error of the operating system.
    #[error("cannot {what} {}: {why}", path.display())]
    Io {
        /// "write", "create", ...
        what: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        why: io::Error,
    },
    /// A file that violates its format, or data that cannot be learned from.
    #[error("{place}: {why}")]
    Content {
        /// The file, and where in it.
        place: String,
        /// The defect, and the remedy.
        why: String,
    },
    /// An image of another shape than the model's input.
    #[error("the picture is {got}, but the model reads {want}; {why}")]
    Shape {
        /// Shape of the image.
        got: String,
        /// Shape of the model's input.
        want: String,
        /// The way out.
        why: &'static str,
    },
}

/// Result of this module.
pub type Result<T, E = Error> = std::result::Result<T, E>;
