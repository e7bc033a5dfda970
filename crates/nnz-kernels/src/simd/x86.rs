//! Registers of AVX2 and AVX-512.

use std::arch::x86_64::*;

use super::{Portable, Registers, Vector};

macro_rules! vector {
    (
        $v:ty, $t:ty, $lanes:literal, $splat:ident, $load:ident, $store:ident, $add:ident, $mul:ident, $fma:ident,
        { $($more:tt)* }
    ) => {
        // The instruction set of every intrinsic is present by the trait's contract; none requires alignment.
        impl Vector for $v {
            type T = $t;
            const LANES: usize = $lanes;

            #[inline(always)]
            unsafe fn splat(x: $t) -> Self {
                // SAFETY: registers alone; their instruction set by contract.
                unsafe { $splat(x) }
            }

            #[inline(always)]
            unsafe fn load(p: *const $t) -> Self {
                // SAFETY: `LANES` numbers at the pointer by contract.
                unsafe { $load(p) }
            }

            #[inline(always)]
            unsafe fn store(self, p: *mut $t) {
                // SAFETY: `LANES` numbers at the pointer by contract.
                unsafe { $store(p, self) }
            }

            #[inline(always)]
            unsafe fn add(self, b: Self) -> Self {
                // SAFETY: registers alone; their instruction set by contract.
                unsafe { $add(self, b) }
            }

            #[inline(always)]
            unsafe fn mul(self, b: Self) -> Self {
                // SAFETY: registers alone; their instruction set by contract.
                unsafe { $mul(self, b) }
            }

            #[inline(always)]
            unsafe fn mul_add(self, b: Self, c: Self) -> Self {
                // SAFETY: registers alone; their instruction set by contract.
                unsafe { $fma(self, b, c) }
            }

            $($more)*
        }
    };
}

