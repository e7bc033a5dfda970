//! Code compiled in this crate, once for `f32` and once for `f64`: the work behind the public generic functions, which every
//! calling crate would compile again with its own options (see `nnz_kernels`' list of the same kind). The functions here
//! delegate to it. This file knows the others, and none of them knows it.

use std::path::Path;

use nnz_core::{MethodInstance, Probe, Prunable, Setting, Topology};

use crate::data::{Dataset, Preprocessing, Split};
use crate::files::{self, Header, Packing};
use crate::layers::Layers;
use crate::step::{self, Make, Rows};
use crate::train::Observer;
use crate::{
    Evaluation, Frozen, Learner, Model, ModelSpec, Moved, PolicyRef, Progress, Real, Result, Tensor, TrainSpec,
    Trainer, evaluate as measures,
};

macro_rules! built {
    ($(fn $name:ident$(<$life:lifetime>)?($($arg:ident: $type:ty),* $(,)?) $(-> $out:ty)? = $work:path;)*) => {
        /// The engine's functions for one number type.
        #[allow(missing_docs)]
        #[doc(hidden)]
        pub trait Built: Sized {
            $(fn $name$(<$life>)?($($arg: $type),*) $(-> $out)? where Self: Number;)*
        }

        impl Built for f32 {
            $(fn $name$(<$life>)?($($arg: $type),*) $(-> $out)? { $work($($arg),*) })*
        }

        impl Built for f64 {
            $(fn $name$(<$life>)?($($arg: $type),*) $(-> $out)? { $work($($arg),*) })*
        }
    };
}

/// A number type that the engine is compiled for: `f32` or `f64`. Training, inference and file reading need it; tensors,
/// operations and layers are written for any [`Real`]. Sealed.
pub trait Number: Real + Built {}

impl Number for f32 {}
impl Number for f64 {}

built! {
    fn trainer<'a>(model: &ModelSpec, data: &'a Dataset, spec: &TrainSpec, seed: u64, frame: Option<Preprocessing>, make: Make)
        -> Result<Trainer<'a, Self>> = Trainer::new_generic;
    fn trainer_from<'a>(model: Model<Self>, frame: Preprocessing, data: &'a Dataset, spec: &TrainSpec, seed: u64, carry: bool, make: Make)
        -> Result<Trainer<'a, Self>> = Trainer::from_model_generic;
    fn train<'a>(trainer: &mut Trainer<'a, Self>, observer: &mut Observer<'_, 'a, Self>) -> Result<bool> = Trainer::run_generic;
    fn advance(trainer: &mut Trainer<Self>) -> Result<Progress> = Trainer::advance_generic;
    fn training_bytes(trainer: &Trainer<Self>, header: &Header, run: &str) -> Result<Vec<u8>> = Trainer::to_bytes_generic;
    fn resume(trainer: &mut Trainer<Self>, bytes: &[u8], path: &Path, run: &str) -> Result<()> = Trainer::resume_generic;
    fn evaluate_training(learner: &Learner<Self>, split: &Split, rows: &[u32]) -> Result<Evaluation> = Learner::evaluate_generic;

    fn born(spec: &ModelSpec, births: Option<Vec<Topology>>, storage: PolicyRef, prunable: &Prunable, seed: u64) -> Result<Model<Self>>
        = Model::born_generic;
    fn infer(model: &Model<Self>, input: Tensor<Self>) -> Result<Tensor<Self>> = Model::infer_generic;
    fn infer_frozen(model: &Frozen<Self>, input: Tensor<Self>) -> Result<Tensor<Self>> = Frozen::infer_generic;
    fn evaluate(model: &Model<Self>, data: &Dataset, split: &Split, rows: &[u32], frame: &Preprocessing) -> Result<Evaluation>
        = measures::evaluate_generic;
    fn prune(model: &mut Model<Self>, work: &mut MethodInstance, batch: Rows, storage: PolicyRef) -> Result<Moved> = step::prune_generic;
    fn probe(model: &Model<Self>, probe: &dyn Probe) -> f64 = step::probe_generic;
    fn parse(bytes: &[u8], path: &Path, storage: PolicyRef, layers: &Layers) -> Result<(Model<Self>, Header)> = files::parse_generic;
    fn model_bytes(model: &Model<Self>, header: &Header, packing: Packing) -> Result<Vec<u8>> = files::to_bytes_generic;
}

