use crate::Real;
use nnz_core::Rng;
use serde::{Deserialize, Serialize};

/// Random changes of training rows each time they are read, in the order of the fields. All random numbers come from
/// streams keyed by (seed, row, epoch): the order of the rows, threads and interruptions do not matter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Augment {
    /// Mirrors images left to right with probability 1/2.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub flip: bool,
    /// Black pixels added around the image before a random crop to its size.
    #[serde(skip_serializing_if = "is_zero")]
    pub crop: usize,
    /// Side of a square at a random centre that is set to the mean (DeVries & Taylor 2017, arXiv:1708.04552).
    #[serde(skip_serializing_if = "is_zero")]
    pub cutout: usize,
    /// α of mixup (Zhang et al. 2017, arXiv:1710.09412): inputs and targets become λ times their own and 1 - λ times those
    /// of another training row, λ from Beta(α, α). Every row draws its own λ and partner, and the partner may be any
    /// training row; the authors' code has one λ per batch and partners inside it.
    #[serde(skip_serializing_if = "is_none")]
    pub mixup: f64,
}

fn is_zero(n: &usize) -> bool {
    *n == 0
}

fn is_none(x: &f64) -> bool {
    *x == 0.0
}

impl Augment {
    /// Whether rows stay unchanged.
    pub fn is_off(&self) -> bool {
        *self == Self::default()
    }

    /// Returns why it does not suit images of `[channels, height, width]`.
    pub fn check(&self, [_, height, width]: [usize; 3]) -> Result<(), String> {
        if !(self.mixup >= 0.0 && self.mixup <= 100.0) {
            return Err(format!("the mixup α {} is not between 0 and 100", self.mixup));
        }
        if (self.flip || self.crop > 0 || self.cutout > 0) && (height < 2 || width < 2) {
            return Err(format!("flip, crop and cutout change pictures, and {height}x{width} is none"));
        }
        match self.crop.max(self.cutout) > height.min(width) {
            true => Err(format!("a crop of {} or a cutout of {} is larger than the picture", self.crop, self.cutout)),
            false => Ok(()),
        }
    }

    /// Changes one row `[height][width][channels]` in place. `black` is the value of a black pixel in each channel.
    pub(super) fn picture<T: Real>(
        &self,
        row: &mut [T],
        [channels, height, width]: [usize; 3],
        black: &[T],
        mut rng: Rng,
    ) {
        // Every choice is drawn, whether it is used or not, so that one does not affect the others.
        let mut draw = |n: usize| rng.below(n as u64) as usize;
        let (flip, down, right) = (draw(2) == 1, draw(2 * self.crop + 1), draw(2 * self.crop + 1));
        let (y, x) = (draw(height), draw(width));
        if self.flip && flip {
            for line in row.chunks_exact_mut(width * channels) {
                for i in 0..width / 2 {
                    (0..channels).for_each(|c| line.swap(i * channels + c, (width - 1 - i) * channels + c));
                }
            }
        }
        if self.crop > 0 {
            let before = row.to_vec();
            for (i, pixel) in row.chunks_exact_mut(channels).enumerate() {
                let from = (i / width + down).checked_sub(self.crop).zip((i % width + right).checked_sub(self.crop));
                match from.filter(|&(y, x)| y < height && x < width) {
                    Some((y, x)) => pixel.copy_from_slice(&before[(y * width + x) * channels..][..channels]),
                    None => pixel.copy_from_slice(&black[..channels]),
                }
            }
        }
        if self.cutout > 0 {
            let span = |at: usize, end: usize| {
                let first = at.saturating_sub(self.cutout / 2);
                first..(at + self.cutout - self.cutout / 2).min(end)
            };
            for line in span(y, height) {
                let cols = span(x, width);
                row[(line * width + cols.start) * channels..(line * width + cols.end) * channels].fill(T::ZERO);
            }
        }
    }

    /// λ and the partner's index among `rows`, if there is a mixup.
    pub(super) fn partner(&self, rows: usize, mut rng: Rng) -> Option<(f64, usize)> {
        (self.mixup > 0.0).then(|| (beta(self.mixup, &mut rng), rng.below(rows as u64) as usize))
    }
}

