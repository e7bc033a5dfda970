//! Methods applied to single matrices of a model of which only a part is in memory.

use crate::{Error, Result};
use nnz_core::{
    Budget, DistributionKind, Edit, Grid, Magnitude, Method, MethodInstance, OneShot, Pattern, Plan, Setting, Shape,
    Target, TargetKind, Topology,
};
use nnz_engine::Moments;
use nnz_formats::{Dtype, Packing};
use toml::{Table, Value};

/// How a model is pruned and written.
pub struct Pruning<'a> {
    /// The method.
    pub method: &'static Method,
    /// Its options.
    pub options: &'a Table,
    /// Key of all random choices.
    pub seed: u64,
    /// Packing of matrices; by default the smallest common one.
    pub packing: Option<Packing>,
    /// Number type of the file.
    pub dtype: Dtype,
    /// Whether heads of graphs are pruned, too.
    pub heads: bool,
}

impl Pruning<'_> {
    /// The grid along which the method proceeds until the model's score falls, for methods that do.
    pub(crate) fn grid(&self) -> Result<Option<Grid>> {
        let setting = Setting { seed: self.seed, steps: 0, steps_per_epoch: 1 };
        Ok(self.method.build(self.options, &setting)?.grid)
    }

    /// Error: one budget for all matrices needs the scores of all of them.
    fn one_budget(&self) -> Error {
        Error::Refused(format!(
            "{} with one budget for the whole model needs the scores of all its weights at once; give \
             --distribution uniform",
            self.method.key
        ))
    }

    /// Error: the method needs the given inputs.
    pub(crate) fn needs(&self, what: &str) -> Error {
        Error::Refused(format!("{} weighs weights by what they read; give {what} with --calibrate", self.method.key))
    }
}

/// Matrices that are pruned one after the other, by index.
pub(crate) trait Matrices {
    /// Their names and extents.
    fn shapes(&self) -> Vec<Shape>;

    /// The entries of one, row-major.
    fn read(&self, index: usize) -> Result<Vec<f32>>;
}

/// Whether second moments are singular: fewer samples than inputs, or an input that is always zero.
pub(crate) fn is_singular(moments: &Moments) -> bool {
    let cols = moments.first.len();
    moments.rows < cols || (0..cols).any(|j| moments.square[j * cols + j] == 0.0)
}

/// Selection rule.
enum By {
    /// The method, under options.
    Method(Table),
    /// |w|.
    Magnitude(Budget),
}

/// A method prepared for single matrices.
pub(crate) struct Planned<'a> {
    pruning: &'a Pruning<'a>,
    by: By,
    /// Whether it needs inputs.
    pub reads: bool,
    /// Entries that each matrix keeps under one threshold for all of them.
    counts: Option<Vec<usize>>,
    shapes: Vec<Shape>,
}

impl<'a> Planned<'a> {
    /// Checks that a method can prune matrices one at a time.
    pub fn new(model: &dyn Matrices, pruning: &'a Pruning<'a>) -> Result<Self> {
        let (method, shapes) = (pruning.method, model.shapes());
        let mut options = pruning.options.clone();
        let mut full = method.defaults();
        full.extend(options.clone());
        let text = |key: &str| full.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let pattern: Pattern = text("pattern").parse().unwrap_or_default();
        if full.contains_key("at") {
            options.insert("at".into(), "0 run".into());
        }
        if let Some(fixed) = pattern.fixed_density()
            && !options.contains_key("density")
        {
            options.insert("density".into(), fixed.into());
        }
        let refuse = |what: &str| {
            Err(Error::Refused(format!(
                "{} {what}; magnitude, wanda, sparsegpt and dsnot prune models matrix by matrix",
                method.key
            )))
        };
        let setting = Setting { seed: pruning.seed, steps: 0, steps_per_epoch: 1 };
        let work = method.build(&options, &setting)?;
        if work.procedure.is_some() {
            return refuse("goes on in rounds that train or measure the model");
        }
        if work.parametrization.is_some() || work.sparsifier.kind() != TargetKind::Weights {
            return refuse("does more than remove weights of a trained model");
        }
        let distribution = text("distribution");
        let global = distribution == "global";
        if !distribution.is_empty() {
            options.insert("distribution".into(), "uniform".into());
        }
        let mut plan = Self { pruning, by: By::Method(options), reads: false, counts: None, shapes };
        let work = plan.build(None)?;
        match work.sparsifier.plan(0) {
            Plan::Rewire(s) if s.gradient || s.zeros > 0.0 || s.hessian_gradient.is_some() || s.synaptic_flow => {
                return refuse("asks for gradients of the whole model");
            }
            Plan::Rewire(s) => plan.reads = s.gram.is_some(),
            _ => return refuse("does not prune a trained model"),
        }
        if global && pattern.fixed_density().is_none() {
            if method.key != "magnitude" || pattern != Pattern::Unstructured {
                return Err(pruning.one_budget());
            }
            let density = full.get("density").and_then(Value::as_float).unwrap_or(1.0);
            plan.counts = Some(threshold(model, &plan.shapes, density)?);
        }
        work.sparsifier.check(&plan.shapes.iter().collect::<Vec<_>>())?;
        let kind: Option<DistributionKind> = Value::from(distribution.as_str()).try_into().ok();
        if let Some(kind) = kind.filter(|_| !global && distribution != "uniform" && pattern.fixed_density().is_none()) {
            let density = full.get("density").and_then(Value::as_float).unwrap_or(1.0);
            plan.counts = Some(kind.build().allocate(&plan.shapes.iter().collect::<Vec<_>>(), &[], density)?);
        }
        Ok(plan)
    }

