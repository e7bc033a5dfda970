//! Vector registers behind one trait, and the choice of instruction set at run time.
//!
//! A kernel is a struct with an `#[inline(always)]` generic [`Kernel::run`]; [`Isa::run`] instantiates it inside a
//! function that carries the target features, so that one source serves every instruction set.

use crate::Real;
use std::sync::OnceLock;

/// The registers a number has on every instruction set.
#[doc(hidden)]
pub trait Registers: Sized {
    type Portable: Vector<T = Self>;
    #[cfg(target_arch = "x86_64")]
    type Avx2: Vector<T = Self>;
    #[cfg(target_arch = "x86_64")]
    type Avx512: Vector<T = Self>;
}

/// One register of `LANES` numbers.
///
/// # Safety
/// Every function requires the instruction set of its implementation; `load` and `store` require `LANES` numbers
/// at the pointer. No alignment is required.
#[doc(hidden)]
pub trait Vector: Copy {
    type T: Real;
    const LANES: usize;

    unsafe fn splat(x: Self::T) -> Self;
    unsafe fn load(p: *const Self::T) -> Self;
    unsafe fn store(self, p: *mut Self::T);

    /// The first `n <= LANES` numbers at the pointer, zeros in the other lanes.
    #[inline(always)]
    unsafe fn load_part(p: *const Self::T, n: usize) -> Self {
        // SAFETY: `n` numbers at the pointer by contract; the buffer holds more lanes than any register.
        unsafe {
            let mut lanes = [Self::T::ZERO; 16];
            (0..n).for_each(|i| lanes[i] = *p.add(i));
            Self::load(lanes.as_ptr())
        }
    }

    /// Writes the first `n <= LANES` lanes.
    #[inline(always)]
    unsafe fn store_part(self, p: *mut Self::T, n: usize) {
        // SAFETY: as above.
        unsafe {
            let mut lanes = [Self::T::ZERO; 16];
            self.store(lanes.as_mut_ptr());
            (0..n).for_each(|i| *p.add(i) = lanes[i]);
        }
    }

    /// Lane j is `base[index[j]]`; indices must fit 31 bits.
    unsafe fn gather(base: *const Self::T, index: *const u32) -> Self;
    /// As [`Vector::gather`] with 16-bit indices.
    unsafe fn gather_short(base: *const Self::T, index: *const u16) -> Self;
    /// [`Vector::gather`] of the first `n <= LANES` lanes, zeros in the others, whose indices are not read.
    #[inline(always)]
    unsafe fn gather_part(base: *const Self::T, index: *const u32, n: usize) -> Self {
        // SAFETY: `n` indices, and a number at each, by contract; the buffer holds more lanes than any register.
        unsafe {
            let mut lanes = [Self::T::ZERO; 16];
            (0..n).for_each(|i| lanes[i] = *base.add(*index.add(i) as usize));
            Self::load(lanes.as_ptr())
        }
    }
    /// As [`Vector::gather_part`] with 16-bit indices.
    #[inline(always)]
    unsafe fn gather_short_part(base: *const Self::T, index: *const u16, n: usize) -> Self {
        // SAFETY: as above.
        unsafe {
            let mut lanes = [Self::T::ZERO; 16];
            (0..n).for_each(|i| lanes[i] = *base.add(*index.add(i) as usize));
            Self::load(lanes.as_ptr())
        }
    }
    /// `LANES` whole numbers of eight bits.
    #[inline(always)]
    unsafe fn load_bytes(p: *const i8) -> Self {
        // SAFETY: `LANES` bytes at the pointer by contract; the buffer holds more lanes than any register.
        unsafe {
            let mut lanes = [Self::T::ZERO; 16];
            (0..Self::LANES).for_each(|i| lanes[i] = Self::T::of(f64::from(*p.add(i))));
            Self::load(lanes.as_ptr())
        }
    }
    /// Expands the lowest lanes, in order, into the lanes that have a bit in `mask`; zeros in the others.
    #[inline(always)]
    unsafe fn expand(self, mask: u32) -> Self {
        // SAFETY: the buffers hold more lanes than any register.
        unsafe {
            let (mut from, mut to, mut next) = ([Self::T::ZERO; 16], [Self::T::ZERO; 16], 0);
            self.store(from.as_mut_ptr());
            for i in (0..Self::LANES).filter(|i| mask >> i & 1 == 1) {
                to[i] = from[next];
                next += 1;
            }
            Self::load(to.as_ptr())
        }
    }
    /// As [`Vector::load`], zeros in lanes that have no bit in `mask`.
    #[inline(always)]
    unsafe fn load_where(p: *const Self::T, mask: u32) -> Self {
        // SAFETY: `LANES` numbers at the pointer by contract; the buffer holds more lanes than any register.
        unsafe {
            let mut lanes = [Self::T::ZERO; 16];
            (0..Self::LANES).filter(|i| mask >> i & 1 == 1).for_each(|i| lanes[i] = *p.add(i));
            Self::load(lanes.as_ptr())
        }
    }
    unsafe fn add(self, b: Self) -> Self;
    unsafe fn mul(self, b: Self) -> Self;
    /// `self * b + c`, fused where the hardware can.
    unsafe fn mul_add(self, b: Self, c: Self) -> Self;
    /// Sum of the lanes in a fixed order.
    unsafe fn sum(self) -> Self::T;
    /// Bit j is set where |lane j| >= `floor`; never for NaN.
    unsafe fn at_least(self, floor: Self::T) -> u32;

