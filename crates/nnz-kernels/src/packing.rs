//! A permutation in three bytes an entry where they hold it.

use rayon::prelude::*;

use crate::Real;
use crate::pages::zeros;
use crate::simd::{Isa, Kernel, Vector};
use crate::threads::spread;

/// Entries a thread takes at once.
const PART: usize = 1 << 14;

/// Where each entry of one order lies in another: a permutation of `0..len`. The upper half of a position is one byte up to
/// 2²⁴ entries, two bytes above.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packing {
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
    /// When a position is not below their number.
    pub fn new(from: &[u32]) -> Self {
        let mut new = Self::zeros(from.len());
        let parts = new.split(from.chunks(PART).map(<[u32]>::len));
        parts.into_par_iter().zip(from.par_chunks(PART)).for_each(|(mut to, from)| to.push(from));
        new
    }

    /// Of so many entries, all at position zero until others are [written](Slots::push).
    pub(crate) fn zeros(len: usize) -> Self {
        let high = if len <= 1 << 24 { High::Bytes(zeros(len)) } else { High::Words(zeros(len)) };
        Self { low: zeros(len), high }
    }

    /// Consecutive parts of so many entries each.
    pub(crate) fn split(&mut self, lens: impl Iterator<Item = usize>) -> Vec<Slots<'_>> {
        let len = self.len();
        let (mut low, mut bytes, mut words): (_, &mut [u8], &mut [u16]) = (&mut self.low[..], &mut [], &mut []);
        let wide = match &mut self.high {
            High::Bytes(high) => {
                bytes = high;
                false
            }
            High::Words(high) => {
                words = high;
                true
            }
        };
        let one = |n: usize| {
            let high = match wide {
                false => HighSlots::Bytes(bytes.split_off_mut(..n).expect("parts of all entries")),
                true => HighSlots::Words(words.split_off_mut(..n).expect("parts of all entries")),
            };
            Slots { len, low: low.split_off_mut(..n).expect("parts of all entries"), high, done: 0 }
        };
        lens.map(one).collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.low.len()
    }

    /// Positions of the entries from `first` on.
    #[inline(always)]
    pub(crate) fn read(&self, first: usize, to: &mut [u32]) {
        let low = &self.low[first..first + to.len()];
        match &self.high {
            High::Bytes(high) => read(low, &high[first..first + to.len()], to),
            High::Words(high) => read(low, &high[first..first + to.len()], to),
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        let high = match &self.high {
            High::Bytes(high) => high.len(),
            High::Words(high) => 2 * high.len(),
        };
        2 * self.low.len() + high
    }

    /// `to[i] = values[from[i]]`, of the positions that [`Packing::new`] was given.
    ///
    /// # Panics
    /// When a slice does not have one number an entry.
    pub fn apply<T: Real>(&self, values: &[T], to: &mut [T]) {
        T::permute(self, Isa::best(), values, to);
    }

    pub(crate) fn gather<T: Real>(&self, isa: Isa, values: &[T], to: &mut [T]) {
        assert_eq!((values.len(), to.len()), (self.len(), self.len()), "values and packed values");
        match &self.high {
            High::Bytes(high) => gather(isa, values, &self.low, high, to),
            High::Words(high) => gather(isa, values, &self.low, high, to),
        }
    }
}

#[inline(always)]
fn read<H: Copy + Into<u32>>(low: &[u16], high: &[H], to: &mut [u32]) {
    to.iter_mut().zip(low).zip(high).for_each(|((to, &low), &high)| *to = u32::from(low) | high.into() << 16);
}

/// The positions of some consecutive entries, written one after the other.
pub(crate) struct Slots<'a> {
    /// Entries of the whole.
    len: usize,
    low: &'a mut [u16],
    high: HighSlots<'a>,
    done: usize,
}

enum HighSlots<'a> {
    Bytes(&'a mut [u8]),
    Words(&'a mut [u16]),
}

impl Slots<'_> {
    /// Writes those of the next entries.
    ///
    /// # Panics
    /// When a position is not below the number of entries: gathers rest on it.
    #[inline(always)]
    pub fn push(&mut self, positions: &[u32]) {
        let own = self.done..self.done + positions.len();
        self.done = own.end;
        let low = &mut self.low[own.clone()];
        let max = match &mut self.high {
            HighSlots::Bytes(high) => write(positions, low, &mut high[own], |p| (p >> 16) as u8),
            HighSlots::Words(high) => write(positions, low, &mut high[own], |p| (p >> 16) as u16),
        };
        assert!(positions.is_empty() || (max as usize) < self.len, "a position of a permutation");
    }
}

/// Writes both halves of positions; the highest of them.
#[inline(always)]
fn write<H>(positions: &[u32], low: &mut [u16], high: &mut [H], half: impl Fn(u32) -> H) -> u32 {
    let mut max = 0;
    for ((&p, low), high) in positions.iter().zip(low).zip(high) {
        (*low, *high) = (p as u16, half(p));
        max = max.max(p);
    }
    max
}

fn gather<T: Real, H: Copy + Into<u32> + Sync>(isa: Isa, values: &[T], low: &[u16], high: &[H], to: &mut [T]) {
    let fill = |((to, low), high): ((&mut [T], &[u16]), &[H])| {
        // SAFETY: only called on a permutation of `0..len`, `len` the length of `values`; all three slices are as long.
        unsafe { isa.run(Permute { values, low, high, to }) }
    };
    match low.len() <= PART {
        true => fill(((to, low), high)),
        false => spread(to.chunks_mut(PART).zip(low.chunks(PART)).zip(high.chunks(PART)).collect(), fill),
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
            let mut read = vec![0; n];
            packing.read(0, &mut read);
            assert!(read == from, "{n} entries");
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