vector!(
    __m512,
    f32,
    16,
    _mm512_set1_ps,
    _mm512_loadu_ps,
    _mm512_storeu_ps,
    _mm512_add_ps,
    _mm512_mul_ps,
    _mm512_fmadd_ps,
    {
        #[inline(always)]
        unsafe fn load_part(p: *const f32, n: usize) -> Self {
            // SAFETY: the mask keeps to the first `n <= LANES` numbers, which are there by contract.
            unsafe { _mm512_maskz_loadu_ps(((1u32 << n) - 1) as _, p) }
        }

        #[inline(always)]
        unsafe fn store_part(self, p: *mut f32, n: usize) {
            // SAFETY: the mask keeps to the first `n <= LANES` numbers, which are there by contract.
            unsafe { _mm512_mask_storeu_ps(p, ((1u32 << n) - 1) as _, self) }
        }

        #[inline(always)]
        unsafe fn gather(base: *const f32, index: *const u32) -> Self {
            // SAFETY: `LANES` indices, and a number at each, by contract.
            unsafe { _mm512_i32gather_ps::<4>(_mm512_loadu_si512(index.cast()), base) }
        }

        #[inline(always)]
        unsafe fn gather_short(base: *const f32, index: *const u16) -> Self {
            // SAFETY: `LANES` indices, and a number at each, by contract.
            unsafe { _mm512_i32gather_ps::<4>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(index.cast())), base) }
        }

        #[inline(always)]
        unsafe fn gather_part(base: *const f32, index: *const u32, n: usize) -> Self {
            // SAFETY: the mask keeps to the first `n <= LANES` indices, and the numbers there, by contract.
            unsafe {
                let mask = ((1u32 << n) - 1) as u16;
                let index = _mm512_maskz_loadu_epi32(mask, index.cast());
                _mm512_mask_i32gather_ps::<4>(_mm512_setzero_ps(), mask, index, base)
            }
        }

        #[inline(always)]
        unsafe fn gather_short_part(base: *const f32, index: *const u16, n: usize) -> Self {
            // SAFETY: the mask keeps to the first `n <= LANES` indices, and the numbers there, by contract.
            unsafe {
                let mask = ((1u32 << n) - 1) as u16;
                let index = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, index.cast()));
                _mm512_mask_i32gather_ps::<4>(_mm512_setzero_ps(), mask, index, base)
            }
        }

        #[inline(always)]
        unsafe fn expand(self, mask: u32) -> Self {
            // SAFETY: registers alone; their instruction set by contract.
            unsafe { _mm512_maskz_expand_ps(mask as u16, self) }
        }

        #[inline(always)]
        unsafe fn load_where(p: *const f32, mask: u32) -> Self {
            // SAFETY: the lanes in the mask are there by contract; the others are not touched.
            unsafe { _mm512_maskz_loadu_ps(mask as u16, p) }
        }

        #[inline(always)]
        unsafe fn load_bytes(p: *const i8) -> Self {
            // SAFETY: `LANES` bytes at the pointer by contract.
            unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast()))) }
        }

        #[inline(always)]
        unsafe fn sum(self) -> f32 {
            // SAFETY: registers alone; their instruction set by contract.
            unsafe { _mm512_reduce_add_ps(self) }
        }

        #[inline(always)]
        unsafe fn at_least(self, floor: f32) -> u32 {
            // SAFETY: registers alone; their instruction set by contract.
            unsafe { u32::from(_mm512_cmp_ps_mask::<_CMP_GE_OQ>(_mm512_abs_ps(self), _mm512_set1_ps(floor))) }
        }

        // Halves of registers 2i and 2i + 1 so that one load gets both lower halves and another both upper ones.
        #[inline(always)]
        unsafe fn put(self, list: *mut Self, i: usize) {
            // SAFETY: the list has room for a multiple of 16 registers by contract, so for both halves.
            unsafe {
                let to = list.cast::<__m256>().add(i + (i & !1));
                to.write(_mm512_castps512_ps256(self));
                to.add(2).write(_mm512_extractf32x8_ps::<1>(self));
            }
        }

        // 30 instructions on the ports of the multipliers, instead of sixteen times 8.
        #[inline(always)]
        unsafe fn sums(list: *const Self, i: usize, n: usize, to: *mut f32, overwrite: bool) {
            // SAFETY: 16 registers of the list from `i`, and `n <= 16` numbers at `to`, by contract.
            unsafe {
                let list = list.add(i);
                let sum = four(quarters(list), quarters(list.add(4)), quarters(list.add(8)), quarters(list.add(12)));
                let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
                let sum = _mm512_permutexvar_ps(order, sum);
                // The mask keeps loads and stores within `n` numbers.
                let mask = (0xffff_u32 >> (16 - n)) as u16;
                let sum = if overwrite { sum } else { _mm512_add_ps(sum, _mm512_maskz_loadu_ps(mask, to)) };
                _mm512_mask_storeu_ps(to, mask, sum);
            }
        }

        #[inline(always)]
        unsafe fn transpose(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
            // SAFETY: both squares are there by contract.
            unsafe { transpose_16(from, from_stride, to, to_stride) }
        }
    }
);

