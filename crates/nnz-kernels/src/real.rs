use std::fmt::{Debug, Display};
use std::iter::Sum;
use std::ops::{AddAssign, DivAssign, MulAssign, SubAssign};

use crate::{Pool, built, functions, simd};

/// A floating-point number the kernels compute with: `f32` or `f64`. Sealed.
///
/// The mathematics (`sqrt`, `exp`, `abs`, ...) come from [`num_traits::Float`].
pub trait Real:
    num_traits::Float
    + AddAssign
    + SubAssign
    + MulAssign
    + DivAssign
    + Sum
    + Default
    + From<f32>
    + Debug
    + Display
    + Send
    + Sync
    + simd::Registers
    + built::Built
    + 'static
{
    /// Zero.
    const ZERO: Self;
    /// One.
    const ONE: Self;
    /// `"f32"` or `"f64"`.
    const NAME: &'static str;

    /// Nearest value to `x`.
    fn of(x: f64) -> Self;

    /// This value as `f64`, exact.
    fn f64(self) -> f64;

    /// eˣ for vectorized loops: without branches in `f32`, within 2 units in the last place and zero
    /// where the result would be subnormal.
    fn quick_exp(self) -> Self;

    /// tanh x, likewise within 3 units.
    fn quick_tanh(self) -> Self;

    /// The error function, likewise within 4e-7.
    fn quick_erf(self) -> Self;

    /// The pool of buffers to reuse.
    fn pool() -> &'static Pool<Self>;
}

macro_rules! real {
    ($t:ty, $name:literal, $exp:path, $tanh:path, $erf:path) => {
        impl Real for $t {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            const NAME: &'static str = $name;

            #[inline]
            fn of(x: f64) -> Self {
                x as $t
            }

            #[inline]
            fn f64(self) -> f64 {
                self.into()
            }

            #[inline(always)]
            fn quick_exp(self) -> Self {
                $exp(self)
            }

            #[inline(always)]
            fn quick_tanh(self) -> Self {
                $tanh(self)
            }

            #[inline(always)]
            fn quick_erf(self) -> Self {
                $erf(self)
            }

            fn pool() -> &'static Pool<Self> {
                static POOL: Pool<$t> = Pool::new();
                &POOL
            }
        }
    };
}

real!(f32, "f32", functions::exp, functions::tanh, functions::erf);
real!(f64, "f64", f64::exp, f64::tanh, libm::erf);
