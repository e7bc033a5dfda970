//! The threads that kernels run on.
//!
//! If a program gives them the whole machine ([`build_in_main`]), every thread is pinned to one processor. Otherwise Linux may wake the workers of a
//! process that slept for a tenth of a second all on one processor, although others are idle, and takes 10 to 30 ms to notice
//! (its count of idle processors worth looking at, kept for each shared cache, is updated only now and then):
//! short bursts of computation would run at the speed of one thread.

use rayon::prelude::*;
use rayon::{ThreadPoolBuildError, ThreadPoolBuilder};
use std::cell::Cell;
use std::sync::OnceLock;

/// Builds rayon's global pool of `n` threads, as many as there are processors if 0, for a program that mainly
/// computes: call it in `main`, before anything else computes. The calling thread joins it for good, since handing every
/// product to another one would cost two context switches, and each is pinned to a processor if there are as many. A
/// thread that ends, or waits for other things, such as one of an asynchronous runtime, must not call it: whatever the pool
/// hands to all its threads would wait for that one.
///
/// A library needs none of this. Kernels run on whatever pool the program has, by default rayon's, which keeps no thread of
/// the caller and pins none.
///
/// # Errors
/// When a pool exists already, or the system gives no threads.
pub fn build_in_main(n: usize) -> Result<(), ThreadPoolBuildError> {
    ThreadPoolBuilder::new().num_threads(n).use_current_thread().build_global()?;
    pinning::pin();
    Ok(())
}

/// Processors given to the process, whatever its threads were bound to since; at least 1.
pub fn available() -> usize {
    pinning::given().unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
}

thread_local! {
    static ALONE: Cell<bool> = const { Cell::new(false) };
}

/// Runs kernels on the calling thread alone, as when another one does its own share meanwhile. Results are the same.
pub fn alone_within<R>(work: impl FnOnce() -> R) -> R {
    struct Before(bool);
    impl Drop for Before {
        fn drop(&mut self) {
            ALONE.set(self.0);
        }
    }
    let _before = Before(ALONE.replace(true));
    work()
}

/// Whether the calling thread shall compute alone.
pub(crate) fn alone_by_wish() -> bool {
    ALONE.get()
}

/// Whether the calling thread computes alone: if it shall, or if there is one thread, since work that is handed to that one comes back
/// two context switches later.
pub(crate) fn alone() -> bool {
    count() == 1
}

/// Threads that kernels of the calling thread run on.
pub fn count() -> usize {
    match ALONE.get() {
        true => 1,
        false => crate::team::size().unwrap_or_else(rayon::current_num_threads),
    }
}

/// Whether the calling thread leads or helps a [team](crate::OpenMp::lead).
pub fn helped() -> bool {
    crate::team::size().is_some()
}

/// Calls `f` for every number below `n`, on the threads of the [team](crate::OpenMp::lead) that the caller belongs to, else on rayon's.
///
/// Not generic: rayon's machinery, a thousand lines, would be compiled for every function, and functions of
/// [`elementwise`](crate::elementwise) come from every crate. A call through a pointer is nothing beside a chunk of work.
pub(crate) fn each(n: usize, f: &(dyn Fn(usize) + Sync)) {
    if n <= 1 || alone() {
        (0..n).for_each(f);
    } else if let Some(all) = crate::team::spread((0..n).collect(), f) {
        all.into_par_iter().with_max_len(1).for_each(f);
    }
}

/// Does jobs, in any order, on the threads that kernels run on. Kernels called by a job use them, too.
pub fn spread<J: Send>(jobs: Vec<J>, work: impl Fn(J) + Sync + Send) {
    if jobs.len() <= 1 || alone() {
        jobs.into_iter().for_each(work);
    } else if let Some(jobs) = crate::team::spread(jobs, &work) {
        jobs.into_par_iter().for_each(work);
    }
}

/// Frees the calling thread, and those it will start, to run on every processor given to the process. New threads and
/// programs inherit the processor of the thread that starts them.
pub fn anywhere() {
    pinning::free();
}

/// Returns the value of a cell, made if it is empty: outside of the cell, since who fills one with the work of many threads may
/// come to wait for itself there. Two concurrent callers make it twice.
pub fn filled<T>(cell: &OnceLock<T>, make: impl FnOnce() -> T) -> &T {
    if let Some(there) = cell.get() {
        return there;
    }
    let made = make();
    cell.get_or_init(|| made)
}

#[cfg(target_os = "linux")]
mod pinning {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
    use std::sync::OnceLock;

    /// The processors of the process before its threads were pinned; unset if they were not.
    static GIVEN: OnceLock<CpuSet> = OnceLock::new();

    /// Pins the threads of the global pool if they are as many as the processors. Only speed depends on it, so a
    /// system that refuses is not asked again.
    pub fn pin() {
        let Ok(given) = sched_getaffinity(None) else { return };
        let cpus: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|&cpu| given.is_set(cpu)).collect();
        if cpus.len() < 2 || cpus.len() != rayon::current_num_threads() {
            return;
        }
        let _ = GIVEN.set(given);
        rayon::broadcast(|thread| {
            let mut own = CpuSet::new();
            own.set(cpus[thread.index()]);
            let _ = sched_setaffinity(None, &own);
        });
    }

    pub fn given() -> Option<usize> {
        GIVEN.get().map(|cpus| cpus.count() as usize)
    }

    pub fn free() {
        if let Some(given) = GIVEN.get() {
            let _ = sched_setaffinity(None, given);
        }
    }

    #[cfg(test)]
    mod tests {
        #[test]
        fn what_a_pinned_thread_starts_may_run_anywhere() {
            let before = super::sched_getaffinity(None).unwrap();
            // Other tests also use the global pool and may have made it.
            super::pin();
            let cpus = before.count() as usize;
            assert_eq!(crate::threads::available(), cpus);
            let whole = cpus > 1 && cpus == rayon::current_num_threads();
            let seen = rayon::broadcast(|_| {
                let own = super::sched_getaffinity(None).unwrap().count() as usize;
                let freed = std::thread::spawn(|| {
                    crate::threads::anywhere();
                    super::sched_getaffinity(None).unwrap()
                });
                (own, freed.join().unwrap())
            });
            for (own, freed) in seen {
                assert_eq!((own, freed), (if whole { 1 } else { cpus }, before));
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod pinning {
    pub fn pin() {}
    pub fn free() {}
    pub fn given() -> Option<usize> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alone_ends_with_the_work_however_it_ends() {
        let before = alone();
        assert!(alone_within(|| alone_within(alone) && alone()));
        assert!(std::panic::catch_unwind(|| alone_within(|| panic!("ends"))).is_err());
        assert_eq!(alone(), before);
    }

    /// A thread that fills a cell by parallel work may take over a task that wants the same cell: it must not wait for itself.
    #[test]
    fn a_cell_that_is_being_filled_can_be_asked_for() {
        let (done, wait) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let cell = OnceLock::new();
            let outer = *filled(&cell, || 1 + *filled(&cell, || 1));
            done.send((outer, cell.into_inner())).unwrap();
        });
        let found = wait.recv_timeout(std::time::Duration::from_secs(60));
        assert_eq!(found, Ok((1, Some(1))), "the first value made stays");
    }
}