vector!(
    __m512d,
    f64,
    8,
    _mm512_set1_pd,
    _mm512_loadu_pd,
    _mm512_storeu_pd,
    _mm512_add_pd,
    _mm512_mul_pd,
    _mm512_fmadd_pd,
    {
        #[inline(always)]
        unsafe fn load_part(p: *const f64, n: usize) -> Self {
            // SAFETY: the mask keeps to the first `n <= LANES` numbers, which are there by contract.
            unsafe { _mm512_maskz_loadu_pd(((1u32 << n) - 1) as _, p) }
        }

        #[inline(always)]
        unsafe fn store_part(self, p: *mut f64, n: usize) {
            // SAFETY: the mask keeps to the first `n <= LANES` numbers, which are there by contract.
            unsafe { _mm512_mask_storeu_pd(p, ((1u32 << n) - 1) as _, self) }
        }

        #[inline(always)]
        unsafe fn gather(base: *const f64, index: *const u32) -> Self {
            // SAFETY: `LANES` indices, and a number at each, by contract.
            unsafe { _mm512_i32gather_pd::<8>(_mm256_loadu_si256(index.cast()), base) }
        }

        #[inline(always)]
        unsafe fn gather_short(base: *const f64, index: *const u16) -> Self {
            // SAFETY: `LANES` indices, and a number at each, by contract.
            unsafe { _mm512_i32gather_pd::<8>(_mm256_cvtepu16_epi32(_mm_loadu_si128(index.cast())), base) }
        }

        #[inline(always)]
        unsafe fn gather_part(base: *const f64, index: *const u32, n: usize) -> Self {
            // SAFETY: the mask keeps to the first `n <= LANES` indices, and the numbers there, by contract.
            unsafe {
                let mask = ((1u32 << n) - 1) as u8;
                let index = _mm256_maskz_loadu_epi32(mask, index.cast());
                _mm512_mask_i32gather_pd::<8>(_mm512_setzero_pd(), mask, index, base)
            }
        }

        #[inline(always)]
        unsafe fn gather_short_part(base: *const f64, index: *const u16, n: usize) -> Self {
            // SAFETY: the mask keeps to the first `n <= LANES` indices, and the numbers there, by contract.
            unsafe {
                let mask = ((1u32 << n) - 1) as u8;
                let index = _mm256_cvtepu16_epi32(_mm_maskz_loadu_epi16(mask, index.cast()));
                _mm512_mask_i32gather_pd::<8>(_mm512_setzero_pd(), mask, index, base)
            }
        }

        #[inline(always)]
        unsafe fn expand(self, mask: u32) -> Self {
            // SAFETY: registers alone; their instruction set by contract.
            unsafe { _mm512_maskz_expand_pd(mask as u8, self) }
        }

        #[inline(always)]
        unsafe fn load_where(p: *const f64, mask: u32) -> Self {
            // SAFETY: the lanes in the mask are there by contract; the others are not touched.
            unsafe { _mm512_maskz_loadu_pd(mask as u8, p) }
        }

        #[inline(always)]
        unsafe fn load_bytes(p: *const i8) -> Self {
            // SAFETY: `LANES` bytes at the pointer by contract.
            unsafe { _mm512_cvtepi32_pd(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p.cast()))) }
        }

        #[inline(always)]
        unsafe fn sum(self) -> f64 {
            // SAFETY: registers alone; their instruction set by contract.
            unsafe { _mm512_reduce_add_pd(self) }
        }

        #[inline(always)]
        unsafe fn at_least(self, floor: f64) -> u32 {
            // SAFETY: registers alone; their instruction set by contract.
            unsafe { u32::from(_mm512_cmp_pd_mask::<_CMP_GE_OQ>(_mm512_abs_pd(self), _mm512_set1_pd(floor))) }
        }
    }
);

vector!(
    __m256,
    f32,
    8,
    _mm256_set1_ps,
    _mm256_loadu_ps,
    _mm256_storeu_ps,
    _mm256_add_ps,
    _mm256_mul_ps,
    _mm256_fmadd_ps,
    {
        #[inline(always)]
        unsafe fn gather(base: *const f32, index: *const u32) -> Self {
            // SAFETY: `LANES` indices, and a number at each, by contract.
            unsafe { _mm256_i32gather_ps::<4>(base, _mm256_loadu_si256(index.cast())) }
        }

        #[inline(always)]
        unsafe fn gather_short(base: *const f32, index: *const u16) -> Self {
            // SAFETY: `LANES` indices, and a number at each, by contract.
            unsafe { _mm256_i32gather_ps::<4>(base, _mm256_cvtepu16_epi32(_mm_loadu_si128(index.cast()))) }
        }

        #[inline(always)]
        unsafe fn load_bytes(p: *const i8) -> Self {
            // SAFETY: `LANES` bytes at the pointer by contract.
            unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p.cast()))) }
        }

        #[inline(always)]
        unsafe fn sum(self) -> f32 {
            // SAFETY: registers alone; their instruction set by contract.
            unsafe {
                let h = _mm_add_ps(_mm256_castps256_ps128(self), _mm256_extractf128_ps::<1>(self));
                let h = _mm_add_ps(h, _mm_movehl_ps(h, h));
                _mm_cvtss_f32(_mm_add_ss(h, _mm_movehdup_ps(h)))
            }
        }

        #[inline(always)]
        unsafe fn at_least(self, floor: f32) -> u32 {
            // SAFETY: registers alone; their instruction set by contract.
            unsafe {
                let size = _mm256_andnot_ps(_mm256_set1_ps(-0.0), self);
                _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GE_OQ>(size, _mm256_set1_ps(floor))) as u32
            }
        }

        #[inline(always)]
        unsafe fn sums(list: *const Self, i: usize, n: usize, to: *mut f32, overwrite: bool) {
            // SAFETY: 16 registers of the list from `i`, and `n <= 16` numbers at `to`, by contract.
            unsafe {
                let mut sums = [0.0f32; 16];
                _mm256_storeu_ps(sums.as_mut_ptr(), eight(list.add(i)));
                _mm256_storeu_ps(sums.as_mut_ptr().add(8), eight(list.add(i + 8)));
                for (j, sum) in sums.iter().enumerate().take(n) {
                    let to = to.add(j);
                    *to = if overwrite { *sum } else { *to + *sum };
                }
            }
        }

        #[inline(always)]
        unsafe fn transpose(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
            // SAFETY: both squares are there by contract.
            unsafe { transpose_8(from, from_stride, to, to_stride) }
        }
    }
);

