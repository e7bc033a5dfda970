//! The engine of nnz: tensors, a tape, layers on sparse storage, optimizers, the trainer and its files.
#![forbid(unsafe_code)]

mod axes;
mod built;
pub mod cost;
pub mod data;
pub mod derivatives;
mod error;
pub mod file;
mod frozen;
mod history;
pub mod layers;
mod lbfgs;
mod leaves;
mod model;
pub mod ops;
mod optim;
mod param;
mod spec;
mod step;
mod structure;
pub mod tape;
mod task;
mod tensor;
mod train;

pub use axes::{Axis, axes};
pub use built::Real;
pub use derivatives::Taps;
pub use error::{Error, Result};
pub use frozen::Frozen;
pub use history::{Event, History};
pub use layers::{Cache, Effects, Init, LayerSpec, Mode, ParamSpec, Role};
pub use lbfgs::{LbfgsOptions, lbfgs};
pub use model::{Gram, Model, Moments, Pass};
pub use optim::{Average, LrSchedule, Optimizer, OptimizerSpec, clip_by_norm};
pub use param::{Connections, Crossovers, Layout, Moved, Param, SPARSE_BELOW, Storage, StoragePolicy, Storing};
pub use spec::{KNOWN, ModelSpec};
pub use step::{measure, prune};
pub use tape::Var;
pub use task::{Evaluation, Frame, Task, evaluate};
pub use tensor::Tensor;
pub use train::{Dtype, EpochRecord, Position, Progress, TrainSpec, Trainer, steps_per_epoch, targets};