    /// `to[j * to_stride + i] = from[i * from_stride + j]` for a square of `LANES` by `LANES` numbers.
    #[inline(always)]
    unsafe fn transpose(from: *const Self::T, from_stride: usize, to: *mut Self::T, to_stride: usize) {
        for i in 0..Self::LANES {
            for j in 0..Self::LANES {
                // SAFETY: both squares are there by contract.
                unsafe { *to.add(j * to_stride + i) = *from.add(i * from_stride + j) }
            }
        }
    }

    /// Stores a register as number `i` of a list of registers whose lanes [`Vector::sums`] will sum. The list
    /// has room for a multiple of 16 registers; its layout is private to the two.
    #[inline(always)]
    unsafe fn put(self, list: *mut Self, i: usize) {
        // SAFETY: the list has room by contract.
        unsafe { list.add(i).write(self) }
    }

    /// Sums of the lanes of each of `n <= 16` registers from number `i`, a multiple of 16, of a list: written to or
    /// added to `n` numbers at `to`.
    #[inline(always)]
    unsafe fn sums(list: *const Self, i: usize, n: usize, to: *mut Self::T, overwrite: bool) {
        for j in 0..n {
            // SAFETY: within the list, `n` numbers at `to`, by contract.
            unsafe {
                let (sum, to) = ((*list.add(i + j)).sum(), to.add(j));
                *to = if overwrite { sum } else { *to + sum };
            }
        }
    }
}