vector!(
    __m256d,
    f64,
    4,
    _mm256_set1_pd,
    _mm256_loadu_pd,
    _mm256_storeu_pd,
    _mm256_add_pd,
    _mm256_mul_pd,
    _mm256_fmadd_pd,
    {
        #[inline(always)]
        unsafe fn gather(base: *const f64, index: *const u32) -> Self {
            // SAFETY: `LANES` indices, and a number at each, by contract.
            unsafe { _mm256_i32gather_pd::<8>(base, _mm_loadu_si128(index.cast())) }
        }

        #[inline(always)]
        unsafe fn gather_short(base: *const f64, index: *const u16) -> Self {
            // SAFETY: `LANES` indices, and a number at each, by contract.
            unsafe { _mm256_i32gather_pd::<8>(base, _mm_cvtepu16_epi32(_mm_loadl_epi64(index.cast()))) }
        }

        #[inline(always)]
        unsafe fn sum(self) -> f64 {
            // SAFETY: registers alone; their instruction set by contract.
            unsafe {
                let h = _mm_add_pd(_mm256_castpd256_pd128(self), _mm256_extractf128_pd::<1>(self));
                _mm_cvtsd_f64(_mm_add_sd(h, _mm_unpackhi_pd(h, h)))
            }
        }

        #[inline(always)]
        unsafe fn at_least(self, floor: f64) -> u32 {
            // SAFETY: registers alone; their instruction set by contract.
            unsafe {
                let size = _mm256_andnot_pd(_mm256_set1_pd(-0.0), self);
                _mm256_movemask_pd(_mm256_cmp_pd::<_CMP_GE_OQ>(size, _mm256_set1_pd(floor))) as u32
            }
        }
    }
);

/// Sums the lanes of four registers over the four elements of each 128-bit lane.
#[inline(always)]
unsafe fn four(a: __m512, b: __m512, c: __m512, d: __m512) -> __m512 {
    // SAFETY: AVX-512 F by contract.
    unsafe {
        let ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
        let cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
        let (ab, cd) = (_mm512_castps_pd(ab), _mm512_castps_pd(cd));
        let low = _mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd));
        _mm512_add_ps(low, _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd)))
    }
}

/// Adds lower and upper halves of the next four registers of a list, quarter by quarter: leaves four numbers of each.
#[inline(always)]
unsafe fn quarters(list: *const __m512) -> __m512 {
    // SAFETY: AVX-512 F and four registers by contract.
    unsafe {
        let a = _mm512_add_ps(*list, *list.add(1));
        let b = _mm512_add_ps(*list.add(2), *list.add(3));
        _mm512_add_ps(_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xdd>(a, b))
    }
}

/// Eight sums at once.
#[inline(always)]
unsafe fn eight(v: *const __m256) -> __m256 {
    // SAFETY: AVX and eight registers by contract.
    unsafe {
        let low = _mm256_hadd_ps(_mm256_hadd_ps(*v, *v.add(1)), _mm256_hadd_ps(*v.add(2), *v.add(3)));
        let high = _mm256_hadd_ps(_mm256_hadd_ps(*v.add(4), *v.add(5)), _mm256_hadd_ps(*v.add(6), *v.add(7)));
        _mm256_add_ps(_mm256_permute2f128_ps::<0x20>(low, high), _mm256_permute2f128_ps::<0x31>(low, high))
    }
}

