//! Threads of OpenMP, on which another library of the process computes.
//!
//! A thread of OpenMP that has nothing to do spins for some ten milliseconds in the hope of more. The threads of a pool beside it then wait for a
//! core, each time for longer than a product takes. Who computes in turn with such a library therefore computes on its threads, which
//! begin at once.

use std::any::Any;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::share::share;
use crate::threads::alone_within;

/// The function of OpenMP's run-time library that calls another one on each thread of a team, the calling thread among them, and waits for all.
/// So many threads, or as many as the calling thread usually has if 0.
type Parallel = unsafe extern "C" fn(extern "C" fn(*mut ()), *mut (), u32, u32);
/// The one that says how many those are.
type Threads = unsafe extern "C" fn() -> i32;

/// The OpenMP of a library in this process.
#[derive(Clone, Copy, Debug)]
pub struct OpenMp {
    parallel: Parallel,
    threads: Threads,
}

/// Looks of a thread without work at its list before it lets others run.
const PATIENCE: u32 = 1 << 10;

thread_local! {
    static TEAM: RefCell<Option<Arc<Team>>> = const { RefCell::new(None) };
}

/// What helpers of a leading thread shall do.
#[derive(Default)]
struct Team {
    threads: usize,
    tasks: Mutex<VecDeque<Box<dyn FnOnce() + Send>>>,
    /// How many those are, to be seen without a lock.
    waiting: AtomicUsize,
    over: AtomicBool,
}

impl Team {
    fn tasks(&self) -> MutexGuard<'_, VecDeque<Box<dyn FnOnce() + Send>>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hand(&self, task: Box<dyn FnOnce() + Send>) {
        self.tasks().push_back(task);
        self.waiting.fetch_add(1, Ordering::Release);
    }

    fn next(&self) -> Option<Box<dyn FnOnce() + Send>> {
        if self.waiting.load(Ordering::Acquire) == 0 {
            return None;
        }
        let task = self.tasks().pop_front()?;
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        Some(task)
    }

    /// Does tasks until the work of the leader is over.
    fn help(&self) {
        let mut looks = 0u32;
        while !self.over.load(Ordering::Acquire) {
            if let Some(task) = self.next() {
                task();
                looks = 0;
                continue;
            }
            looks += 1;
            match looks % PATIENCE {
                0 => std::thread::yield_now(),
                _ => std::hint::spin_loop(),
            }
        }
    }
}

/// The team that the calling thread leads or helps.
fn own() -> Option<Arc<Team>> {
    TEAM.with_borrow(Clone::clone)
}

/// Threads of that team.
pub(crate) fn size() -> Option<usize> {
    TEAM.with_borrow(|team| team.as_ref().map(|team| team.threads))
}

/// Does jobs, in any order, on the threads of that team; gives them back where there is none.
pub(crate) fn spread<J: Send>(jobs: Vec<J>, work: impl Fn(J) + Sync) -> Option<Vec<J>> {
    let Some(team) = own() else { return Some(jobs) };
    share(team.threads - 1, |task| team.hand(task), jobs, work);
    None
}

/// Makes the calling thread a member of a team, until this is dropped.
struct Member;

impl Member {
    fn of(team: Arc<Team>) -> Self {
        TEAM.set(Some(team));
        Self
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        TEAM.set(None);
    }
}

/// What the threads of a team are given.
struct Region<'a> {
    team: Arc<Team>,
    lead: *mut (dyn FnMut() + 'a),
}

