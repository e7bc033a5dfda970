//! Structured sparse fine-tuning: in every block a few heads of attention and a few channels of the feed-forward part are
//! chosen at random, and only the columns that read them, in the matrices `output` and `down`, are trained. With a block's
//! coupled matrices permuted alike ([`co_permute`]) these columns are one dense submatrix. Everything else stays as it was,
//! so that what was learned is an [`nnz_core::Adapter`]: columns and a dense block, which fuse, unfuse and switch to the bit.
//!
//! Cost: optimizer state for only the chosen columns; the gradient is computed whole.
//!
//! Deviations: columns are read and written in place instead of being moved to the front, which computes the same; the
//! engine computes the whole gradient of a matrix before columns are taken from it. A network without attention trains the
//! chosen columns of every hidden weight. Biases, norms and the head are trained by the run's optimizer as always.

use nnz_core::{Build, Dense, Leaf, Method, MethodInstance, Moment, Parametrization, Result, Rng, Setting, Shape, Variable, Weight, above, at_least, options};

/// The card.
pub const METHOD: Method = Method::new::<Options>(
    "s2ft",
    "S²FT",
    "Fine-tunes the columns of a few heads and channels, which are one dense submatrix of each block.",
)
.revised(2);

options! {
    /// Share of the heads and of the channels that are trained.
    share: f64 = 0.25 => above(0.0).at_most(1.0),
    /// Channels of one head, which are chosen together in a matrix named `output`.
    head: usize = 16 => at_least(1.0),
}


impl Build for Options {
    fn build(self, setting: &Setting) -> Result<MethodInstance> {
        let columns = Columns { options: self, seed: setting.seed };
        Ok(MethodInstance { parametrization: Some(Box::new(columns)), ..MethodInstance::from(Dense) })
    }
}

struct Columns {
    options: Options,
    seed: u64,
}

impl Columns {
    /// The columns of a weight that are trained, ascending; none of matrices that only take part in attention or make channels.
    fn chosen(&self, shape: &Shape) -> Vec<usize> {
        let part = shape.name.trim_end_matches(".weight").rsplit('.').next().unwrap_or_default();
        if matches!(part, "query" | "key" | "value" | "up") {
            return Vec::new();
        }
        let each = if part == "output" && shape.cols.is_multiple_of(self.options.head) { self.options.head } else { 1 };
        let units = shape.cols / each;
        let count = ((self.options.share * units as f64).round() as usize).clamp(1, units.max(1));
        let key = shape.name.bytes().fold(0u64, |h, b| h.wrapping_mul(31).wrapping_add(b.into()));
        let units = Rng::stream(self.seed, "s2ft", key, 0).distinct(units as u64, count.min(units));
        units.into_iter().flat_map(|u| (0..each).map(move |c| u as usize * each + c)).collect()
    }
}

/// Extracts columns of a row-major matrix.
fn take(values: &[f64], cols: usize, columns: &[usize]) -> Vec<f64> {
    values.chunks(cols.max(1)).flat_map(|row| columns.iter().map(|&c| row[c])).collect()
}

impl Parametrization for Columns {
    /// What stays; the trained block `[rows, chosen]`.
    fn leaves(&self, shape: &Shape, weight: &[f64]) -> Vec<Leaf> {
        let chosen = self.chosen(shape);
        let block = take(weight, shape.cols, &chosen);
        let leaf = |name, cols, values, decays| Leaf { name, dims: vec![shape.rows, cols], values, decays };
        vec![leaf("base", shape.cols, weight.to_vec(), false), leaf("block", chosen.len(), block, true)]
    }

    fn weight(&self, _: Moment, shape: &Shape, leaves: &[Variable]) -> Weight {
        Weight::Matrix(leaves[0].with_columns(self.chosen(shape), &leaves[1]))
    }

    fn trains(&self, leaf: usize) -> bool {
        leaf == 1
    }

    /// To the end of the run.
    fn until(&self) -> u64 {
        u64::MAX
    }
}

