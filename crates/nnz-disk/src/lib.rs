//! Files of nnz on disk: written whole or not at all, kept through a power cut, and never through a link.
//!
//! Everything that nnz writes goes through these functions. A file gets its bytes under a temporary name next to it, is synced
//! and renamed, and its folder is synced; bytes appended to an existing file are synced before the next file may rely on
//! them. A writer holds a lock on its temporary file, so that the next one in that folder can tell those of dead processes, and
//! removes them. Modes follow the user's umask. [`faults`] lets a test stop at each of these steps and lose what a power
//! cut would.
#![forbid(unsafe_code)]

pub mod faults;

use faults::Step;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Prefix and suffix of unfinished files' names.
const UNFINISHED: [&str; 2] = [".nnz-", ".tmp"];

/// A file without its final name, locked against [`sweep`]. Removed when dropped.
#[derive(Debug)]
pub struct Unfinished {
    file: File,
    at: PathBuf,
    to: PathBuf,
    kept: bool,
}

impl Unfinished {
    /// Begins a file that will be renamed to `to`, in the same folder, which is [`sweep`]ed first.
    ///
    /// # Errors
    /// When the folder does not exist or cannot be written to, or something other than a file has the name.
    pub fn new(to: &Path) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        if to.metadata().is_ok_and(|m| !m.is_file()) {
            return Err(io::Error::other("it is no regular file; give another name"));
        }
        faults::reach(Step::Create)?;
        sweep(folder(to));
        loop {
            let n = NEXT.fetch_add(1, Ordering::Relaxed);
            let [begin, end] = UNFINISHED;
            let at = folder(to).join(format!("{begin}{}-{n}{end}", std::process::id()));
            let file = match OpenOptions::new().read(true).write(true).create_new(true).open(&at) {
                Ok(file) => file,
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(e) => return Err(e),
            };
            // Until it is locked, another process may take it for a dead one's: then that one removes it, and this one begins again.
            // A file system without locks has nobody who removes anything.
            match file.try_lock() {
                Err(TryLockError::WouldBlock) => continue,
                Ok(()) if !is_at(&file, &at) => continue,
                _ => return Ok(Self { file, at, to: to.into(), kept: false }),
            }
        }
    }

    /// The file, for writing.
    pub fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Renames the file, replacing an existing one, after its bytes are on disk.
    ///
    /// # Errors
    /// When the system refuses; then an existing file is unchanged.
    pub fn keep(mut self) -> io::Result<()> {
        faults::reach(Step::Write(&self.at))?;
        faults::reach(Step::Sync(&self.at))?;
        faults::wait(|| self.file.sync_all())?;
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

/// Appends to a file, and waits until the bytes are on disk. A link is not followed.
///
/// # Errors
/// When there is no such file, or the system refuses; then some of the bytes may be there.
pub fn append(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = unlinked(OpenOptions::new().append(true)).open(path)?;
    faults::reach(Step::Append(path))?;
    file.write_all(bytes)?;
    faults::reach(Step::Sync(path))?;
    faults::wait(|| file.sync_data())
}

/// Truncates a file to its first `length` bytes. A link is not followed.
///
/// # Errors
/// When there is no such file, or the system refuses.
pub fn cut(path: &Path, length: u64) -> io::Result<()> {
    let file = unlinked(OpenOptions::new().write(true)).open(path)?;
    faults::reach(Step::Cut(path))?;
    file.set_len(length)?;
    faults::reach(Step::Sync(path))?;
    faults::wait(|| file.sync_data())
}

/// Removes a file; a missing one is fine.
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

/// Creates a folder in `of`, with its parents; none of them may be a link, which would lead out of `of`.
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

/// Opens a file to hold a lock on, and creates it if missing. Its content is not changed, and a link is not followed.
///
/// # Errors
/// When it is a link or not a file, or the system refuses.
pub fn lock_file(path: &Path) -> io::Result<File> {
    match fs::symlink_metadata(path) {
        Ok(m) if !m.is_file() => Err(io::Error::other("it is no file of its own, but a link or a folder")),
        _ => unlinked(OpenOptions::new().append(true).create(true)).open(path),
    }
}

/// Whether a file of this name is unfinished, left by a dead process or in use by a live one.
pub fn is_unfinished(name: &str) -> bool {
    name.starts_with(UNFINISHED[0]) && name.ends_with(UNFINISHED[1])
}

/// Removes unfinished files of dead processes from a folder: those that nobody holds a lock on. Best effort, since they are
/// harmless.
pub fn sweep(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if is_unfinished(&entry.file_name().to_string_lossy()) && entry.file_type().is_ok_and(|t| t.is_file()) {
            let Ok(file) = unlinked(OpenOptions::new().read(true)).open(&path) else { continue };
            // Whoever holds the lock alone may take the file from its name: a live process holds that of its own, and one that just
            // created it gives up a name that it cannot lock. What was locked may have got its final name meanwhile.
            if file.try_lock().is_ok() && is_at(&file, &path) {
                let _ = fs::remove_file(&path);
            }
        }
    }
}

