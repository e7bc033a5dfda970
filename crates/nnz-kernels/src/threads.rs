//! The threads that kernels run on.
//!
//! Where they take the whole machine, every thread keeps to a processor of its own. Otherwise Linux may wake the workers of a
//! process that slept for a tenth of a second all on one processor, although others are idle, and takes 10 to 30 ms to notice
//! (its count of idle processors worth looking at, kept for each shared cache, is brought up to date only now and then):
//! whoever computes in short bursts would have the speed of one thread.

use rayon::{ThreadPoolBuildError, ThreadPoolBuilder};

/// Makes rayon's global pool of `n` threads, as many as there are processors if 0. The calling thread is one of them, since
/// handing every product to another one would cost two switches of context.
///
/// # Errors
/// When there is a pool already, or the system gives no threads.
pub fn build(n: usize) -> Result<(), ThreadPoolBuildError> {
    ThreadPoolBuilder::new().num_threads(n).use_current_thread().build_global()?;
    pinning::pin();
    Ok(())
}

/// Processors the process was given, whatever its threads were bound to since; at least 1.
pub fn available() -> usize {
    pinning::given().unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
}

/// Frees the calling thread, and what it will start, to run on every processor the process was given. New threads and
/// programs inherit the processor of the thread that starts them.
pub fn anywhere() {
    pinning::free();
}

#[cfg(target_os = "linux")]
mod pinning {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
    use std::sync::OnceLock;

    /// The processors of the process before its threads were pinned; none when they were not.
    static GIVEN: OnceLock<CpuSet> = OnceLock::new();

    /// Pins the threads of the global pool if they are as many as the processors. Speed is all that depends on it, so that a
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
            // Other tests use the global pool, too, and may have made it.
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
