use crate::{Error, Result, Shape};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Splits a model-wide density into one number of nonzeros for each target.
///
/// Every implementation gives exactly `round(density * entries)` in all, never more than a target holds, and refuses a
/// density that leaves a target empty.
pub trait Distribution: Send + Sync {
    /// Whether [`Distribution::allocate`] reads `scores`.
    fn needs_scores(&self) -> bool {
        false
    }

    /// `scores[i]` ranks the existing entries of `shapes[i]`; empty unless [`Distribution::needs_scores`].
    fn allocate(&self, shapes: &[&Shape], scores: &[Vec<f32>], density: f64) -> Result<Vec<usize>>;

    /// The same where only one target is in memory at a time: `scores` reads those of a target, as often as asked. `None` where that
    /// is not enough.
    fn allocate_streamed(&self, shapes: &[&Shape], density: f64, _scores: &mut Scores) -> Result<Option<Vec<usize>>> {
        if self.needs_scores() { Ok(None) } else { self.allocate(shapes, &[], density).map(Some) }
    }
}

/// Reads the scores of a target.
pub type Scores<'a> = dyn FnMut(usize) -> Result<Vec<f32>> + 'a;

/// The distributions by name, as options and recipes write them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DistributionKind {
    /// [`Uniform`]
    Uniform,
    /// [`UniformPlus`]
    UniformPlus,
    /// [`Er`]
    Er,
    /// [`Erk`]
    Erk,
    /// [`ErkPlus`]
    ErkPlus,
    /// [`Global`]
    Global,
    /// [`Owl`]
    Owl,
}

impl DistributionKind {
    /// Builds the distribution.
    pub fn build(self) -> Box<dyn Distribution> {
        match self {
            Self::Uniform => Box::new(Uniform),
            Self::UniformPlus => Box::new(UniformPlus),
            Self::Er => Box::new(Er),
            Self::Erk => Box::new(Erk),
            Self::ErkPlus => Box::new(ErkPlus),
            Self::Global => Box::new(Global),
            Self::Owl => Box::new(Owl),
        }
    }
}

/// The same density everywhere.
pub struct Uniform;

impl Distribution for Uniform {
    fn allocate(&self, shapes: &[&Shape], _: &[Vec<f32>], density: f64) -> Result<Vec<usize>> {
        finish(shapes, &vec![density; shapes.len()], density)
    }
}

/// [`Uniform`] with the first target dense wherever that leaves the others half of the budget, as RigL's uniform networks
/// are (Evci et al. 2020, section 3).
pub struct UniformPlus;

impl Distribution for UniformPlus {
    fn allocate(&self, shapes: &[&Shape], _: &[Vec<f32>], density: f64) -> Result<Vec<usize>> {
        let total: f64 = shapes.iter().map(|s| s.len() as f64).sum();
        let first = shapes.first().map_or(0.0, |s| s.len() as f64);
        if first > density * total / 2.0 {
            return Uniform.allocate(shapes, &[], density);
        }
        let rest = (density * total - first) / (total - first);
        let densities: Vec<f64> = (0..shapes.len()).map(|i| if i == 0 { 1.0 } else { rest }).collect();
        finish(shapes, &densities, density)
    }
}

/// Erdős-Rényi: density proportional to (out + in) / (out · in), channels only (Mocanu et al. 2018, eq. 3).
pub struct Er;

impl Distribution for Er {
    fn allocate(&self, shapes: &[&Shape], _: &[Vec<f32>], density: f64) -> Result<Vec<usize>> {
        let raw = |s: &Shape| {
            let channels = s.cols / (s.kernel[0] * s.kernel[1]);
            (s.rows + channels) as f64 / (s.rows * channels) as f64
        };
        finish(shapes, &proportional(shapes, raw, density), density)
    }
}

/// Erdős-Rényi-Kernel: density proportional to (out + in + kh + kw) / (out · in · kh · kw), capped at one
/// (Evci et al. 2020). For a matrix this is [`Er`].
pub struct Erk;

