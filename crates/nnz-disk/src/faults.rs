//! Stopping at a step of a file system, for tests: [`after`] sets how many more steps are done, [`cut`] then removes what a
//! power cut would lose; [`unsynced`] spares a test that saves often the time that a disk takes. In a process that never calls
//! these, a step costs one check of a number.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A step about to be done.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step<'a> {
    /// A temporary file is created.
    Create,
    /// Its bytes are written.
    Write(&'a Path),
    /// Bytes are synced to disk.
    Sync(&'a Path),
    /// It is renamed.
    Rename(&'a Path, &'a Path),
    /// Bytes are appended to a file.
    Append(&'a Path),
    /// A file is truncated.
    Cut(&'a Path),
    /// A file is removed.
    Remove(&'a Path),
    /// A folder is created.
    Folder(&'a Path),
    /// Names of a folder are synced to disk.
    SyncFolder,
}

/// What would be lost, and the number of steps left.
#[derive(Default)]
struct Plan {
    left: u64,
    done: u64,
    /// Files whose bytes are not synced, with their synced content.
    bytes: BTreeMap<PathBuf, Vec<u8>>,
    /// Names that are not synced, with their previous content, in order.
    names: Vec<(PathBuf, Option<Vec<u8>>)>,
    folders: Vec<PathBuf>,
}

static ON: AtomicBool = AtomicBool::new(false);
static DEAD: AtomicBool = AtomicBool::new(false);
static UNSYNCED: AtomicBool = AtomicBool::new(false);
static PLAN: Mutex<Option<Plan>> = Mutex::new(None);

fn plan() -> MutexGuard<'static, Option<Plan>> {
    PLAN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Allows `steps` more steps in this process and none after them, as if it had been killed. Call
/// [`cut`] before going on.
#[doc(hidden)]
pub fn after(steps: u64) {
    *plan() = Some(Plan { left: steps, ..Plan::default() });
    DEAD.store(false, Ordering::SeqCst);
    ON.store(true, Ordering::SeqCst);
}

/// Removes everything unsynced: bytes that were not synced, names in folders that were not. With `kill` alone nothing is lost,
/// as when a process dies and the machine does not. Returns the number of steps done.
///
/// # Panics
/// When a file cannot be restored.
#[doc(hidden)]
pub fn cut(kill: bool) -> u64 {
    ON.store(false, Ordering::SeqCst);
    DEAD.store(false, Ordering::SeqCst);
    let Some(plan) = plan().take() else { return 0 };
    if kill {
        return plan.done;
    }
    for (path, bytes) in plan.bytes.iter().filter(|(p, _)| p.exists()) {
        fs::write(path, bytes).expect("bytes before the cut");
    }
    for (path, before) in plan.names.iter().rev() {
        match before {
            Some(bytes) => fs::write(path, bytes).expect("a name before the cut"),
            None => drop(fs::remove_file(path)),
        }
    }
    // A folder that is lost takes its files along.
    plan.folders.iter().rev().for_each(|f| drop(fs::remove_dir_all(f)));
    plan.done
}

/// From now on this process writes files as always, but does not wait until they are on disk.
#[doc(hidden)]
pub fn unsynced() {
    UNSYNCED.store(true, Ordering::SeqCst);
}

/// Waits until `sync` is done, unless this process plays a power cut, for which [`cut`] knows what is on disk, or is [`unsynced`].
pub(crate) fn wait(sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    if ON.load(Ordering::Relaxed) || UNSYNCED.load(Ordering::Relaxed) { Ok(()) } else { sync() }
}

/// Whether the process counts as dead.
pub(crate) fn dead() -> bool {
    DEAD.load(Ordering::Relaxed)
}

pub(crate) fn reach(step: Step<'_>) -> io::Result<()> {
    if !ON.load(Ordering::Relaxed) {
        return Ok(());
    }
    let mut plan = plan();
    let Some(plan) = plan.as_mut() else { return Ok(()) };
    if plan.left == 0 {
        DEAD.store(true, Ordering::SeqCst);
        return Err(io::Error::other("the test's power cut"));
    }
    (plan.left, plan.done) = (plan.left - 1, plan.done + 1);
    let held = |path: &Path| fs::read(path).ok();
    match step {
        Step::Create => {}
        // Any part of unsynced bytes may be lost.
        Step::Write(path) => drop(plan.bytes.insert(path.into(), Vec::new())),
        Step::Append(path) | Step::Cut(path) => drop(plan.bytes.insert(path.into(), held(path).unwrap_or_default())),
        Step::Sync(path) => drop(plan.bytes.remove(path)),
        Step::Rename(from, to) => {
            // A name may be synced before the bytes.
            if let Some(lost) = plan.bytes.remove(from) {
                plan.bytes.insert(to.into(), lost);
            } else {
                plan.names.push((to.into(), held(to)));
            }
        }
        Step::Remove(path) => plan.names.push((path.into(), held(path))),
        Step::Folder(path) => plan.folders.push(path.into()),
        Step::SyncFolder => {}
    }
    Ok(())
}

/// Marks the names in a folder as synced.
pub(crate) fn synced(folder: &Path) {
    if !ON.load(Ordering::Relaxed) {
        return;
    }
    if let Some(plan) = plan().as_mut() {
        plan.names.retain(|(path, _)| crate::folder(path) != folder);
        plan.folders.retain(|path| crate::folder(path) != folder);
    }
}
