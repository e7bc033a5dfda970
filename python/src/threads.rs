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
    let process = id();
    if *FIRST.get_or_init(id) == process {
        return work();
    }
    let mut own = OWN.lock().unwrap_or_else(PoisonError::into_inner);
    let pool = match &*own {
        Some((of, pool)) if *of == process => pool.clone(),
        _ => match ThreadPoolBuilder::new().build() {
            Ok(pool) => {
                // That of the process before has no threads here to wait for.
                std::mem::forget(own.take());
                own.insert((process, Arc::new(pool))).1.clone()
            }
            Err(_) => return work(),
        },
    };
    drop(own);
    pool.install(work)
}
