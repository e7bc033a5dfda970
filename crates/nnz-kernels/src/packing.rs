//! A permutation in three bytes an entry where they hold it.

use rayon::prelude::*;

use crate::Real;
use crate::simd::{Isa, Kernel, Vector};

/// Entries a thread takes at once.
const PART: usize = 1 << 14;

/// Where each entry of one order lies in another: a permutation of `0..len`. The upper half of a position is one byte up to
/// 2²⁴ entries, two bytes above.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packing {
    low: Vec<u16>,
    high: High,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum High {
    Bytes(Vec<u8>),
    Words(Vec<u16>),
}

impl Packing {
    /// From a permutation of as many positions.
    ///
    /// # Panics
    /// When a position is not below their number: gathers rest on it.
    pub fn new(from: &[u32]) -> Self {
        let max = from.iter().fold(0, |max, &p| max.max(p));
        assert!(from.is_empty() || (max as usize) < from.len(), "a position of a permutation");
        let mut low = vec![0; from.len()];
        low.par_iter_mut().zip(from).with_min_len(PART).for_each(|(to, &p)| *to = p as u16);
        let high = match from.len() <= 1 << 24 {
            true => High::Bytes(from.par_iter().with_min_len(PART).map(|p| (p >> 16) as u8).collect()),
            false => High::Words(from.par_iter().with_min_len(PART).map(|p| (p >> 16) as u16).collect()),
        };
        Self { low, high }
    }

    pub fn len(&self) -> usize {
        self.low.len()
    }

    /// Position of entry `i`.
    #[inline(always)]
    pub fn at(&self, i: usize) -> u32 {
        let high = match &self.high {
            High::Bytes(high) => u32::from(high[i]),
            High::Words(high) => u32::from(high[i]),
        };
        u32::from(self.low[i]) | high << 16
    }

    pub fn bytes(&self) -> usize {
        let high = match &self.high {
            High::Bytes(high) => high.len(),
            High::Words(high) => 2 * high.len(),
        };
        2 * self.low.len() + high
    }

    /// `to[i] = values[at(i)]`.
    ///
    /// # Panics
    /// When a slice does not have one number an entry.
    pub fn gather<T: Real>(&self, isa: Isa, values: &[T], to: &mut [T]) {
        assert_eq!((values.len(), to.len()), (self.len(), self.len()), "values and packed values");
        match &self.high {
            High::Bytes(high) => gather(isa, values, &self.low, high, to),
            High::Words(high) => gather(isa, values, &self.low, high, to),
        }
    }
}

fn gather<T: Real, H: Copy + Into<u32> + Sync>(isa: Isa, values: &[T], low: &[u16], high: &[H], to: &mut [T]) {
    let fill = |((to, low), high): ((&mut [T], &[u16]), &[H])| {
        // SAFETY: only called on a permutation of `0..len`, `len` the length of `values`; all three slices are as long.
        unsafe { isa.run(Permute { values, low, high, to }) }
    };
    if low.len() <= PART {
        fill(((to, low), high));
    } else {
        to.par_chunks_mut(PART).zip(low.par_chunks(PART)).zip(high.par_chunks(PART)).for_each(fill);
    }
}

/// `to[i] = values[low[i] + 2¹⁶ high[i]]`, all of them below the length of `values`, and as many of each as of `to`.
struct Permute<'a, T, H> {
    values: &'a [T],
    low: &'a [u16],
    high: &'a [H],
    to: &'a mut [T],
}

impl<T: Real, H: Copy + Into<u32>> Kernel<T> for Permute<'_, T, H> {
    #[inline(always)]
    unsafe fn run<V: Vector<T = T>>(self) {
        let whole = self.to.len() / 16 * 16;
        let (low, high) = (self.low.as_chunks::<16>().0, self.high.as_chunks::<16>().0);
        for (i, (low, high)) in low.iter().zip(high).enumerate() {
            let from: [u32; 16] = std::array::from_fn(|j| u32::from(low[j]) | high[j].into() << 16);
            for j in (0..16).step_by(V::LANES) {
                // SAFETY: by the condition above; sixteen numbers fit, and registers divide them.
                unsafe {
                    V::gather(self.values.as_ptr(), from.as_ptr().add(j)).store(self.to.as_mut_ptr().add(16 * i + j))
                }
            }
        }
        for i in whole..self.to.len() {
            self.to[i] = self.values[(u32::from(self.low[i]) | self.high[i].into() << 16) as usize];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::bits;

    #[test]
    fn holds_every_position_in_three_bytes_and_in_four() {
        for n in [0usize, 1, 15, 16, 17, 70_001, (1 << 24) + 9] {
            // A step that shares no factor with any of these numbers of entries.
            let from: Vec<u32> = (0..n).map(|i| ((i as u64 * 7_368_787 + 5) % n.max(1) as u64) as u32).collect();
            let packing = Packing::new(&from);
            assert_eq!(packing.bytes(), n * if n > 1 << 24 { 4 } else { 3 });
            assert!((0..n).all(|i| packing.at(i) == from[i]), "{n} entries");
            let values: Vec<f32> = (0..n as u64).map(|i| bits(1, i) as u16 as f32).collect();
            for &isa in Isa::available() {
                let mut to = vec![f32::NAN; n];
                packing.gather(isa, &values, &mut to);
                assert!(to.iter().zip(&from).all(|(v, &p)| *v == values[p as usize]), "{n} entries on {isa:?}");
            }
        }
    }

    #[test]
    #[should_panic(expected = "a position of a permutation")]
    fn a_position_out_of_range_is_refused() {
        Packing::new(&[0, 2]);
    }
}
