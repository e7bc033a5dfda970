//! How many bytes the values of tensors take on a thread, and the most they took at once.
//!
//! A tensor counts on the thread that makes it, once however often it is shared, until its last owner drops it. What is made
//! inside [`hidden`] counts nowhere: operations put it around work that several threads may share, and say with
//! [`Charge`] and [`touch`] what that work holds, so that the figure is the same for any number of threads.

use std::cell::Cell;

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static MOST: Cell<isize> = const { Cell::new(0) };
    static HIDDEN: Cell<bool> = const { Cell::new(false) };
}

pub(crate) fn add(bytes: usize) {
    let live = LIVE.get() + bytes as isize;
    LIVE.set(live);
    MOST.set(MOST.get().max(live));
}

pub(crate) fn subtract(bytes: usize) {
    LIVE.set(LIVE.get() - bytes as isize);
}

/// Counts bytes that are held for a moment beside everything else.
pub fn touch(bytes: usize) {
    MOST.set(MOST.get().max(LIVE.get() + bytes as isize));
}

/// Whether what is made now counts.
pub(crate) fn counts() -> bool {
    !HIDDEN.get()
}

/// Runs `f`, whose tensors count nowhere.
pub fn hidden<R>(f: impl FnOnce() -> R) -> R {
    struct Reset(bool);
    impl Drop for Reset {
        fn drop(&mut self) {
            HIDDEN.set(self.0);
        }
    }
    let _reset = Reset(HIDDEN.replace(true));
    f()
}

/// Runs `f`, and the most bytes that were there at once on this thread beyond those that were there before.
pub fn most<R>(f: impl FnOnce() -> R) -> (R, usize) {
    struct Reset(isize, isize);
    impl Drop for Reset {
        fn drop(&mut self) {
            LIVE.set(LIVE.get() + self.0);
            MOST.set(self.1.max(self.0 + MOST.get()));
        }
    }
    let _reset = Reset(LIVE.replace(0), MOST.replace(0));
    let out = f();
    (out, MOST.get().max(0) as usize)
}

/// Bytes that count until this is dropped.
#[derive(Debug)]
pub struct Charge(usize);

impl Charge {
    /// Counts them.
    pub fn new(bytes: usize) -> Self {
        add(bytes);
        Self(bytes)
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        subtract(self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tensor;

    #[test]
    fn shared_tensors_count_once_and_until_the_last_goes() {
        let before = Tensor::<f32>::zeros(&[100]);
        let (_, bytes) = most(|| {
            let a = Tensor::<f32>::zeros(&[10]);
            let mut b = a.clone();
            drop(a);
            b.data_mut()[0] = 1.0;
            let c = b.clone();
            drop(c);
        });
        assert_eq!(bytes, 40);
        let ((), bytes) = most(|| {
            // What was there before makes room.
            drop(before);
            let (ours, inner) = most(|| Tensor::<f64>::zeros(&[60]));
            assert_eq!(inner, 480);
            drop(ours);
        });
        assert_eq!(bytes, 80);
        let (kept, bytes) = most(|| {
            let mut shared = Tensor::<f64>::zeros(&[3]);
            let kept = shared.clone();
            shared.data_mut()[0] = 1.0;
            kept
        });
        assert_eq!((bytes, kept.len()), (48, 3), "a copy is made when a shared one is written");
    }

    #[test]
    fn hidden_ones_count_nowhere_and_charges_do() {
        let (_, bytes) = most(|| {
            let quiet = hidden(|| Tensor::<f32>::zeros(&[1000]));
            let charge = Charge::new(8);
            touch(100);
            drop(quiet);
            drop(charge);
            drop(hidden(|| Tensor::<f32>::zeros(&[5])).counted());
            Tensor::<f32>::zeros(&[10])
        });
        assert_eq!(bytes, 108);
        let (_, bytes) = most(|| drop(hidden(|| Tensor::<f32>::zeros(&[5])).counted()));
        assert_eq!(bytes, 20);
    }
}