/// Prefetches the cache line at a pointer, which may be any: nothing is read.
#[inline(always)]
pub(crate) fn fetch<T>(p: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint of SSE, which every such processor has; it never faults.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(p.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = p;
}

/// Work that runs on registers of any instruction set.
pub(crate) trait Kernel<T: Real> {
    /// # Safety
    /// The instruction set of `V` must be present; the kernel's own conditions are on its constructor.
    unsafe fn run<V: Vector<T = T>>(self);
}

/// An instruction set of this machine: no other can be named, so holding one proves that it may be used.
///
/// ```compile_fail
/// let others = nnz_kernels::Isa::Avx512;
/// ```
///
/// ```compile_fail
/// let set = nnz_kernels::Isa::best().0;
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Isa(Set);

/// Instruction sets, best last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Set {
    /// Plain Rust, vectorized for the compiled target.
    Portable,
    /// AVX2 with FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl std::fmt::Debug for Isa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl Isa {
    /// Plain Rust, which every machine runs.
    pub const PORTABLE: Isa = Isa(Set::Portable);

    /// Every instruction set of this machine, best first.
    pub fn available() -> &'static [Isa] {
        #[cfg(target_arch = "x86_64")]
        {
            const ALL: [Isa; 3] = [Isa(Set::Avx512), Isa(Set::Avx2), Isa::PORTABLE];
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl");
            match (avx512, avx2) {
                (true, true) => &ALL,
                (_, true) => &ALL[1..],
                _ => &ALL[2..],
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        &[Isa::PORTABLE]
    }

    /// The best instruction set of this machine, or the one that the environment variable `NNZ_ISA` names.
    ///
    /// # Panics
    /// When it names one that this machine lacks; see [`Isa::forced`].
    pub fn best() -> Isa {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| Isa::forced().unwrap_or_else(|why| panic!("{why}")).unwrap_or(Isa::available()[0]))
    }

    /// The instruction set that the environment variable `NNZ_ISA` names: `portable`, `avx2` or `avx512`.
    ///
    /// # Errors
    /// When this machine lacks it; the error lists those it has.
    pub fn forced() -> Result<Option<Isa>, String> {
        let Some(asked) = std::env::var_os("NNZ_ISA") else { return Ok(None) };
        let name = |isa: &Isa| format!("{isa:?}").to_lowercase();
        let here = Isa::available().iter().copied().find(|isa| name(isa).as_str() == asked);
        let names = || Isa::available().iter().map(name).collect::<Vec<_>>().join(", ");
        here.map(Some).ok_or_else(|| format!("NNZ_ISA names `{}`; this machine has {}", asked.display(), names()))
    }

    /// Returns which set it is.
    pub(crate) fn set(self) -> Set {
        self.0
    }

    /// The best set up to this one whose registers divide `width` numbers. Machines with AVX-512 have AVX2.
    pub(crate) fn dividing<T: Real>(self, width: usize) -> Isa {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 if width.is_multiple_of(T::Avx512::LANES) => self,
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 | Set::Avx2 if width.is_multiple_of(T::Avx2::LANES) => Isa(Set::Avx2),
            _ => Isa::PORTABLE,
        }
    }

    /// Runs `kernel` on the registers of this instruction set.
    ///
    /// # Safety
    /// The kernel's own conditions hold.
    pub(crate) unsafe fn run<T: Real, K: Kernel<T>>(self, kernel: K) {
        // SAFETY: the kernel's conditions are the caller's; there is no `Isa` but those whose features `available` found.
        unsafe {
            match self.0 {
                Set::Portable => kernel.run::<T::Portable>(),
                #[cfg(target_arch = "x86_64")]
                Set::Avx2 => avx2(kernel),
                #[cfg(target_arch = "x86_64")]
                Set::Avx512 => avx512(kernel),
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2<T: Real, K: Kernel<T>>(kernel: K) {
    // SAFETY: the caller has the instruction set and the kernel's conditions.
    unsafe { kernel.run::<T::Avx2>() }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
unsafe fn avx512<T: Real, K: Kernel<T>>(kernel: K) {
    // SAFETY: the caller has the instruction set and the kernel's conditions.
    unsafe { kernel.run::<T::Avx512>() }
}

/// Four numbers in plain Rust: one register of f32 where vectors have at least 128 bits.
#[doc(hidden)]
#[derive(Clone, Copy)]
pub struct Portable<T>([T; 4]);

impl<T: Real> Vector for Portable<T> {
    type T = T;
    const LANES: usize = 4;

    #[inline(always)]
    unsafe fn splat(x: T) -> Self {
        Self([x; 4])
    }

    #[inline(always)]
    unsafe fn load(p: *const T) -> Self {
        // SAFETY: four numbers by the trait's contract.
        Self(unsafe { p.cast::<[T; 4]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut T) {
        // SAFETY: four numbers by the trait's contract.
        unsafe { p.cast::<[T; 4]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    unsafe fn gather(base: *const T, index: *const u32) -> Self {
        // SAFETY: the trait's contract.
        Self(std::array::from_fn(|i| unsafe { *base.add(*index.add(i) as usize) }))
    }

    #[inline(always)]
    unsafe fn gather_short(base: *const T, index: *const u16) -> Self {
        // SAFETY: the trait's contract.
        Self(std::array::from_fn(|i| unsafe { *base.add(*index.add(i) as usize) }))
    }

    #[inline(always)]
    unsafe fn add(self, b: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] + b.0[i]))
    }

    #[inline(always)]
    unsafe fn mul(self, b: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] * b.0[i]))
    }

    // Not `T::mul_add`: without the instruction that is a slow library call.
    #[inline(always)]
    unsafe fn mul_add(self, b: Self, c: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] * b.0[i] + c.0[i]))
    }

    #[inline(always)]
    unsafe fn at_least(self, floor: T) -> u32 {
        self.0.iter().enumerate().fold(0, |bits, (i, v)| bits | (u32::from(v.abs() >= floor) << i))
    }

    #[inline(always)]
    unsafe fn sum(self) -> T {
        let a = self.0;
        (a[0] + a[2]) + (a[1] + a[3])
    }
}

#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(not(target_arch = "x86_64"))]
impl Registers for f32 {
    type Portable = Portable<f32>;
}

#[cfg(not(target_arch = "x86_64"))]
impl Registers for f64 {
    type Portable = Portable<f64>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::random;

    /// Every operation against plain loops, on one set of registers.
    struct Probe<T>(Vec<T>);