impl<'a, T: Number> Trainer<'a, T> {
    /// Starts training a new network on `data` with the method that `build` makes once the length of the run is known.
    pub fn new<W: Into<MethodInstance>>(
        model: &ModelSpec,
        data: &'a Dataset,
        spec: &TrainSpec,
        seed: u64,
        build: impl FnOnce(&Setting) -> nnz_core::Result<W>,
    ) -> Result<Self> {
        T::trainer(model, data, spec, seed, None, Box::new(|setting| Ok(build(setting)?.into())))
    }

    /// As [`Trainer::new`], under a given task, normalization and scales instead of those of the training rows.
    ///
    /// # Errors
    /// Those of [`Trainer::new`], and when the preprocessing does not fit the data.
    pub fn framed<W: Into<MethodInstance>>(
        model: &ModelSpec,
        frame: Preprocessing,
        data: &'a Dataset,
        spec: &TrainSpec,
        seed: u64,
        build: impl FnOnce(&Setting) -> nnz_core::Result<W>,
    ) -> Result<Self> {
        T::trainer(model, data, spec, seed, Some(frame), Box::new(|setting| Ok(build(setting)?.into())))
    }

    /// Continues training from the values of `model`, with the task, normalization and scales it was trained under. A
    /// method that draws an initial topology is refused: it would discard the trained values.
    pub fn from_model<W: Into<MethodInstance>>(
        model: Model<T>,
        frame: Preprocessing,
        data: &'a Dataset,
        spec: &TrainSpec,
        seed: u64,
        build: impl FnOnce(&Setting) -> nnz_core::Result<W>,
    ) -> Result<Self> {
        T::trainer_from(model, frame, data, spec, seed, false, Box::new(|setting| Ok(build(setting)?.into())))
    }

    /// As [`Trainer::from_model`], also for methods that draw an initial topology: its connections begin with the values that
    /// the model has there, zero where it has none. Which weights are prunable is the choice of the model.
    pub fn starting_from<W: Into<MethodInstance>>(
        model: Model<T>,
        frame: Preprocessing,
        data: &'a Dataset,
        spec: &TrainSpec,
        seed: u64,
        build: impl FnOnce(&Setting) -> nnz_core::Result<W>,
    ) -> Result<Self> {
        T::trainer_from(model, frame, data, spec, seed, true, Box::new(|setting| Ok(build(setting)?.into())))
    }

    /// Trains until the end, or until `observe` returns `false`. Returns whether the end was reached.
    pub fn run(&mut self, mut observe: impl FnMut(&Self, &Progress) -> bool) -> Result<bool> {
        T::train(self, &mut observe)
    }

    /// Makes one step: the method's plan, then forward, backward and update.
    pub fn advance(&mut self) -> Result<Progress> {
        T::advance(self)
    }

    /// Writes everything needed to resume bit for bit. `run` names the run it belongs to.
    pub fn save(&self, path: &Path, header: &Header, run: &str) -> Result<()> {
        files::write_atomically(path, &self.to_bytes(header, run)?)
    }

    /// What [`Trainer::save`] writes.
    pub fn to_bytes(&self, header: &Header, run: &str) -> Result<Vec<u8>> {
        T::training_bytes(self, header, run)
    }

    /// Restores a checkpoint of `run`; another run's is refused.
    pub fn resume(&mut self, path: &Path, run: &str) -> Result<()> {
        T::resume(self, &files::read(path)?, path, run)
    }

