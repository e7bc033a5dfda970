//! Elementwise functions, on wide registers and all threads.
//!
//! Functions are copied, with what they capture by value: a captured reference might point into the output, and then
//! nothing is vectorized. A function is compiled into every instruction set's loop when it is inlined there; a closure of more than a few
//! operations needs `#[inline(always)]` for that.
//!
//! Every entry is computed by the same operations wherever it lies, so results do not depend on the chunks.

use crate::dense::{Raw, each};
use crate::simd::{Kernel, Vector};
use crate::{Isa, Real};

/// Numbers that a thread takes at once: a buffer of this length stays in L2.
const CHUNK: usize = 1 << 15;

/// Cuts `n` numbers into chunks; `f` gets each chunk's range and runs compiled for `isa`.
fn chunks(n: usize, f: impl Fn(usize, usize) + Sync + Send) {
    let small = n <= 2 * CHUNK;
    let size = if small { n.max(1) } else { CHUNK };
    each(n.div_ceil(size), small, &|i| f(i * size, n.min((i + 1) * size)));
}

macro_rules! loops {
    ($(#[$doc:meta])* $name:ident, $kernel:ident, ($($arg:ident),*)) => {
        struct $kernel<'a, T, F> {
            to: &'a mut [T],
            $($arg: &'a [T],)*
            f: F,
        }

        impl<T: Real, F: Fn(T, $(loops!(@type $arg T)),*) -> T + Copy> Kernel<T> for $kernel<'_, T, F> {
            #[inline(always)]
            unsafe fn run<V: Vector<T = T>>(self) {
                let (n, f) = (self.to.len(), self.f);
                $(let $arg = &self.$arg[..n];)*
                for i in 0..n {
                    self.to[i] = f(self.to[i], $($arg[i]),*);
                }
            }
        }

        $(#[$doc])*
        ///
        /// # Panics
        /// When lengths differ.
        pub fn $name<T: Real>(to: &mut [T], $($arg: &[T],)* f: impl Fn(T, $(loops!(@type $arg T)),*) -> T + Copy + Sync + Send) {
            let n = to.len();
            $(assert_eq!($arg.len(), n, "as many numbers on both sides");)*
            let to = Raw::of_mut(to);
            chunks(n, |first, last| {
                // SAFETY: chunks are disjoint ranges of `to`.
                unsafe {
                    let to = std::slice::from_raw_parts_mut(to.get().add(first), last - first);
                    Isa::best().run($kernel { to, $($arg: &$arg[first..last],)* f });
                }
            });
        }
    };
    (@type $arg:ident $t:ident) => { $t };
}

loops!(
    /// `to = f(to)`.
    update, Update, ()
);
loops!(
    /// `to = f(to, a)`; the old `to` may be ignored.
    update_by, UpdateBy, (a)
);
loops!(
    /// `to = f(to, a, b)`; the old `to` may be ignored.
    update_by_two, UpdateByTwo, (a, b)
);

/// `to = f(a)`.
///
/// # Panics
/// When lengths differ.
pub fn map<T: Real>(a: &[T], to: &mut [T], f: impl Fn(T) -> T + Copy + Sync + Send) {
    update_by(
        to,
        a,
        #[inline(always)]
        move |_, a| f(a),
    );
}

/// `to = f(a, b)`.
///
/// # Panics
/// When lengths differ.
pub fn zip<T: Real>(a: &[T], b: &[T], to: &mut [T], f: impl Fn(T, T) -> T + Copy + Sync + Send) {
    update_by_two(
        to,
        a,
        b,
        #[inline(always)]
        move |_, a, b| f(a, b),
    );
}

/// Sets numbers to zero that a mask does not have, on the calling thread.
///
/// # Panics
/// When lengths differ.
pub fn keep<T: Real>(to: &mut [T], mask: &[bool]) {
    assert_eq!(to.len(), mask.len(), "a place of the mask for each number");
    T::keep_masked(Isa::best(), to, mask);
}

pub(crate) fn keep_on<T: Real>(isa: Isa, to: &mut [T], mask: &[bool]) {
    // SAFETY: it has no conditions.
    unsafe { isa.run(Keep { to, mask }) }
}

struct Keep<'a, T> {
    to: &'a mut [T],
    mask: &'a [bool],
}

impl<T: Real> Kernel<T> for Keep<'_, T> {
    #[inline(always)]
    unsafe fn run<V: Vector<T = T>>(self) {
        self.to.iter_mut().zip(self.mask).for_each(|(v, &m)| *v = if m { *v } else { T::ZERO });
    }
}

/// Calls `f` on equal ranges of several vectors of `n` numbers that it writes: parameters with their state.
///
/// # Panics
/// When lengths differ.
pub fn step<T: Real, const K: usize>(
    state: [&mut [T]; K],
    gradient: &[T],
    f: impl Fn([T; K], T) -> [T; K] + Copy + Sync + Send,
) {
    let n = gradient.len();
    assert!(state.iter().all(|s| s.len() == n), "a number of state for each gradient");
    let state = state.map(Raw::of_mut);
    chunks(n, |first, last| {
        // SAFETY: chunks are disjoint ranges of every vector.
        unsafe {
            let state = state.map(|s| std::slice::from_raw_parts_mut(s.get().add(first), last - first));
            Isa::best().run(Step { state, gradient: &gradient[first..last], f });
        }
    });
}

struct Step<'a, T, F, const K: usize> {
    state: [&'a mut [T]; K],
    gradient: &'a [T],
    f: F,
}

impl<T: Real, F: Fn([T; K], T) -> [T; K] + Copy, const K: usize> Kernel<T> for Step<'_, T, F, K> {
    #[inline(always)]
    unsafe fn run<V: Vector<T = T>>(self) {
        let n = self.gradient.len();
        let mut state = self.state;
        for s in &mut state {
            *s = &mut std::mem::take(s)[..n];
        }
        for i in 0..n {
            let new = (self.f)(std::array::from_fn(|k| state[k][i]), self.gradient[i]);
            for k in 0..K {
                state[k][i] = new[k];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{on_threads, random};

    #[test]
    fn what_is_not_in_a_mask_becomes_zero() {
        for n in [0, 1, 17, 100_000] {
            let (a, mask) = (random::<f64>(1, n), random::<f64>(2, n).iter().map(|v| *v > 0.5).collect::<Vec<_>>());
            for &isa in Isa::available() {
                let mut to = a.clone();
                keep_on(isa, &mut to, &mask);
                assert!((0..n).all(|i| to[i] == if mask[i] { a[i] } else { 0.0 }));
            }
        }
    }

    #[test]
    fn equals_plain_loops_on_any_number_of_threads() {
        for n in [0, 1, 17, 100_000] {
            on_threads(|| {
                let (a, b) = (random::<f32>(1, n), random::<f32>(2, n));
                let mut to = vec![0.0; n];
                zip(&a, &b, &mut to, |x, y| x * y + x);
                assert!((0..n).all(|i| to[i] == a[i] * b[i] + a[i]));
                update(&mut to, |x| -x);
                map(&a, &mut to, |x| x + 1.0);
                assert!((0..n).all(|i| to[i] == a[i] + 1.0));
                let mut m = b.clone();
                step([&mut to, &mut m], &a, |[w, m], g| [w - m, m + g]);
                assert!((0..n).all(|i| to[i] == a[i] + 1.0 - b[i] && m[i] == b[i] + a[i]));
                to.iter().map(|v| v.to_bits()).collect::<Vec<_>>()
            });
        }
    }
}