    impl<T: Real> Kernel<T> for Probe<T> {
        unsafe fn run<V: Vector<T = T>>(self) {
            let (n, x) = (V::LANES, &self.0);
            let near = |a: T, b: T| assert!((a - b).abs() < T::of(1e-5), "{a} is not {b}");
            let read = |v: V| {
                let mut lanes = vec![T::ZERO; n];
                // SAFETY: room for one register.
                unsafe { v.store(lanes.as_mut_ptr()) }
                lanes
            };
            // SAFETY: 256 numbers in x; lists have room for 16 registers.
            unsafe {
                let (a, b, c) = (V::load(x.as_ptr()), V::load(x.as_ptr().add(n)), V::splat(x[99]));
                for i in 0..n {
                    near(read(a.add(b))[i], x[i] + x[n + i]);
                    near(read(a.mul(b))[i], x[i] * x[n + i]);
                    near(read(a.mul_add(b, c))[i], x[i] * x[n + i] + x[99]);
                }
                near(a.sum(), x[..n].iter().copied().sum());
                for part in 0..=n {
                    let (mut some, mut want) = (vec![T::ONE; n], vec![T::ONE; n]);
                    V::load_part(x.as_ptr(), part).store_part(some.as_mut_ptr(), n.min(part + 1));
                    (0..n.min(part + 1)).for_each(|i| want[i] = if i < part { x[i] } else { T::ZERO });
                    assert_eq!(some, want);
                }
                let index: Vec<u32> = (0..n as u32).map(|i| i * 37 % 101).collect();
                let short: Vec<u16> = index.iter().map(|&i| i as u16).collect();
                let want: Vec<T> = index.iter().map(|&i| x[i as usize]).collect();
                assert_eq!(read(V::gather(x.as_ptr(), index.as_ptr())), want);
                assert_eq!(read(V::gather_short(x.as_ptr(), short.as_ptr())), want);
                for part in 0..=n {
                    // Exactly as many indices.
                    let (index, short) = (index[..part].to_vec(), short[..part].to_vec());
                    let want: Vec<T> = (0..n).map(|i| if i < part { want[i] } else { T::ZERO }).collect();
                    assert_eq!(read(V::gather_part(x.as_ptr(), index.as_ptr(), part)), want);
                    assert_eq!(read(V::gather_short_part(x.as_ptr(), short.as_ptr(), part)), want);
                }
                let mask = 0b0110_1101_1010_0110u32 & ((1 << n) - 1);
                let mut next = 0;
                let spread: Vec<T> = (0..n)
                    .map(|i| {
                        if mask >> i & 1 == 0 {
                            return T::ZERO;
                        }
                        next += 1;
                        x[next - 1]
                    })
                    .collect();
                assert_eq!(read(V::load(x.as_ptr()).expand(mask)), spread);
                let some: Vec<T> = (0..n).map(|i| if mask >> i & 1 == 1 { x[i] } else { T::ZERO }).collect();
                assert_eq!(read(V::load_where(x.as_ptr(), mask)), some);
                let bytes: Vec<i8> = (0..16).map(|i| (i * 37 - 128) as i8).collect();
                let want: Vec<T> = bytes[..n].iter().map(|&b| T::of(f64::from(b))).collect();
                assert_eq!(read(V::load_bytes(bytes.as_ptr())), want);

                let mut y = x.clone();
                (y[1], y[2], y[3]) = (T::nan(), T::infinity(), -T::infinity());
                let bits = V::load(y.as_ptr()).at_least(T::of(0.4));
                (0..n).for_each(|i| assert_eq!(bits >> i & 1 == 1, y[i].abs() >= T::of(0.4), "bit {i}"));
                assert_eq!(u64::from(bits) >> n, 0);

                let mut list = [V::splat(T::nan()); 32];
                for i in 0..32 {
                    V::load(x.as_ptr().add(7 * i)).put(list.as_mut_ptr(), i);
                }
                for many in 1..=16 {
                    for overwrite in [true, false] {
                        let mut sums = vec![T::of(0.5); 17];
                        V::sums(list.as_ptr(), 16, many, sums.as_mut_ptr(), overwrite);
                        for (i, &sum) in sums.iter().enumerate() {
                            let old = if overwrite && i < many { T::ZERO } else { T::of(0.5) };
                            let new: T = x[7 * (16 + i.min(15))..][..n].iter().copied().sum();
                            near(sum, if i < many { old + new } else { old });
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn registers_do_what_they_say() {
        for &isa in Isa::available() {
            // SAFETY: 256 numbers each.
            unsafe {
                isa.run(Probe::<f32>(random(1, 256)));
                isa.run(Probe::<f64>(random(2, 256)));
            }
        }
    }
}
