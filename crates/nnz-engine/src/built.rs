//! What is compiled in this crate, once for `f32` and once for `f64`: the work behind the public generic functions, which every
//! crate that calls them would compile anew with its own options (see `nnz_kernels`' list of the same kind).

use std::path::Path;

use nnz_core::{Measure, Setting, Topology, Work};

use crate::data::{Dataset, Split};
use crate::file::{Header, Packing};
use crate::train::Observer;
use crate::{
    Evaluation, Frame, Frozen, Model, ModelSpec, Moved, Progress, Result, Storing, Tensor, TrainSpec, Trainer,
};

/// A method, once the length of the run is known.
pub(crate) type Make<'m> = Box<dyn FnOnce(&Setting) -> nnz_core::Result<Work> + 'm>;
/// Rows of a data set, and how they become inputs and goals.
pub(crate) type Rows<'m> = Option<(&'m Dataset, &'m [u32], &'m Frame)>;

macro_rules! built {
    ($(fn $name:ident$(<$life:lifetime>)?($($arg:ident: $type:ty),* $(,)?) $(-> $out:ty)? = $work:path;)*) => {
        /// The engine, by number.
        #[allow(missing_docs)]
        #[doc(hidden)]
        pub trait Built: Sized {
            $(fn $name$(<$life>)?($($arg: $type),*) $(-> $out)? where Self: Real;)*
        }

        impl Built for f32 {
            $(fn $name$(<$life>)?($($arg: $type),*) $(-> $out)? { $work($($arg),*) })*
        }

        impl Built for f64 {
            $(fn $name$(<$life>)?($($arg: $type),*) $(-> $out)? { $work($($arg),*) })*
        }
    };
}

/// A floating-point number that networks are made of: `f32` or `f64`. Sealed.
pub trait Real: nnz_kernels::Real + Built {}

impl Real for f32 {}
impl Real for f64 {}

built! {
    fn trainer<'a>(model: &ModelSpec, data: &'a Dataset, spec: &TrainSpec, seed: u64, make: Make) -> Result<Trainer<'a, Self>>
        = Trainer::new_generic;
    fn trainer_from<'a>(model: Model<Self>, frame: Frame, data: &'a Dataset, spec: &TrainSpec, seed: u64, make: Make)
        -> Result<Trainer<'a, Self>> = Trainer::from_model_generic;
    fn train<'a>(trainer: &mut Trainer<'a, Self>, observer: &mut Observer<'_, 'a, Self>) -> Result<bool> = Trainer::run_generic;
    fn advance(trainer: &mut Trainer<Self>) -> Result<Progress> = Trainer::advance_generic;
    fn save_training(trainer: &Trainer<Self>, path: &Path, header: &Header, run: &str) -> Result<()> = Trainer::save_generic;
    fn resume(trainer: &mut Trainer<Self>, path: &Path, run: &str) -> Result<()> = Trainer::resume_generic;

    fn born(spec: &ModelSpec, births: Option<Vec<Topology>>, storage: Storing, prune_head: bool, seed: u64) -> Result<Model<Self>>
        = Model::born_generic;
    fn infer(model: &Model<Self>, input: Tensor<Self>) -> Result<Tensor<Self>> = Model::infer_generic;
    fn infer_frozen(model: &Frozen<Self>, input: Tensor<Self>) -> Result<Tensor<Self>> = Frozen::infer_generic;
    fn evaluate(model: &Model<Self>, data: &Dataset, split: &Split, rows: &[u32], frame: &Frame) -> Result<Evaluation>
        = crate::task::evaluate_generic;
    fn prune(model: &mut Model<Self>, work: &mut Work, batch: Rows, storage: Storing) -> Result<Moved>
        = crate::step::prune_generic;
    fn measure(model: &Model<Self>, measure: &dyn Measure) -> f64 = crate::step::measure_generic;
    fn parse(bytes: &[u8], path: &Path, storage: Storing) -> Result<(Model<Self>, Header)> = crate::file::parse_generic;
    fn save(path: &Path, model: &Model<Self>, header: &Header, packing: Packing) -> Result<()> = crate::file::save_generic;
}