fn erk_raw(s: &Shape) -> f64 {
    let [h, w] = s.kernel;
    let kernel = if h * w > 1 { h + w } else { 0 };
    (s.rows + s.cols / (h * w) + kernel) as f64 / s.len() as f64
}

impl Distribution for Erk {
    fn allocate(&self, shapes: &[&Shape], _: &[Vec<f32>], density: f64) -> Result<Vec<usize>> {
        finish(shapes, &proportional(shapes, erk_raw, density), density)
    }
}

/// [`Erk`] with the head dense wherever that fits the budget (Liu et al. 2022, arXiv:2202.02643, section 3.1).
pub struct ErkPlus;

impl Distribution for ErkPlus {
    fn allocate(&self, shapes: &[&Shape], _: &[Vec<f32>], density: f64) -> Result<Vec<usize>> {
        let total: f64 = shapes.iter().map(|s| s.len() as f64).sum();
        let head: f64 = shapes.iter().filter(|s| s.head).map(|s| s.len() as f64).sum();
        if head == 0.0 || head >= density * total {
            return Erk.allocate(shapes, &[], density);
        }
        let body: Vec<&Shape> = shapes.iter().copied().filter(|s| !s.head).collect();
        let mut rest = proportional(&body, erk_raw, (density * total - head) / (total - head)).into_iter();
        let densities: Vec<f64> =
            shapes.iter().map(|s| if s.head { 1.0 } else { rest.next().unwrap_or(1.0) }).collect();
        finish(shapes, &densities, density)
    }
}

/// One threshold for the whole model: the counts of the highest scores of all targets, ties by target and entry.
pub struct Global;

impl Distribution for Global {
    fn needs_scores(&self) -> bool {
        true
    }

    fn allocate(&self, shapes: &[&Shape], scores: &[Vec<f32>], density: f64) -> Result<Vec<usize>> {
        let total: usize = shapes.iter().map(|s| s.len()).sum();
        let keep = ((density * total as f64).round() as usize).min(scores.iter().map(Vec::len).sum());
        let mut all: Vec<f32> = scores.iter().flatten().copied().collect();
        let mut counts = vec![0; shapes.len()];
        if keep > 0 {
            let threshold = *all.select_nth_unstable_by(keep - 1, |a, b| b.total_cmp(a)).1;
            let above = |s: &[f32]| s.iter().filter(|x| x.total_cmp(&threshold).is_gt()).count();
            let mut ties = keep - scores.iter().map(|s| above(s)).sum::<usize>();
            for (count, s) in counts.iter_mut().zip(scores) {
                let equal = s.iter().filter(|x| x.total_cmp(&threshold).is_eq()).count().min(ties);
                ties -= equal;
                *count = above(s) + equal;
            }
        }
        refuse_empty(shapes, &counts, density)?;
        Ok(counts)
    }

