//! Files of nnz on disk: written whole or not at all, kept through a power cut, and never through a link.
//!
//! Everything that nnz writes goes through the functions here. A file gets its bytes under a temporary name beside it, is synced
//! and renamed, and its folder is synced; what is written behind a file that is there is synced before the next file may rely on
//! it. Modes are those that the user's mask gives. [`faults`] lets a test stop at each of these steps and take away what a power
//! cut would.
#![forbid(unsafe_code)]

pub mod faults;

use faults::Step;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// How names of unfinished files begin and end.
const UNFINISHED: [&str; 2] = [".nnz-", ".tmp"];

/// A file that has no name yet. Dropped, it is gone.
#[derive(Debug)]
pub struct Unfinished {
    file: File,
    at: PathBuf,
    to: PathBuf,
    kept: bool,
}

impl Unfinished {
    /// Begins a file that will be called `to`, in the folder where that lies.
    ///
    /// # Errors
    /// When the folder is not there or cannot be written to, or something else than a file has the name.
    pub fn new(to: &Path) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        if to.metadata().is_ok_and(|m| !m.is_file()) {
            return Err(io::Error::other("it is no regular file; give another name"));
        }
        faults::reach(Step::Create)?;
        loop {
            let n = NEXT.fetch_add(1, Ordering::Relaxed);
            let [begin, end] = UNFINISHED;
            let at = folder(to).join(format!("{begin}{}-{n}{end}", std::process::id()));
            match OpenOptions::new().read(true).write(true).create_new(true).open(&at) {
                Ok(file) => return Ok(Self { file, at, to: to.into(), kept: false }),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// To write to.
    pub fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Gives the file its name, in the place of one that had it, when its bytes are on disk.
    ///
    /// # Errors
    /// When the system refuses; then what had the name is as it was.
    pub fn keep(mut self) -> io::Result<()> {
        faults::reach(Step::Write(&self.at))?;
        faults::reach(Step::Sync(&self.at))?;
        self.file.sync_all()?;
        faults::reach(Step::Rename(&self.at, &self.to))?;
        fs::rename(&self.at, &self.to)?;
        self.kept = true;
        sync_folder(folder(&self.to))
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.kept && !faults::dead() {
            let _ = fs::remove_file(&self.at);
        }
    }
}

/// Writes a file whole or not at all.
///
/// # Errors
/// As [`Unfinished::new`] and [`Unfinished::keep`].
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = Unfinished::new(path)?;
    file.file().write_all(bytes)?;
    file.keep()
}

/// Writes behind what a file holds, and waits until it is on disk. A link is not followed.
///
/// # Errors
/// When there is no such file, or the system refuses; then some of the bytes may be there.
pub fn append(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = unlinked(OpenOptions::new().append(true)).open(path)?;
    faults::reach(Step::Append(path))?;
    file.write_all(bytes)?;
    faults::reach(Step::Sync(path))?;
    file.sync_data()
}

/// Leaves the first `length` bytes of a file. A link is not followed.
///
/// # Errors
/// When there is no such file, or the system refuses.
pub fn cut(path: &Path, length: u64) -> io::Result<()> {
    let file = unlinked(OpenOptions::new().write(true)).open(path)?;
    faults::reach(Step::Cut(path))?;
    file.set_len(length)?;
    faults::reach(Step::Sync(path))?;
    file.sync_data()
}

/// Removes a file; that it is not there is fine.
///
/// # Errors
/// When the system refuses.
pub fn remove(path: &Path) -> io::Result<()> {
    faults::reach(Step::Remove(path))?;
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => sync_folder(folder(path)),
    }
}

/// Makes a folder in `of`, with what lies between; none of them may be a link, which would lead out of `of`.
///
/// # Errors
/// When one is a link or a file, or the system refuses.
pub fn folder_in(of: &Path, inside: impl AsRef<Path>) -> io::Result<PathBuf> {
    let mut path = of.to_path_buf();
    for part in inside.as_ref() {
        path.push(part);
        match fs::symlink_metadata(&path) {
            Ok(m) if m.is_dir() => {}
            Ok(_) => {
                return Err(io::Error::other(format!(
                    "{} is no folder of its own, but a link or a file",
                    path.display()
                )));
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                faults::reach(Step::Folder(&path))?;
                fs::create_dir(&path)?;
                sync_folder(folder(&path))?;
            }
            Err(e) => return Err(e),
        }
    }
    Ok(path)
}

