//! The threads that compute: rayon's, which do not survive a fork, and for `nnz.torch` those of PyTorch.

use nnz_kernels::OpenMp;
use nnz_kernels::threads::{alone_within, count, helped, spread};
use pyo3::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::cell::Cell;
use std::process::id;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// The process that began to compute.
static FIRST: OnceLock<u32> = OnceLock::new();
/// Threads of a process that was forked from it, and that process.
static OWN: Mutex<Option<(u32, Arc<ThreadPool>)>> = Mutex::new(None);
/// The OpenMP of PyTorch, the process that loaded it, and the function that says how many of its threads PyTorch uses.
static TORCH: Mutex<Option<Beside>> = Mutex::new(None);
type Beside = (OpenMp, u32, Arc<Py<PyAny>>);

/// Numbers and products of work that is worth waking others for: about half a millisecond.
const LONG: usize = 1 << 22;
/// For how long others are taken to be awake after work of this thread: less than threads of OpenMP spin.
const AWAKE: Duration = Duration::from_millis(2);

thread_local! {
    /// Whether PyTorch told OpenMP how many threads this one may use.
    static TOLD: Cell<bool> = const { Cell::new(false) };
    /// When this one last had work that was worth others if they were awake.
    static LAST: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Whether work of so many numbers and products is worth PyTorch's other threads. Short work is if more of it came just before: threads that sleep
/// come later than it takes.
pub fn worth(size: usize, least: usize) -> bool {
    let lately = || {
        let now = Instant::now();
        LAST.replace(Some(now)).is_some_and(|last| now.duration_since(last) < AWAKE)
    };
    size >= least && (size >= LONG || lately())
}

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

/// Threads that [`computing`] uses.
pub fn threads() -> usize {
    own().map_or_else(rayon::current_num_threads, |pool| pool.current_num_threads())
}

fn torch_of() -> MutexGuard<'static, Option<Beside>> {
    TORCH.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lets the layers of `nnz.torch` compute on PyTorch's threads of OpenMP, of which `threads()` says how many there are, or, with None, on
/// rayon's again. Whether it can be so: where no library shows its OpenMP they stay at rayon's, and so do processes that are forked later.
#[pyfunction]
pub fn compute_beside(threads: Option<Py<PyAny>>) -> bool {
    let found = threads.and_then(|threads| Some((OpenMp::find()?, id(), Arc::new(threads))));
    let is = found.is_some();
    *torch_of() = found;
    is
}

/// PyTorch's threads, for some work of `nnz.torch`. Rayon's would wait for a core that PyTorch's keep busy, since these spin when they have
/// nothing to do.
pub struct Torch(Option<OpenMp>);

/// PyTorch's threads, or the calling one alone for work that is not worth another; none where PyTorch has no such threads.
pub fn torch(worth: bool) -> Option<Torch> {
    let (openmp, ask) = match &*torch_of() {
        Some((openmp, process, ask)) if *process == id() => (*openmp, ask.clone()),
        _ => return None,
    };
    // PyTorch tells OpenMP so in each thread when it first computes there, or is asked.
    if worth && !TOLD.get() {
        TOLD.set(Python::attach(|py| ask.call0(py).is_ok()));
    }
    Some(Torch((worth && TOLD.get()).then_some(openmp)))
}

impl Torch {
    /// Does work that begins on the calling thread, and of which [`share`], [`spread`] and kernels hand parts to the others.
    pub fn run<R>(self, work: impl FnOnce() -> R) -> R {
        match self.0 {
            Some(openmp) => openmp.lead(work),
            None => alone_within(work),
        }
    }
}

/// Does jobs, in any order, on the calling thread and on those that compute, of which it waits for none. Kernels called by a job stay on its
/// thread.
pub fn share<J: Send>(jobs: Vec<J>, work: impl Fn(J) + Sync + Send) {
    let work = |job: J| alone_within(|| work(job));
    if helped() {
        return spread(jobs, work);
    }
    let threads = threads();
    nnz_kernels::share(if count() == 1 { 0 } else { threads - 1 }, spawn, jobs, work);
}
