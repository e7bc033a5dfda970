//! The threads that compute: rayon's, which do not survive a fork.

use rayon::{ThreadPool, ThreadPoolBuilder};
use std::process::id;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// The process that began to compute.
static FIRST: OnceLock<u32> = OnceLock::new();
/// Threads of a process that was forked from it, and that process.
static OWN: Mutex<Option<(u32, Arc<ThreadPool>)>> = Mutex::new(None);

/// Computes on rayon's threads, or, in a process that was forked since they started, on threads of its own: it would wait for the
/// others forever.
pub fn computing<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    match own() {
        Some(pool) => pool.install(work),
        None => work(),
    }
}

/// Hands work to one of the threads that [`computing`] uses. Its products are then not handed over one by one.
pub fn spawn(work: impl FnOnce() + Send + 'static) {
    match own() {
        Some(pool) => pool.spawn(work),
        None => rayon::spawn(work),
    }
}

/// The threads of a process that was forked; none in the first one, which has rayon's.
fn own() -> Option<Arc<ThreadPool>> {
    let process = id();
    if *FIRST.get_or_init(id) == process {
        return None;
    }
    let mut own = OWN.lock().unwrap_or_else(PoisonError::into_inner);
    match &*own {
        Some((of, pool)) if *of == process => Some(pool.clone()),
        _ => {
            let pool = ThreadPoolBuilder::new().build().ok()?;
            // That of the process before has no threads here to wait for.
            std::mem::forget(own.take());
            Some(own.insert((process, Arc::new(pool))).1.clone())
        }
    }
}

/// Threads that compute.
pub fn threads() -> usize {
    own().map_or_else(rayon::current_num_threads, |pool| pool.current_num_threads())
}

/// Does jobs, in any order, on the calling thread and on those that compute, of which it waits for none. Kernels called by a job stay on its
/// thread.
pub fn share<J: Send>(jobs: Vec<J>, work: impl Fn(J) + Sync) {
    nnz_kernels::share(threads() - 1, spawn, jobs, work);
}
