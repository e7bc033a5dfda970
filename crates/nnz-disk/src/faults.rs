//! Stopping at a step of a file system, for tests: [`after`] names how many steps are still done, [`cut`] then takes away what a
//! power cut would. In a process that never calls these, a step costs the look at a number.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Something that is about to be done.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step<'a> {
    /// A temporary file begins.
    Create,
    /// Its bytes were handed over.
    Write(&'a Path),
    /// Bytes go to disk.
    Sync(&'a Path),
    /// It gets its name.
    Rename(&'a Path, &'a Path),
    /// Bytes are written behind those of a file.
    Append(&'a Path),
    /// A file is cut.
    Cut(&'a Path),
    /// A file goes.
    Remove(&'a Path),
    /// A folder is made.
    Folder(&'a Path),
    /// Names of a folder go to disk.
    SyncFolder,
}

/// What would be lost, and how many steps are left.
#[derive(Default)]
struct Plan {
    left: u64,
    done: u64,
    /// Files whose bytes are not on disk, with those that are.
    bytes: BTreeMap<PathBuf, Vec<u8>>,
    /// Names that are not on disk, with what had them, in the order in which they were given.
    names: Vec<(PathBuf, Option<Vec<u8>>)>,
    folders: Vec<PathBuf>,
}

static ON: AtomicBool = AtomicBool::new(false);
static DEAD: AtomicBool = AtomicBool::new(false);
static PLAN: Mutex<Option<Plan>> = Mutex::new(None);

fn plan() -> MutexGuard<'static, Option<Plan>> {
    PLAN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lets `steps` more steps be done in this process and none after them, as if it had been killed. Whoever wants to go on calls
/// [`cut`] first.
#[doc(hidden)]
pub fn after(steps: u64) {
    *plan() = Some(Plan { left: steps, ..Plan::default() });
    DEAD.store(false, Ordering::SeqCst);
    ON.store(true, Ordering::SeqCst);
}

/// Takes away what was not on disk: bytes that were not synced, names in folders that were not. With `kill` alone nothing is lost,
/// as when a process dies and the machine does not. Answers how many steps were done.
///
/// # Panics
/// When a file cannot be put back.
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
    // What lies in a folder that is not there is not there.
    plan.folders.iter().rev().for_each(|f| drop(fs::remove_dir_all(f)));
    plan.done
}

/// Whether the process is taken for dead.
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
        // Of bytes that are not synced, none may be there.
        Step::Write(path) => drop(plan.bytes.insert(path.into(), Vec::new())),
        Step::Append(path) | Step::Cut(path) => drop(plan.bytes.insert(path.into(), held(path).unwrap_or_default())),
        Step::Sync(path) => drop(plan.bytes.remove(path)),
        Step::Rename(from, to) => {
            // A name may come to disk before the bytes.
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

/// Names in a folder are on disk.
pub(crate) fn synced(folder: &Path) {
    if !ON.load(Ordering::Relaxed) {
        return;
    }
    if let Some(plan) = plan().as_mut() {
        plan.names.retain(|(path, _)| crate::folder(path) != folder);
        plan.folders.retain(|path| crate::folder(path) != folder);
    }
}
