//! Threads that do not fall asleep between two products.

use std::sync::atomic::{AtomicBool, Ordering};

/// Runs `f` while the other threads of the rayon pool wait for work actively, as OpenMP's do.
///
/// A training step is a row of products of a tenth of a millisecond with a little serial work between them. Waking a
/// sleeping thread for each costs as much as the product. Results do not change.
pub fn awake<R>(f: impl FnOnce() -> R) -> R {
    struct Done<'a>(&'a AtomicBool);
    impl Drop for Done<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Release);
        }
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let others = rayon::current_num_threads().min(cores) - 1;
    let done = AtomicBool::new(false);
    rayon::in_place_scope(|scope| {
        for _ in 0..others {
            scope.spawn(|_| {
                while !done.load(Ordering::Acquire) {
                    if rayon::yield_now() != Some(rayon::Yield::Executed) {
                        std::hint::spin_loop();
                    }
                }
            });
        }
        // Also when `f` panics.
        let _done = Done(&done);
        f()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rayon::prelude::*;

    #[test]
    fn work_inside_is_done_and_panics_come_out() {
        assert_eq!(awake(|| (0..1000u64).into_par_iter().sum::<u64>()), 499_500);
        assert_eq!(awake(|| awake(|| 7)), 7);
        assert!(std::panic::catch_unwind(|| awake(|| panic!("inside"))).is_err());
    }
}
