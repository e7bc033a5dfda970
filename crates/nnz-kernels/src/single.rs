//! The format for one or a few samples.

use crate::simd::{Isa, Set};
use crate::{Csr, Expanded, Real, Sliced};

/// A layer frozen for one or a few samples, in the faster of two formats.
#[derive(Clone, Debug)]
pub enum Single<T> {
    /// Few nonzeros, each with its column.
    Sliced(Sliced<T>),
    /// Many nonzeros, one bit per place.
    Expanded(Expanded<T>),
}

impl<T: Real> Single<T> {
    /// Chooses the format at a density; `bytes` if values are rounded to eight bits. Measured with AVX-512, on the matrices
    /// of a language model that come from memory (`results/language-models.md`): one bit per place saves memory, and its
    /// cost does not fall with the density. Without AVX-512 registers are expanded lane by lane, which never pays.
    pub fn format(density: f64, bytes: bool) -> &'static str {
        let crossover = match Isa::best().set() {
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 if bytes => 0.3,
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => 0.45,
            _ => 1.0,
        };
        if density >= crossover { "expanded" } else { "sliced" }
    }

    /// Freezes a structure with values in row-by-row order.
    ///
    /// # Panics
    /// As [`Sliced::new`].
    pub fn new(csr: Csr, values: &[T]) -> Self {
        match Self::many(csr, false) {
            true => Self::Expanded(Expanded::new(csr, values)),
            false => Self::Sliced(Sliced::new(csr, values)),
        }
    }

    /// [`Single::new`] with values in eight bits; see [`Sliced::rounded`].
    ///
    /// # Panics
    /// As [`Sliced::new`].
    pub fn rounded(csr: Csr, values: &[T]) -> Self {
        match Self::many(csr, true) {
            true => Self::Expanded(Expanded::rounded(csr, values)),
            false => Self::Sliced(Sliced::rounded(csr, values)),
        }
    }

    fn many(csr: Csr, bytes: bool) -> bool {
        Self::format(csr.nnz() as f64 / (csr.rows as f64 * csr.cols as f64).max(1.0), bytes) == "expanded"
    }

    /// Name of its format.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Sliced(_) => "sliced",
            Self::Expanded(_) => "expanded",
        }
    }

    /// Bytes of values and structure.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Sliced(layer) => layer.bytes(),
            Self::Expanded(layer) => layer.bytes(),
        }
    }

    /// `y = x Wᵀ + bias`, `x` `[batch, in]` and `y` `[batch, out]` row-major.
    ///
    /// # Panics
    /// When a slice does not have its shape.
    pub fn apply(&self, batch: usize, x: &[T], bias: Option<&[T]>, y: &mut [T]) {
        match self {
            Self::Sliced(layer) => layer.apply(batch, x, bias, y),
            Self::Expanded(layer) => layer.apply(batch, x, bias, y),
        }
    }
}