/// Draws from Beta(α, α), as x / (x + y) of two draws from Gamma(α).
fn beta(alpha: f64, rng: &mut Rng) -> f64 {
    let (x, y) = (gamma(alpha, rng), gamma(alpha, rng));
    // Both may underflow when α is tiny: then all weight goes to one or the other.
    if x + y > 0.0 { x / (x + y) } else { (rng.unit64() < 0.5).into() }
}

/// Draws from Gamma(α) by squeezing a cubed normal one (Marsaglia & Tsang 2000); below 1 by way of α + 1.
fn gamma(alpha: f64, rng: &mut Rng) -> f64 {
    if alpha < 1.0 {
        return gamma(alpha + 1.0, rng) * (1.0 - rng.unit64()).powf(1.0 / alpha);
    }
    let d = alpha - 1.0 / 3.0;
    loop {
        let x = rng.normal();
        let v = (1.0 + x / (9.0 * d).sqrt()).powi(3);
        if v > 0.0 && (1.0 - rng.unit64()).ln() < 0.5 * x * x + d - d * v + d * v.ln() {
            return d * v;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn go(augment: Augment, row: &[f64], image: [usize; 3], stream: u64) -> Vec<f64> {
        let mut row = row.to_vec();
        augment.picture(&mut row, image, &[-1.0, -2.0], Rng::stream(0, "augment", stream, 0));
        row
    }

    #[test]
    fn pictures_are_flipped_shifted_and_cut_in_every_way() {
        // Two channels, two lines, three columns; a pixel is (10 y + x, 100 + 10 y + x).
        let row: Vec<f64> =
            (0..6).flat_map(|i| [(i / 3 * 10 + i % 3) as f64, (100 + i / 3 * 10 + i % 3) as f64]).collect();
        let all = |augment: Augment| -> Vec<Vec<f64>> {
            let mut seen: Vec<Vec<f64>> = (0..400).map(|s| go(augment, &row, [2, 2, 3], s)).collect();
            seen.sort_by(|a, b| a.partial_cmp(b).unwrap());
            seen.dedup();
            seen
        };
        let flipped = all(Augment { flip: true, ..Augment::default() });
        assert_eq!(flipped.len(), 2);
        assert!(flipped.contains(&row));
        assert_eq!(flipped[1][..6], [2.0, 102.0, 1.0, 101.0, 0.0, 100.0]);
        let cropped = all(Augment { crop: 1, ..Augment::default() });
        assert_eq!(cropped.len(), 9, "three places along each axis");
        assert!(cropped.contains(&row));
        // Moved up and left by one: black at the lower and right edge.
        let moved = [11.0, 111.0, 12.0, 112.0, -1.0, -2.0, -1.0, -2.0, -1.0, -2.0, -1.0, -2.0];
        assert!(cropped.iter().any(|r| r[..] == moved));
        let cut = all(Augment { cutout: 1, ..Augment::default() });
        assert_eq!(cut.len(), 6, "one for each centre");
        assert!(cut.iter().all(|r| r.iter().zip(&row).filter(|(a, b)| a != b).all(|(a, _)| *a == 0.0)));
        assert_eq!(all(Augment::default()), std::slice::from_ref(&row));
    }

    #[test]
    fn beta_has_its_moments() {
        for alpha in [0.2, 1.0, 3.0] {
            let mut rng = Rng::stream(0, "beta", 0, 0);
            let draws: Vec<f64> = (0..40_000).map(|_| beta(alpha, &mut rng)).collect();
            let mean = draws.iter().sum::<f64>() / 4e4;
            let variance = draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 4e4;
            let want = 1.0 / (4.0 * (2.0 * alpha + 1.0));
            assert!((mean - 0.5).abs() < 0.01 && (variance / want - 1.0).abs() < 0.03, "{alpha}: {mean} {variance}");
        }
        let mut rng = Rng::stream(0, "beta", 1, 0);
        assert!((0..1000).all(|_| (0.0..=1.0).contains(&beta(1e-4, &mut rng))));
    }

    #[test]
    fn what_suits_no_picture_is_refused() {
        let flip = Augment { flip: true, ..Augment::default() };
        assert!(flip.check([1, 1, 784]).unwrap_err().contains("1x784"));
        assert!(Augment { crop: 9, ..Augment::default() }.check([1, 8, 8]).is_err());
        assert!(Augment { mixup: f64::NAN, ..Augment::default() }.check([1, 8, 8]).is_err());
        assert!(Augment { mixup: 0.2, ..Augment::default() }.check([1, 1, 784]).is_ok());
    }
}