    /// In three passes: the bits of a number, its sign turned, order as [`f32::total_cmp`] does, so the upper and then the lower
    /// sixteen are counted, and then what lies above the threshold.
    fn allocate_streamed(&self, shapes: &[&Shape], density: f64, scores: &mut Scores) -> Result<Option<Vec<usize>>> {
        let key = |v: &f32| {
            let bits = v.to_bits();
            if bits >> 31 == 1 { !bits } else { bits | 1 << 31 }
        };
        let mut upper = vec![0u64; 1 << 16];
        for index in 0..shapes.len() {
            scores(index)?.iter().for_each(|v| upper[(key(v) >> 16) as usize] += 1);
        }
        let total: usize = shapes.iter().map(|s| s.len()).sum();
        let mut wanted = ((density * total as f64).round() as u64).min(upper.iter().sum());
        // Down from the largest to the one that the threshold lies in; what is wanted of it.
        let cut = |counts: &[u64], wanted: &mut u64| {
            let mut at = counts.len() - 1;
            while at > 0 && *wanted > counts[at] {
                *wanted -= counts[at];
                at -= 1;
            }
            at as u32
        };
        let high = cut(&upper, &mut wanted);
        let mut lower = vec![0u64; 1 << 16];
        for index in 0..shapes.len() {
            let scores = scores(index)?;
            scores.iter().map(key).filter(|k| k >> 16 == high).for_each(|k| lower[(k & 0xffff) as usize] += 1);
        }
        let threshold = high << 16 | cut(&lower, &mut wanted);
        let mut counts = Vec::with_capacity(shapes.len());
        for index in 0..shapes.len() {
            let scores = scores(index)?;
            let ties = (scores.iter().filter(|v| key(v) == threshold).count() as u64).min(wanted);
            wanted -= ties;
            counts.push(scores.iter().filter(|v| key(v) > threshold).count() + ties as usize);
        }
        match counts.iter().position(|&c| c == 0) {
            None => Ok(Some(counts)),
            Some(i) => Err(Error::Refused(format!(
                "one threshold for the whole model would leave nothing of `{}`; choose distribution uniform",
                shapes[i].name
            ))),
        }
    }
}

/// More weights for blocks that have more outliers (OWL, Yin et al. 2024, arXiv:2310.05175, section 4). The outliers of a block are the
/// weights whose score |w_ij| ‖x_j‖ is more than M = 5 times the mean of their matrix; the share D of them in each block is scaled to an
/// interval of 2λ = 0.16, whose mean is the density.
///
/// A block is the targets whose names agree up to their first number, such as `layers.3.`; another target is a block by itself.
/// Deviations: means weigh blocks by their entries, so that the budget is exact, and outliers are counted against the mean of their
/// matrix instead of their block's.
pub struct Owl;

impl Owl {
    /// M, in means.
    pub const OUTLIER: f64 = 5.0;
    /// λ.
    const SPREAD: f64 = 0.08;

    /// Counts the outliers among scores.
    pub fn outliers(scores: &[f32]) -> usize {
        let mean = scores.iter().map(|&s| f64::from(s)).sum::<f64>() / scores.len().max(1) as f64;
        scores.iter().filter(|&&s| f64::from(s) > Self::OUTLIER * mean).count()
    }

    /// Divides the budget by the outliers of every target.
    ///
    /// # Errors
    /// As [`Distribution::allocate`].
    pub fn divide(shapes: &[&Shape], outliers: &[usize], density: f64) -> Result<Vec<usize>> {
        let mut blocks: BTreeMap<&str, [f64; 2]> = BTreeMap::new();
        for (s, &found) in shapes.iter().zip(outliers) {
            let [all, entries] = blocks.entry(block(&s.name)).or_default();
            (*all, *entries) = (*all + found as f64, *entries + s.len() as f64);
        }
        let share = |[all, entries]: [f64; 2]| all / entries.max(1.0);
        let (low, high) =
            blocks.values().fold((f64::MAX, 0.0f64), |(low, high), b| (low.min(share(*b)), high.max(share(*b))));
        let scaled = |b: [f64; 2]| if high > low { 2.0 * Self::SPREAD * (share(b) - low) / (high - low) } else { 0.0 };
        let entries: f64 = blocks.values().map(|b| b[1]).sum();
        let mean = blocks.values().map(|b| scaled(*b) * b[1]).sum::<f64>() / entries.max(1.0);
        let densities: Vec<f64> = shapes.iter().map(|s| density + scaled(blocks[block(&s.name)]) - mean).collect();
        finish(shapes, &densities, density)
    }
}

/// The block that a target belongs to: its name up to the first number between dots.
fn block(name: &str) -> &str {
    let mut end = 0;
    for part in name.split('.') {
        end += part.len();
        if !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()) {
            return &name[..end];
        }
        end += 1;
    }
    name
}