#[inline(always)]
unsafe fn transpose_16(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
    // SAFETY: AVX-512 F and both squares by contract.
    unsafe {
        let mut a = [_mm512_setzero_ps(); 16];
        for i in 0..16 {
            a[i] = _mm512_loadu_ps(from.add(i * from_stride));
        }
        // Four rows at a time, 4 by 4 within each 128-bit lane: b[4 i + j] has column j of every lane of rows 4 i..4 i + 4.
        let mut b = [_mm512_setzero_ps(); 16];
        for i in 0..4 {
            let (lo, hi) = (_mm512_unpacklo_ps, _mm512_unpackhi_ps);
            let (r, pd, ps) = (&a[4 * i..4 * i + 4], _mm512_castps_pd, _mm512_castpd_ps);
            let (l01, h01) = (pd(lo(r[0], r[1])), pd(hi(r[0], r[1])));
            let (l23, h23) = (pd(lo(r[2], r[3])), pd(hi(r[2], r[3])));
            b[4 * i] = ps(_mm512_unpacklo_pd(l01, l23));
            b[4 * i + 1] = ps(_mm512_unpackhi_pd(l01, l23));
            b[4 * i + 2] = ps(_mm512_unpacklo_pd(h01, h23));
            b[4 * i + 3] = ps(_mm512_unpackhi_pd(h01, h23));
        }
        // Then 4 by 4 lanes.
        for j in 0..4 {
            let (x, y) = (b[j], b[4 + j]);
            let (z, w) = (b[8 + j], b[12 + j]);
            let (xy02, xy13) = (_mm512_shuffle_f32x4::<0x88>(x, y), _mm512_shuffle_f32x4::<0xdd>(x, y));
            let (zw02, zw13) = (_mm512_shuffle_f32x4::<0x88>(z, w), _mm512_shuffle_f32x4::<0xdd>(z, w));
            _mm512_storeu_ps(to.add(j * to_stride), _mm512_shuffle_f32x4::<0x88>(xy02, zw02));
            _mm512_storeu_ps(to.add((4 + j) * to_stride), _mm512_shuffle_f32x4::<0x88>(xy13, zw13));
            _mm512_storeu_ps(to.add((8 + j) * to_stride), _mm512_shuffle_f32x4::<0xdd>(xy02, zw02));
            _mm512_storeu_ps(to.add((12 + j) * to_stride), _mm512_shuffle_f32x4::<0xdd>(xy13, zw13));
        }
    }
}

#[inline(always)]
unsafe fn transpose_8(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
    // SAFETY: AVX and both squares by contract.
    unsafe {
        let mut a = [_mm256_setzero_ps(); 8];
        for i in 0..8 {
            a[i] = _mm256_loadu_ps(from.add(i * from_stride));
        }
        let mut b = [_mm256_setzero_ps(); 8];
        for i in 0..2 {
            let r = &a[4 * i..4 * i + 4];
            let (l01, h01) = (_mm256_unpacklo_ps(r[0], r[1]), _mm256_unpackhi_ps(r[0], r[1]));
            let (l23, h23) = (_mm256_unpacklo_ps(r[2], r[3]), _mm256_unpackhi_ps(r[2], r[3]));
            b[4 * i] = _mm256_shuffle_ps::<0x44>(l01, l23);
            b[4 * i + 1] = _mm256_shuffle_ps::<0xee>(l01, l23);
            b[4 * i + 2] = _mm256_shuffle_ps::<0x44>(h01, h23);
            b[4 * i + 3] = _mm256_shuffle_ps::<0xee>(h01, h23);
        }
        for j in 0..4 {
            _mm256_storeu_ps(to.add(j * to_stride), _mm256_permute2f128_ps::<0x20>(b[j], b[4 + j]));
            _mm256_storeu_ps(to.add((4 + j) * to_stride), _mm256_permute2f128_ps::<0x31>(b[j], b[4 + j]));
        }
    }
}

impl Registers for f32 {
    type Portable = Portable<f32>;
    type Avx2 = __m256;
    type Avx512 = __m512;
}

impl Registers for f64 {
    type Portable = Portable<f64>;
    type Avx2 = __m256d;
    type Avx512 = __m512d;
}
