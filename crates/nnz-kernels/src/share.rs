//! Jobs that the calling thread shares with others, without waiting for one that comes late.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Looks at jobs of others that are under way before the caller sleeps: to be woken takes as long.
const PATIENCE: u32 = 1 << 12;

/// Does jobs, in any order, on the calling thread and on up to `others` more, to which `spawn` hands what it is given.
///
/// Whoever waits for threads of a pool waits until the system has woken them, which takes milliseconds where cores are busy, as those are on
/// which threads of another pool wait for more. The caller here does what nobody has begun, and waits for jobs that are under way
/// alone: what comes later finds nothing to do.
///
/// # Panics
/// When a job does, after all that are under way.
pub fn share<J: Send>(others: usize, spawn: impl Fn(Box<dyn FnOnce() + Send>), jobs: Vec<J>, work: impl Fn(J) + Sync) {
    let others = others.min(jobs.len().saturating_sub(1));
    let queue = Mutex::new(jobs.into_iter());
    // The lock is free again before a job begins.
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let take = || std::iter::from_fn(next).for_each(&work);
    if others == 0 {
        return take();
    }
    let gate = Arc::new(Gate::default());
    let task: &(dyn Fn() + Sync) = &take;
    // SAFETY: only the lifetime changes; `Task` says who may use it, and when.
    let task = Task(unsafe { std::mem::transmute::<*const (dyn Fn() + Sync + '_), *const (dyn Fn() + Sync)>(task) });
    {
        // Before anything that the task borrows is gone, also when a job of this thread panics.
        let _closed = Close(&gate);
        for _ in 0..others {
            let gate = gate.clone();
            spawn(Box::new(move || gate.pass(&task)));
        }
        take();
    }
    if let Some(why) = gate.inside().panic.take() {
        resume_unwind(why);
    }
}

/// Work of a caller that waits until nobody is inside the gate.
#[derive(Clone, Copy)]
struct Task(*const (dyn Fn() + Sync));
// SAFETY: what it points to may be called by any thread; it is called inside the gate alone.
unsafe impl Send for Task {}

#[derive(Default)]
struct Gate {
    inside: Mutex<Inside>,
    left: Condvar,
    /// Those inside, to be seen without a lock.
    busy: AtomicUsize,
}

#[derive(Default)]
struct Inside {
    closed: bool,
    count: usize,
    panic: Option<Box<dyn Any + Send>>,
}

impl Gate {
    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does the task, unless the gate is closed.
    fn pass(&self, task: &Task) {
        {
            let mut inside = self.inside();
            if inside.closed {
                return;
            }
            inside.count += 1;
            self.busy.store(inside.count, Ordering::Relaxed);
        }
        // SAFETY: the caller made the task of what it borrows, and does not go on before this is counted out.
        let done = catch_unwind(AssertUnwindSafe(|| unsafe { (*task.0)() }));
        let mut inside = self.inside();
        inside.count -= 1;
        if let Err(why) = done {
            inside.panic.get_or_insert(why);
        }
        self.busy.store(inside.count, Ordering::Release);
        self.left.notify_all();
    }
}

/// Closes a gate, and waits for those inside, when dropped.
struct Close<'a>(&'a Gate);

impl Drop for Close<'_> {
    fn drop(&mut self) {
        self.0.inside().closed = true;
        for _ in 0..PATIENCE {
            if self.0.busy.load(Ordering::Acquire) == 0 {
                return;
            }
            std::hint::spin_loop();
        }
        let mut inside = self.0.inside();
        while inside.count > 0 {
            inside = self.0.left.wait(inside).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn thread(work: Box<dyn FnOnce() + Send>) {
        std::thread::spawn(work);
    }

    #[test]
    fn every_job_is_done_once() {
        for (others, count) in [(0, 5), (1, 0), (1, 1), (3, 2), (4, 1000)] {
            let mut done = vec![0; count];
            share(others, thread, done.iter_mut().enumerate().collect(), |(i, to)| *to += i + 1);
            assert!(done.iter().enumerate().all(|(i, &d)| d == i + 1), "{count} jobs on {others} more threads");
        }
    }

    #[test]
    fn who_comes_late_or_never_is_not_waited_for() {
        let late = Mutex::new(Vec::new());
        let done = AtomicUsize::new(0);
        share(
            3,
            |work| late.lock().unwrap().push(work),
            vec![(); 10],
            |()| {
                done.fetch_add(1, Ordering::Relaxed);
            },
        );
        assert_eq!(done.load(Ordering::Relaxed), 10);
        let mut late = late.into_inner().unwrap();
        drop(late.pop());
        late.into_iter().for_each(|work| work());
        assert_eq!(done.load(Ordering::Relaxed), 10);
    }

    #[test]
    fn what_is_under_way_is_waited_for() {
        let done = AtomicUsize::new(0);
        share(4, thread, vec![(); 40], |()| {
            std::thread::sleep(Duration::from_millis(2));
            done.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(done.load(Ordering::Relaxed), 40);
    }

    #[test]
    fn a_job_that_panics_is_heard_of_wherever_it_runs() {
        for bad in 0..8 {
            let borrowed = Box::new([1u8; 64]);
            let run = || {
                share(2, thread, (0..8).collect(), |i: usize| {
                    std::thread::sleep(Duration::from_millis(1));
                    assert!(i != bad && borrowed.iter().all(|&b| b == 1), "job {i}");
                });
            };
            let why = catch_unwind(AssertUnwindSafe(run)).unwrap_err();
            assert_eq!(*why.downcast::<String>().unwrap(), format!("job {bad}"));
        }
    }
}