impl Distribution for Owl {
    fn allocate(&self, _: &[&Shape], _: &[Vec<f32>], _: f64) -> Result<Vec<usize>> {
        Err(Error::Refused(
            "distribution owl looks at what weights read, which this method does not; wanda, sparsegpt and dsnot do"
                .into(),
        ))
    }
}

/// Densities `min(1, ε · raw)` with ε such that the budget is met; capping one target raises the others.
fn proportional(shapes: &[&Shape], raw: impl Fn(&Shape) -> f64, density: f64) -> Vec<f64> {
    let raw: Vec<f64> = shapes.iter().map(|s| raw(s)).collect();
    let size: Vec<f64> = shapes.iter().map(|s| s.len() as f64).collect();
    let budget = density * size.iter().sum::<f64>();
    let mut dense = vec![false; shapes.len()];
    loop {
        let fixed: f64 = (0..raw.len()).filter(|&i| dense[i]).map(|i| size[i]).sum();
        let free: f64 = (0..raw.len()).filter(|&i| !dense[i]).map(|i| size[i] * raw[i]).sum();
        let epsilon = if free > 0.0 { (budget - fixed) / free } else { 0.0 };
        let largest = (0..raw.len()).filter(|&i| !dense[i]).max_by(|&a, &b| raw[a].total_cmp(&raw[b]));
        match largest {
            Some(i) if epsilon * raw[i] > 1.0 => dense[i] = true,
            _ => return (0..raw.len()).map(|i| if dense[i] { 1.0 } else { epsilon * raw[i] }).collect(),
        }
    }
}

/// [`Distribution::allocate`]; if a target would end up empty, the error names the smallest density that works.
pub fn allocate(
    distribution: &dyn Distribution,
    shapes: &[&Shape],
    scores: &[Vec<f32>],
    density: f64,
) -> Result<Vec<usize>> {
    distribution.allocate(shapes, scores, density).map_err(|e| match e {
        Error::EmptyLayer { layer, rows, cols, density, .. } => {
            // Counts grow with the density, so the smallest one that works can be bisected.
            let (mut low, mut high): (f64, f64) = (density, 1.0);
            while high / low > 1.001 {
                let middle = (low * high).sqrt();
                match distribution.allocate(shapes, scores, middle) {
                    Ok(_) => high = middle,
                    Err(_) => low = middle,
                }
            }
            Error::EmptyLayer { layer, rows, cols, density, minimum: high }
        }
        other => other,
    })
}

/// Turns densities into whole numbers that add up to `round(density * entries)`: floors, then the largest remainders.
fn finish(shapes: &[&Shape], densities: &[f64], density: f64) -> Result<Vec<usize>> {
    if !(density > 0.0 && density <= 1.0) {
        return Err(Error::Range { name: "density", range: "above 0 and at most 1".into(), got: density });
    }
    let exact: Vec<f64> = shapes.iter().zip(densities).map(|(s, d)| d.clamp(0.0, 1.0) * s.len() as f64).collect();
    let mut counts: Vec<usize> = exact.iter().map(|x| x.floor() as usize).collect();
    let total: usize = shapes.iter().map(|s| s.len()).sum();
    let budget = (density * total as f64).round() as usize;
    let mut order: Vec<usize> = (0..shapes.len()).collect();
    order.sort_by(|&a, &b| (exact[b] - exact[b].floor()).total_cmp(&(exact[a] - exact[a].floor())).then(a.cmp(&b)));
    let mut missing = budget.saturating_sub(counts.iter().sum());
    while missing > 0 {
        let before = missing;
        for &i in &order {
            if missing > 0 && counts[i] < shapes[i].len() {
                counts[i] += 1;
                missing -= 1;
            }
        }
        if missing == before {
            break;
        }
    }
    refuse_empty(shapes, &counts, density)?;
    Ok(counts)
}

