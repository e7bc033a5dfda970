use crate::data::{Augment, Task};
use crate::{
    Error, LrSchedule, Model, OptimizerSpec, PolicyRef, Real, Result, Role, SparseThresholds, Storage, StoragePolicy,
};
use half::bf16;
use nnz_core::{LayerSet, Prunable, Setting};
use serde::{Deserialize, Serialize};

/// Number format of the weights and tables of a finished network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Dtype {
    /// Unchanged.
    #[default]
    Native,
    /// 16 bits with the exponent of f32 and 8 bits of precision, rounded to the nearest, ties to even.
    Bf16,
}

impl Dtype {
    /// Whether it is the default, for serde.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a parameter of this role is rounded: biases, norms and running statistics are not.
    pub(crate) fn rounds(self, role: Role) -> bool {
        self == Self::Bf16 && matches!(role, Role::Weight | Role::Table)
    }

    /// Rounds a network to what its file will hold.
    pub fn round<T: Real>(self, model: &mut Model<T>) {
        for p in model.params.iter_mut().filter(|p| self.rounds(p.role)) {
            let nearest = |v: &mut T| *v = T::of(bf16::from_f64(v.f64()).to_f64());
            p.value.data_mut().iter_mut().for_each(nearest);
        }
    }
}

fn is_zero(x: &f64) -> bool {
    *x == 0.0
}

/// Training settings: everything but the model, the data and the method.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainSpec {
    /// Passes over the training rows.
    pub epochs: u32,
    /// Rows of one step; the last step of an epoch may have fewer.
    pub batch: usize,
    /// The update rule.
    pub optimizer: OptimizerSpec,
    /// Shape of the learning rate.
    pub schedule: LrSchedule,
    /// Share of the run over which the learning rate first rises from zero.
    pub warmup: f64,
    /// How weights are stored.
    pub storage: Storage,
    /// Density thresholds of storage `auto`. A resumed training keeps those it began with.
    #[serde(default, skip_serializing_if = "SparseThresholds::is_empty")]
    pub crossovers: SparseThresholds,
    /// Whether the method may also prune the classifier head.
    pub prune_head: bool,
    /// The only layers that the method may prune, by role or name; all if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prune: Vec<LayerSet>,
    /// Layers that stay dense, by role or name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keep: Vec<LayerSet>,
    /// Fraction of the training rows held out for validation.
    pub validation: f64,
    /// Task of the network.
    #[serde(default, skip_serializing_if = "Task::is_default")]
    pub task: Task,
    /// Weight that cross-entropy spreads over all classes (Szegedy et al. 2016, arXiv:1512.00567).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub smoothing: f64,
    /// Largest Euclidean norm of all gradients together (Pascanu et al. 2013, arXiv:1211.5063).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip: Option<f64>,
    /// Decay d of a moving average a ← d a + (1 - d) w over the steps, which is what is evaluated and kept. At step t,
    /// from 0, d is at most (1 + t) / (10 + t), so that initial values are forgotten in a short run too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ema: Option<f64>,
    /// Random changes of training rows each time they are read.
    #[serde(default, skip_serializing_if = "Augment::is_off")]
    pub augment: Augment,
    /// Number format of the finished network.
    #[serde(default, skip_serializing_if = "Dtype::is_default")]
    pub dtype: Dtype,
}

impl TrainSpec {
    /// Refuses invalid settings, for images of `[channels, height, width]`.
    pub fn check(&self, image: [usize; 3]) -> Result<()> {
        let refuse = |why: String| Err(Error::Refused(why));
        if self.batch == 0 {
            return refuse("a batch needs at least one row (`--batch`)".into());
        }
        if !(0.0..1.0).contains(&self.smoothing) {
            return refuse(format!("label smoothing must be at least 0 and below 1, got {}", self.smoothing));
        }
        if self.smoothing > 0.0 && self.task != Task::Classification {
            return refuse("label smoothing is for classification".into());
        }
        if let Some(clip) = self.clip.filter(|c| !(*c > 0.0 && c.is_finite())) {
            return refuse(format!("the largest gradient norm must be above 0, got {clip}"));
        }
        if let Some(ema) = self.ema.filter(|d| !(0.0..1.0).contains(d)) {
            return refuse(format!("the decay of the average must be at least 0 and below 1, got {ema}"));
        }
        if let Some((name, at)) = self.crossovers.0.iter().find(|(_, d)| !(0.0..=1.0).contains(*d)) {
            return refuse(format!("the crossover of `{name}` is a density, from 0 to 1, got {at}"));
        }
        if self.storage != Storage::Auto && !self.crossovers.is_empty() {
            return refuse("crossovers are what storage auto follows; leave them out, or choose auto".into());
        }
        self.augment.check(image).or_else(refuse)
    }

    /// The run of a method on `rows` training rows.
    pub fn setting(&self, rows: usize, seed: u64) -> Setting {
        let steps_per_epoch = rows.div_ceil(self.batch.max(1)) as u64;
        Setting { seed, steps: steps_per_epoch * u64::from(self.epochs), steps_per_epoch }
    }

    /// Which weights the method may prune.
    pub fn prunable(&self) -> Prunable {
        Prunable { head: self.prune_head, prune: self.prune.clone(), keep: self.keep.clone() }
    }

    /// The storage policy that files keep.
    pub fn policy(&self) -> StoragePolicy {
        StoragePolicy { storage: self.storage, crossovers: self.crossovers.clone() }
    }

    /// Its storage, with the thresholds of `auto`.
    pub fn policy_ref(&self) -> PolicyRef<'_> {
        PolicyRef { storage: self.storage, crossovers: &self.crossovers }
    }
}

impl Default for TrainSpec {
    /// 20 epochs of 128 rows, SGD at 0.1 with a warm-up over a tenth of the run and half a cosine after it.
    fn default() -> Self {
        Self {
            epochs: 20,
            batch: 128,
            optimizer: OptimizerSpec::sgd(0.1),
            schedule: LrSchedule::Cosine,
            warmup: 0.1,
            storage: Storage::Auto,
            crossovers: SparseThresholds::default(),
            prune_head: false,
            prune: Vec::new(),
            keep: Vec::new(),
            validation: 0.1,
            task: Task::Classification,
            smoothing: 0.0,
            clip: None,
            ema: None,
            augment: Augment::default(),
            dtype: Dtype::Native,
        }
    }
}

/// Steps per epoch over `rows` rows.
pub fn steps_per_epoch(rows: usize, batch: usize) -> u64 {
    rows.div_ceil(batch.max(1)) as u64
}