    /// As [`Trainer::resume`], from bytes.
    pub fn resume_bytes(&mut self, bytes: &[u8], run: &str) -> Result<()> {
        T::resume(self, bytes, Path::new("checkpoint"), run)
    }

    /// Measures [`Learner::result`] on rows of a split of the training's data.
    pub fn evaluate(&self, split: &Split, rows: &[u32]) -> Result<Evaluation> {
        T::evaluate_training(&self.learner, split, rows)
    }
}

impl<T: Number> Model<T> {
    /// Draws initial values. `births` has the topology of every prunable weight; without it they are dense. A layer born
    /// sparse never exists densely. `prunable` says which weights are; `false` all but the head.
    pub fn born<'a>(
        spec: &ModelSpec,
        births: Option<Vec<Topology>>,
        storage: impl Into<PolicyRef<'a>>,
        prunable: impl Into<Prunable>,
        seed: u64,
    ) -> Result<Self> {
        T::born(spec, births, storage.into(), &prunable.into(), seed)
    }

    /// Computes the output without a tape.
    pub fn infer(&self, input: Tensor<T>) -> Result<Tensor<T>> {
        T::infer(self, input)
    }
}

impl<T: Number> Frozen<T> {
    /// Computes the output of inputs `[batch, ..]`. Refuses what [`Model::infer`] refuses.
    pub fn infer(&self, input: Tensor<T>) -> Result<Tensor<T>> {
        T::infer_frozen(self, input)
    }
}

/// Measures a model on rows of a split of `data`.
pub fn evaluate<T: Number>(
    model: &Model<T>,
    data: &Dataset,
    split: &Split,
    rows: &[u32],
    frame: &Preprocessing,
) -> Result<Evaluation> {
    T::evaluate(model, data, split, rows, frame)
}

/// Prunes a trained model once, without training: the method's plans at step 0. `batch` is needed only by methods that
/// measure on data.
pub fn prune<'a, T: Number>(
    model: &mut Model<T>,
    work: &mut MethodInstance,
    batch: Option<(&Dataset, &[u32], &Preprocessing)>,
    storage: impl Into<PolicyRef<'a>>,
) -> Result<Moved> {
    T::prune(model, work, batch, storage.into())
}

/// Computes a probe of a network's weights.
pub fn probe<T: Number>(model: &Model<T>, probe: &dyn Probe) -> f64 {
    T::probe(model, probe)
}

/// Writes a model; the header's network becomes that of the model.
pub fn save_model<T: Number>(path: &Path, model: &Model<T>, header: &Header, packing: Packing) -> Result<()> {
    files::write_atomically(path, &model_bytes(model, header, packing)?)
}

/// What [`save_model`] writes.
pub fn model_bytes<T: Number>(model: &Model<T>, header: &Header, packing: Packing) -> Result<Vec<u8>> {
    T::model_bytes(model, header, packing)
}

/// Reads a model. Weights get the storage that `storage` resolves to; `auto` without a choice takes the file's policy.
pub fn load_model<'a, T: Number>(path: &Path, storage: impl Into<PolicyRef<'a>>) -> Result<(Model<T>, Header)> {
    parse_model(&files::read(path)?, path, storage)
}

/// As [`load_model`], from bytes in memory; `path` names them in errors.
pub fn parse_model<'a, T: Number>(
    bytes: &[u8],
    path: &Path,
    storage: impl Into<PolicyRef<'a>>,
) -> Result<(Model<T>, Header)> {
    T::parse(bytes, path, storage.into(), Layers::known())
}

/// As [`load_model`], for networks with layers of other crates that were not [made known](Layers::make_known).
///
/// # Errors
/// Those of [`load_model`], and when a layer is not among `layers`.
pub fn load_model_with<'a, T: Number>(
    path: &Path,
    storage: impl Into<PolicyRef<'a>>,
    layers: &Layers,
) -> Result<(Model<T>, Header)> {
    T::parse(&files::read(path)?, path, storage.into(), layers)
}