fn refuse_empty(shapes: &[&Shape], counts: &[usize], density: f64) -> Result<()> {
    let Some(i) = counts.iter().position(|&c| c == 0) else { return Ok(()) };
    let s = shapes[i];
    Err(Error::EmptyLayer { layer: s.name.clone(), rows: s.rows, cols: s.cols, density, minimum: f64::NAN })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lenet() -> Vec<Shape> {
        let mut head = Shape::matrix("fc3", 10, 100);
        head.head = true;
        vec![Shape::matrix("fc1", 300, 784), Shape::matrix("fc2", 100, 300), head]
    }

    fn allocate(d: &dyn Distribution, density: f64) -> Vec<usize> {
        let shapes = lenet();
        d.allocate(&shapes.iter().collect::<Vec<_>>(), &[], density).unwrap()
    }

    #[test]
    fn budgets_are_exact() {
        let total: usize = lenet().iter().map(Shape::len).sum();
        use DistributionKind as Kind;
        for kind in [Kind::Uniform, Kind::UniformPlus, Kind::Er, Kind::Erk, Kind::ErkPlus] {
            for density in [0.01, 0.05, 0.3, 0.77, 1.0] {
                let counts = allocate(&*kind.build(), density);
                assert_eq!(
                    counts.iter().sum::<usize>(),
                    (density * total as f64).round() as usize,
                    "{kind:?} {density}"
                );
            }
        }
    }

    #[test]
    fn blocks_with_more_outliers_keep_more() {
        assert_eq!(Owl::outliers(&[1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 20.0]), 1, "the mean is 2.9");
        let names = ["layers.0.q.weight", "layers.0.up.weight", "layers.1.q.weight", "layers.12.q.weight"];
        assert_eq!(names.map(block), ["layers.0", "layers.0", "layers.1", "layers.12"]);
        assert_eq!(["fc1.weight", "layer1.0.conv1", "a..3"].map(block), ["fc1.weight", "layer1.0", "a..3"]);
        let shapes = names.map(|n| Shape::matrix(n, 50, 100));
        let shapes: Vec<&Shape> = shapes.iter().collect();
        // Shares of outliers 0.02, 0.01 and 0.04 in blocks of 2, 1 and 1 matrices: scaled by 0.16 / 0.03 above the least they are 4/75, 0
        // and 12/75, and their mean is (2 * 4 + 0 + 12) / 300.
        let counts = Owl::divide(&shapes, &[150, 50, 50, 200], 0.5).unwrap();
        let expected = [4.0, 4.0, 0.0, 12.0].map(|s| ((0.5 + s / 75.0 - 20.0 / 300.0) * 5000.0f64).round() as usize);
        assert!(counts.iter().zip(expected).all(|(c, e)| c.abs_diff(e) <= 1), "{counts:?} {expected:?}");
        assert_eq!(counts.iter().sum::<usize>(), 10_000);
        assert_eq!(Owl::divide(&shapes, &[7; 4], 0.3).unwrap(), [1500; 4], "alike");
    }

    #[test]
    fn erk_is_proportional_and_caps() {
        // LeNet-300-100 at 0.05 by hand: raw densities 1084/235200, 400/30000, 110/1000; uncapped ε would be
        // 13310 / (1084 + 400 + 110) = 8.35, so ε * 0.11 = 0.92 < 1: nothing is capped and counts follow n_in + n_out.
        assert_eq!(allocate(&Erk, 0.05), [9051, 3340, 919]);
        // At 0.1 the head is capped: ε = (26620 - 1000) / 1484.
        let counts = allocate(&Erk, 0.1);
        assert_eq!(counts[2], 1000);
        assert!((counts[0] as f64 / counts[1] as f64 - 1084.0 / 400.0).abs() < 1e-3);
    }

    #[test]
    fn erk_of_a_convolution_counts_its_kernel() {
        // google-research/rigl sparse_utils: sum(shape) / prod(shape) of [5, 5, 6, 16].
        let conv = Shape { kernel: [5, 5], ..Shape::matrix("conv", 16, 6 * 25) };
        assert!((erk_raw(&conv) - 32.0 / 2400.0).abs() < 1e-12);
    }

    #[test]
    fn erk_plus_keeps_the_head_dense() {
        assert_eq!(allocate(&ErkPlus, 0.05)[2], 1000);
    }

    #[test]
    fn uniform_plus_keeps_a_small_first_layer_dense() {
        let shapes = [Shape::matrix("conv1", 8, 27), Shape::matrix("conv2", 100, 72), Shape::matrix("conv3", 100, 100)];
        let refs: Vec<&Shape> = shapes.iter().collect();
        let counts = UniformPlus.allocate(&refs, &[], 0.1).unwrap();
        assert_eq!(counts[0], 216);
        assert_eq!(counts.iter().sum::<usize>(), 1742);
        assert!((counts[1] as f64 / 7200.0 - counts[2] as f64 / 10000.0).abs() < 1e-3);
        // LeNet's first layer is most of the network.
        assert_eq!(allocate(&UniformPlus, 0.05), allocate(&Uniform, 0.05));
    }

    #[test]
    fn global_breaks_ties_in_order_and_refuses_empty() {
        let shapes = [Shape::matrix("a", 1, 4), Shape::matrix("b", 1, 4)];
        let refs: Vec<&Shape> = shapes.iter().collect();
        let counts = Global.allocate(&refs, &[vec![1.0; 4], vec![1.0, 1.0, 2.0, 0.0]], 0.5).unwrap();
        assert_eq!(counts, [3, 1]);
        let e = Global.allocate(&refs, &[vec![1.0; 4], vec![0.0; 4]], 0.5).unwrap_err();
        assert!(e.to_string().contains("`b`"), "{e}");
    }

    /// One target at a time gives what all at once give, ties and signs included.
    #[test]
    fn a_streamed_threshold_is_the_threshold() {
        let shapes = lenet();
        let shapes: Vec<&Shape> = shapes.iter().collect();
        let mut rng = crate::Rng::stream(0, "scores", 0, 0);
        // Few different numbers, so that many are equal, and zeros of both signs.
        let mut draw = |n: usize| (0..n).map(|_| ((rng.normal() * 4.0).round() / 4.0) as f32).collect::<Vec<f32>>();
        let scores: Vec<Vec<f32>> = shapes.iter().map(|s| draw(s.len())).collect();
        for density in [0.9, 0.5, 0.1, 0.013] {
            let all = Global.allocate(&shapes, &scores, density).unwrap();
            let streamed = Global.allocate_streamed(&shapes, density, &mut |i| Ok(scores[i].clone())).unwrap();
            assert_eq!(streamed, Some(all), "{density}");
        }
        let mut none = |i: usize| Ok(vec![if i == 1 { 0.0 } else { 1.0 }; shapes[i].len()]);
        let why = Global.allocate_streamed(&shapes, 0.5, &mut none).unwrap_err().to_string();
        assert!(why.contains("`fc2`"), "{why}");
    }

    #[test]
    fn the_offered_minimum_works() {
        let shapes = lenet();
        let shapes: Vec<&Shape> = shapes.iter().collect();
        for kind in [DistributionKind::Uniform, DistributionKind::Erk] {
            let Err(Error::EmptyLayer { minimum, .. }) = super::allocate(&*kind.build(), &shapes, &[], 1e-5) else {
                panic!("{kind:?} allowed 1e-5")
            };
            assert!(kind.build().allocate(&shapes, &[], minimum).is_ok(), "{kind:?} {minimum}");
            assert!(kind.build().allocate(&shapes, &[], minimum / 2.0).is_err(), "{kind:?} {minimum}");
        }
    }

    #[test]
    fn density_out_of_range_is_refused() {
        for bad in [0.0, -1.0, 1.5, f64::NAN] {
            let shapes = lenet();
            assert!(Uniform.allocate(&shapes.iter().collect::<Vec<_>>(), &[], bad).is_err(), "{bad}");
        }
    }
}