    /// Removes the smallest weights by |w|, one matrix at a time.
    pub fn by_magnitude(model: &dyn Matrices, pruning: &'a Pruning<'a>, budget: Budget) -> Result<Self> {
        let (shapes, global) = (model.shapes(), budget.distribution == DistributionKind::Global);
        let counts = match budget.pattern {
            Pattern::Unstructured if global => Some(threshold(model, &shapes, budget.density)?),
            pattern if global && pattern.fixed_density().is_none() => return Err(pruning.one_budget()),
            _ => None,
        };
        let distribution = if global { DistributionKind::Uniform } else { budget.distribution };
        let plan = Self { pruning, by: By::Magnitude(Budget { distribution, ..budget }), reads: false, counts, shapes };
        plan.build(None)?.sparsifier.check(&plan.shapes.iter().collect::<Vec<_>>())?;
        Ok(plan)
    }

    /// Builds the method for one matrix.
    fn build(&self, share: Option<f64>) -> Result<MethodInstance> {
        let setting = Setting { seed: self.pruning.seed, steps: 0, steps_per_epoch: 1 };
        match &self.by {
            By::Method(options) => {
                let mut options = options.clone();
                options.extend(share.map(|share| ("density".into(), share.into())));
                Ok(self.pruning.method.build(&options, &setting)?)
            }
            By::Magnitude(budget) => {
                let density = share.unwrap_or(budget.density);
                let prune = Budget { density, ..*budget }.prune(Magnitude, OneShot { at: 0, density }, &setting);
                Ok(prune.into())
            }
        }
    }

    /// Prunes a matrix and rounds each number as a reader will get it.
    pub fn rounded(&self, index: usize, values: Vec<f32>, moments: Option<&Moments>) -> Result<Vec<f32>> {
        let mut values = self.prune(index, values, moments)?;
        let dtype = self.pruning.dtype.fitting(&values);
        values.iter_mut().for_each(|v| *v = dtype.round(*v));
        Ok(values)
    }

    /// Prunes a matrix.
    pub fn prune(&self, index: usize, values: Vec<f32>, moments: Option<&Moments>) -> Result<Vec<f32>> {
        let shape = &self.shapes[index];
        let share = self.counts.as_ref().map(|c| c[index] as f64 / shape.len() as f64);
        let mut work = self.build(share)?;
        let all = Topology::full(shape.rows, shape.cols);
        let (gram, mean): (&[f64], &[f64]) = moments.map_or((&[], &[]), |m| (&m.square, &m.first));
        let target = Target { gram, mean, ..Target::new(0, shape, &all, &values) };
        let edits = work.sparsifier.rewire(0, &[target])?;
        let mut kept = vec![0.0; values.len()];
        match &edits[0] {
            Edit::Keep => return Ok(values),
            Edit::Rewire { topology, .. } => topology.positions().for_each(|p| kept[p as usize] = values[p as usize]),
            Edit::Set { topology, values } => {
                topology.positions().zip(values).for_each(|(p, v)| kept[p as usize] = *v as f32);
            }
            Edit::Replace { .. } => {
                return Err(Error::Refused(format!(
                    "{} replaces layers, which is not done here",
                    self.pruning.method.key
                )));
            }
        }
        Ok(kept)
    }
}

/// Entries of each matrix above one threshold of |w|, ties by position, so that a share `density` of all stays. In two
/// passes over the file: the bits of |w| order as |w| does, so the upper and then the lower sixteen are counted.
fn threshold(model: &dyn Matrices, shapes: &[Shape], density: f64) -> Result<Vec<usize>> {
    let bits = |v: f32| v.abs().to_bits();
    let mut upper = vec![0u64; 1 << 16];
    for index in 0..shapes.len() {
        model.read(index)?.iter().for_each(|&v| upper[(bits(v) >> 16) as usize] += 1);
    }
    let total: u64 = upper.iter().sum();
    let mut wanted = (density * total as f64).round() as u64;
    // Down from the largest to the one that contains the threshold; returns the rest of `wanted` within it.
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
        let values = model.read(index)?;
        values.iter().filter(|v| bits(**v) >> 16 == high).for_each(|v| lower[(bits(*v) & 0xffff) as usize] += 1);
    }
    let least = high << 16 | cut(&lower, &mut wanted);
    let mut counts = Vec::with_capacity(shapes.len());
    for (index, shape) in shapes.iter().enumerate() {
        let values = model.read(index)?;
        let ties = (values.iter().filter(|v| bits(**v) == least).count() as u64).min(wanted);
        wanted -= ties;
        let count = values.iter().filter(|v| bits(**v) > least).count() + ties as usize;
        if count == 0 {
            return Err(Error::Refused(format!(
                "one threshold for the whole model would leave nothing of {}; give --distribution uniform",
                shape.name
            )));
        }
        counts.push(count);
    }
    Ok(counts)
}