/// Whether an open file still has a name.
fn is_at(file: &File, path: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let place = |m: &fs::Metadata| (m.dev(), m.ino());
        matches!((file.metadata(), fs::symlink_metadata(path)), (Ok(a), Ok(b)) if place(&a) == place(&b))
    }
    #[cfg(not(unix))]
    {
        let _ = file;
        path.exists()
    }
}

/// Folder of a file.
fn folder(path: &Path) -> &Path {
    path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Refuses to follow a link, even one created meanwhile, where the system can.
fn unlinked(options: &mut OpenOptions) -> &mut OpenOptions {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(options, libc::O_NOFOLLOW);
    options
}

/// Waits until names in a folder are on disk.
fn sync_folder(path: &Path) -> io::Result<()> {
    faults::reach(Step::SyncFolder)?;
    #[cfg(unix)]
    match faults::wait(|| File::open(path)?.sync_all()) {
        // Some network file systems do not support it, and a folder may be writable but not readable.
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
        // Another umask, in a separate process.
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

    fn unfinished_in(dir: &Path) -> Vec<String> {
        let names = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned());
        names.filter(|name| is_unfinished(name)).collect()
    }

    /// The process that the next test kills.
    #[test]
    fn begins_a_file_and_waits() {
        let Some(dir) = std::env::var_os("NNZ_DISK_WAITS") else { return };
        let mut file = Unfinished::new(&Path::new(&dir).join("never")).unwrap();
        file.file().write_all(b"half").unwrap();
        fs::write(Path::new(&dir).join("begun"), "").unwrap();
        std::thread::sleep(std::time::Duration::from_secs(60));
    }

    #[test]
    fn the_next_writer_removes_what_dead_ones_left_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at(".nnz-9-0.tmp"), "half").unwrap();
        for kept in ["nnz-9-1.tmp", ".nnz-9-2", "victim"] {
            fs::write(at(kept), "kept").unwrap();
        }
        fs::create_dir(at(".nnz-folder.tmp")).unwrap();
        symlink(at("victim"), at(".nnz-link.tmp")).unwrap();
        let mine = Unfinished::new(&at("mine")).unwrap();
        assert!(!at(".nnz-9-0.tmp").exists(), "a dead one's file");
        let mut other = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "tests::begins_a_file_and_waits"])
            .env("NNZ_DISK_WAITS", dir.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        while !at("begun").exists() {
            assert!(other.try_wait().unwrap().is_none(), "it ended");
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        write(&at("file"), b"1").unwrap();
        assert_eq!(unfinished_in(dir.path()).len(), 4, "two live ones' files, a folder, a link");
        other.kill().unwrap();
        other.wait().unwrap();
        write(&at("file"), b"2").unwrap();
        assert_eq!(unfinished_in(dir.path()).len(), 3);
        mine.keep().unwrap();
        assert!(at(".nnz-folder.tmp").is_dir() && at(".nnz-link.tmp").is_symlink() && at("mine").is_file());
        for kept in ["nnz-9-1.tmp", ".nnz-9-2", "victim"] {
            assert_eq!(fs::read(at(kept)).unwrap(), b"kept", "{kept}");
        }
    }

    /// Writers and sweepers at once: between its creation and its lock a file looks like a dead one's, and a locked file that
    /// gets its final name leaves its old one to others.
    #[test]
    fn no_live_writers_file_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let writing = std::sync::atomic::AtomicUsize::new(3);
        std::thread::scope(|scope| {
            for writer in 0..3u8 {
                let (path, writing) = (dir.path().join(writer.to_string()), &writing);
                scope.spawn(move || {
                    for i in 0..2000u32 {
                        let bytes = [writer.to_le_bytes().to_vec(), i.to_le_bytes().to_vec()].concat();
                        write(&path, &bytes).unwrap();
                        assert_eq!(fs::read(&path).unwrap(), bytes);
                    }
                    writing.fetch_sub(1, Ordering::Relaxed);
                });
            }
            scope.spawn(|| {
                while writing.load(Ordering::Relaxed) > 0 {
                    sweep(dir.path());
                }
            });
        });
        assert!(unfinished_in(dir.path()).is_empty());
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
        // A file replaces a link, not its target.
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