/// Moves the chosen channels between two matrices to the front: rows of the one that makes them, columns of the one that reads
/// them. `maker` is `[channels, inputs]`, `reader` `[outputs, channels]`; their product is unchanged, and the chosen columns
/// of the reader are its first ones, a dense submatrix. Returns the order.
pub fn co_permute<T: Copy>(maker: &mut [T], reader: &mut [T], channels: usize, chosen: &[usize]) -> Vec<usize> {
    let rest = (0..channels).filter(|c| !chosen.contains(c));
    let order: Vec<usize> = chosen.iter().copied().chain(rest).collect();
    let inputs = maker.len() / channels.max(1);
    let rows: Vec<T> = order.iter().flat_map(|&c| maker[c * inputs..(c + 1) * inputs].to_vec()).collect();
    maker.copy_from_slice(&rows);
    for row in reader.chunks_mut(channels.max(1)) {
        let moved: Vec<T> = order.iter().map(|&c| row[c]).collect();
        row.copy_from_slice(&moved);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use nnz_engine::pulled;
    use nnz_core::Adapter;

    fn numbers(seed: u64, n: usize) -> Vec<f64> {
        let mut rng = Rng::stream(seed, "numbers", 0, 0);
        (0..n).map(|_| rng.normal()).collect()
    }

    fn method(share: f64) -> Columns {
        Columns { options: Options { share, head: 4 }, seed: 3 }
    }

    #[test]
    fn whole_heads_and_single_channels_are_chosen() {
        let heads = method(0.5).chosen(&Shape::matrix("block1.attention.output.weight", 16, 16));
        assert_eq!(heads.len(), 8);
        assert!(heads.chunks(4).all(|h| h[0] % 4 == 0 && h.windows(2).all(|w| w[1] == w[0] + 1)), "{heads:?}");
        assert_eq!(method(0.25).chosen(&Shape::matrix("block1.down.weight", 16, 64)).len(), 16);
        assert!(method(0.5).chosen(&Shape::matrix("block1.attention.query.weight", 16, 16)).is_empty());
    }

    #[test]
    fn adapters_fuse_unfuse_and_switch_to_the_bit() {
        let base: Vec<f32> = numbers(0, 96).iter().map(|&v| v as f32).collect();
        let tuned = |seed: u64, columns: &[usize]| {
            let mut w = base.clone();
            let new = numbers(seed, 96);
            (0..96).filter(|i| columns.contains(&(i % 12))).for_each(|i| w[i] = new[i] as f32);
            w
        };
        let (first, second) = (tuned(1, &[2, 3]), tuned(2, &[3, 11]));
        let mut adapters = [Adapter::between(&base, &first, 12), Adapter::between(&base, &second, 12)];
        assert_eq!([&adapters[0].columns[..], &adapters[1].columns[..]], [[2, 3], [3, 11]]);
        let bits = |w: &[f32]| w.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        let mut weight = base.clone();
        for round in 0..3 {
            for (adapter, tuned) in adapters.iter_mut().zip([&first, &second]) {
                adapter.swap(&mut weight, 12);
                assert_eq!(bits(&weight), bits(tuned), "fused in round {round}");
                adapter.swap(&mut weight, 12);
                assert_eq!(bits(&weight), bits(&base), "unfused in round {round}");
            }
        }
    }

    #[test]
    fn permuted_alike_two_matrices_have_the_same_product() {
        let (mut maker, mut reader) = (numbers(0, 6 * 5), numbers(1, 4 * 6));
        let product = |maker: &[f64], reader: &[f64]| -> Vec<f64> {
            let entry = |i: usize, j: usize| (0..6).map(|c| reader[i * 6 + c] * maker[c * 5 + j]).sum::<f64>();
            (0..20).map(|k| entry(k / 5, k % 5)).collect()
        };
        let before = product(&maker, &reader);
        let chosen = take(&reader, 6, &[1, 4]);
        let order = co_permute(&mut maker, &mut reader, 6, &[1, 4]);
        assert_eq!(order, [1, 4, 0, 2, 3, 5]);
        assert!(before.iter().zip(product(&maker, &reader)).all(|(a, b)| (a - b).abs() < 1e-12));
        assert_eq!(take(&reader, 6, &[0, 1]), chosen, "the trained columns are the first ones");
    }

    #[test]
    fn only_the_block_is_trained() {
        let (p, shape) = (method(0.25), Shape::matrix("fc1.weight", 3, 8));
        let leaves = p.leaves(&shape, &numbers(0, 24));
        assert_eq!((&leaves[1].dims[..], [p.trains(0), p.trains(1)]), (&[3, 2][..], [false, true]));
        let gradient = numbers(1, 24);
        let pulled = pulled(&p, (0, 0), &shape, &leaves, &gradient);
        assert_eq!(pulled.weight, leaves[0].values);
        assert_eq!(pulled.leaves, [Vec::new(), take(&gradient, 8, &p.chosen(&shape))]);
    }
}