extern "C" fn enter(region: *mut ()) {
    // SAFETY: `OpenMp::lead` passes a `Region`, and does not go on before all threads are back.
    let region = unsafe { &*region.cast_const().cast::<Region<'_>>() };
    if own().is_some_and(|team| Arc::ptr_eq(&team, &region.team)) {
        // SAFETY: only the thread that called `OpenMp::lead` is a member before it enters, so no other one calls this.
        unsafe { (*region.lead)() }
        region.team.over.store(true, Ordering::Release);
    } else {
        let _member = Member::of(region.team.clone());
        region.team.help();
    }
}

impl OpenMp {
    /// That of a library in this process which shows it to all others, as PyTorch's is on Linux.
    #[cfg(target_os = "linux")]
    pub fn find() -> Option<Self> {
        let symbol = |name: &std::ffi::CStr| {
            // SAFETY: looks a name up.
            let at = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
            (!at.is_null()).then_some(at)
        };
        let (parallel, threads) = (symbol(c"GOMP_parallel")?, symbol(c"omp_get_max_threads")?);
        // SAFETY: the run-time libraries of GCC and LLVM have them under these names with these types, since version 4.0 of OpenMP.
        unsafe {
            Some(Self {
                parallel: std::mem::transmute::<*mut libc::c_void, Parallel>(parallel),
                threads: std::mem::transmute::<*mut libc::c_void, Threads>(threads),
            })
        }
    }

    /// None is known on this system.
    #[cfg(not(target_os = "linux"))]
    pub fn find() -> Option<Self> {
        None
    }

    /// Threads that a team of the calling thread has.
    pub fn threads(self) -> usize {
        // SAFETY: it has no conditions.
        usize::try_from(unsafe { (self.threads)() }).unwrap_or(1).max(1)
    }

    /// Does work on the calling thread, whose kernels have the help of a team meanwhile; within such work, just does it. Results are the same.
    ///
    /// A process that was forked from one with such a team must not call it: it would wait for threads that it does not have.
    pub fn lead<R>(self, work: impl FnOnce() -> R) -> R {
        if crate::threads::alone_by_wish() || size().is_some() {
            return work();
        }
        let threads = self.threads();
        if threads == 1 {
            return alone_within(work);
        }
        let team = Arc::new(Team { threads, ..Team::default() });
        let (mut work, mut done) = (Some(work), None::<Result<R, Box<dyn Any + Send>>>);
        let mut lead = || done = work.take().map(|work| catch_unwind(AssertUnwindSafe(work)));
        let mut region = Region { team: team.clone(), lead: &mut lead };
        {
            let _member = Member::of(team);
            // SAFETY: `enter` takes the region, does not unwind, and is back on all threads when this is.
            unsafe { (self.parallel)(enter, (&raw mut region).cast(), threads as u32, 0) }
        }
        match done.expect("the calling thread is one of its team") {
            Ok(answer) => answer,
            Err(why) => resume_unwind(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::random;
    use crate::threads::{alone, spread};
    use crate::{Csr, Plan, Tiled, Tuning};

    /// As OpenMP does it.
    extern "C" fn parallel(enter: extern "C" fn(*mut ()), region: *mut (), threads: u32, _: u32) {
        let region = region as usize;
        std::thread::scope(|scope| {
            (1..threads).for_each(|_| drop(scope.spawn(move || enter(region as *mut ()))));
            enter(region as *mut ());
        });
    }

    /// As it may, within a team of others.
    extern "C" fn without_helpers(enter: extern "C" fn(*mut ()), region: *mut (), _: u32, _: u32) {
        enter(region);
    }

    extern "C" fn three() -> i32 {
        3
    }

    extern "C" fn one() -> i32 {
        1
    }

    fn teams() -> [OpenMp; 3] {
        [
            OpenMp { parallel, threads: three },
            OpenMp { parallel: without_helpers, threads: three },
            OpenMp { parallel, threads: one },
        ]
    }

    #[test]
    fn every_job_is_done_once_also_those_that_jobs_make() {
        for team in teams() {
            let done: Vec<AtomicUsize> = (0..60).map(|_| AtomicUsize::new(0)).collect();
            let count = team.lead(|| {
                spread((0..6).collect(), |i: usize| {
                    spread((0..10).collect(), |j: usize| {
                        done[10 * i + j].fetch_add(1, Ordering::Relaxed);
                    });
                });
                team.lead(|| 7)
            });
            assert_eq!(count, 7);
            assert!(done.iter().all(|d| d.load(Ordering::Relaxed) == 1));
            assert!(size().is_none(), "the team ends with the work");
        }
    }

    #[test]
    fn helpers_compute() {
        let here = std::thread::current().id();
        let others = AtomicUsize::new(0);
        teams()[0].lead(|| {
            spread(vec![(); 40], |()| {
                std::thread::sleep(std::time::Duration::from_millis(1));
                others.fetch_add(usize::from(std::thread::current().id() != here), Ordering::Relaxed);
            });
        });
        assert!(others.into_inner() > 0);
        teams()[2].lead(|| assert!(alone(), "a team of one hands nothing over"));
    }

    #[test]
    fn a_panic_comes_out_wherever_it_happens() {
        for team in teams() {
            for bad in 0..6 {
                let run = || {
                    team.lead(|| {
                        spread((0..6).collect(), |i: usize| {
                            std::thread::sleep(std::time::Duration::from_millis(1));
                            assert!(i != bad, "job {i}");
                        });
                    });
                };
                let why = catch_unwind(AssertUnwindSafe(run)).unwrap_err();
                assert_eq!(*why.downcast::<String>().unwrap(), format!("job {bad}"));
                assert!(size().is_none());
            }
        }
    }

    #[test]
    fn a_team_changes_no_bit() {
        let layer = crate::testing::Layer::random(500, 700, 0.1, 3);
        let Csr { rows, cols, .. } = layer.csr();
        let (plan, _) = Plan::of_rows(layer.csr(), Tuning::of(rows, cols, layer.nnz()));
        let (values, rows_of) = (random::<f32>(1, layer.nnz()), random::<f32>(2, 200 * cols));
        let run = || {
            let x = Tiled::from_rows(200, cols, &rows_of);
            let (mut y, mut dx, mut dw) = (Tiled::zeros(200, rows), Tiled::zeros(200, cols), vec![0.0; layer.nnz()]);
            let mut packed = vec![0.0; layer.nnz()];
            plan.pack(&values, &mut packed);
            plan.forward(&packed, &x, None, &mut y);
            plan.backward(&values, &x, &y, Some(&mut dx), &mut dw);
            let bits = |v: &[f32]| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            (bits(y.as_slice()), bits(dx.as_slice()), bits(&dw))
        };
        let want = alone_within(run);
        for team in teams() {
            assert!(team.lead(run) == want);
        }
    }
}