/// Opens a file to hold a lock on, and makes it where it is not there. Nothing of it is changed, and a link is not followed.
///
/// # Errors
/// When it is a link or no file, or the system refuses.
pub fn lock_file(path: &Path) -> io::Result<File> {
    match fs::symlink_metadata(path) {
        Ok(m) if !m.is_file() => Err(io::Error::other("it is no file of its own, but a link or a folder")),
        _ => unlinked(OpenOptions::new().append(true).create(true)).open(path),
    }
}

/// Whether a file of this name was left unfinished by a process that is gone or at work.
pub fn is_unfinished(name: &str) -> bool {
    name.starts_with(UNFINISHED[0]) && name.ends_with(UNFINISHED[1])
}

/// Where a file lies.
fn folder(path: &Path) -> &Path {
    path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Refuses to follow a link, between two looks too, where the system can.
fn unlinked(options: &mut OpenOptions) -> &mut OpenOptions {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(options, libc::O_NOFOLLOW);
    options
}

/// Waits until names in a folder are on disk.
fn sync_folder(path: &Path) -> io::Result<()> {
    faults::reach(Step::SyncFolder)?;
    #[cfg(unix)]
    match File::open(path).and_then(|f| f.sync_all()) {
        // Some network file systems know no such thing, and a folder may be written to and not read.
        Err(e)
            if !matches!(
                e.kind(),
                io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported | io::ErrorKind::PermissionDenied
            ) =>
        {
            return Err(e);
        }
        _ => {}
    }
    faults::synced(path);
    Ok(())
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn files_get_the_modes_of_the_users_mask() {
        let dir = tempfile::tempdir().unwrap();
        let (own, plain) = (dir.path().join("own"), dir.path().join("plain"));
        write(&own, b"1").unwrap();
        fs::write(&plain, b"1").unwrap();
        let mode = |p: &Path| p.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&own), mode(&plain));
        // Another mask, of a process of its own.
        if std::env::var_os("NNZ_DISK_MASKED").is_none() {
            let test = std::env::current_exe().unwrap();
            let run =
                format!("umask 077; exec {} --exact tests::files_get_the_modes_of_the_users_mask", test.display());
            let out = std::process::Command::new("sh").args(["-c", &run]).env("NNZ_DISK_MASKED", "1").output().unwrap();
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stdout));
        } else {
            assert_eq!(mode(&own), 0o600);
        }
    }

    #[test]
    fn links_are_not_followed_and_nothing_is_emptied() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("victim"), b"kept").unwrap();
        fs::create_dir(at("elsewhere")).unwrap();
        for name in ["lock", "history", "file"] {
            symlink(at("victim"), at(name)).unwrap();
        }
        symlink(at("elsewhere"), at("arms")).unwrap();
        symlink(at("nowhere"), at("dangling")).unwrap();
        assert!(
            lock_file(&at("lock")).is_err() && lock_file(&at("dangling")).is_err() && lock_file(&at("arms")).is_err()
        );
        assert!(append(&at("history"), b"x").is_err() && cut(&at("history"), 0).is_err());
        assert!(folder_in(dir.path(), "arms").is_err() && folder_in(dir.path(), "arms/more").is_err());
        assert!(folder_in(dir.path(), "victim").is_err() && folder_in(dir.path(), "a/b").unwrap().is_dir());
        // A file takes the place of a link, not of what it leads to.
        write(&at("file"), b"new").unwrap();
        assert_eq!(
            (fs::read(at("victim")).unwrap(), fs::read(at("file")).unwrap()),
            (b"kept".to_vec(), b"new".to_vec())
        );
        drop(lock_file(&at("victim")).unwrap());
        assert_eq!(fs::read(at("victim")).unwrap(), b"kept");
        assert!(!at("nowhere").exists() && fs::read_dir(at("elsewhere")).unwrap().next().is_none());
        assert!(write(&at("elsewhere"), b"").is_err());
        drop(Unfinished::new(&at("never")).unwrap());
        assert!(!fs::read_dir(dir.path()).unwrap().any(|e| is_unfinished(&e.unwrap().file_name().to_string_lossy())));
    }
}
