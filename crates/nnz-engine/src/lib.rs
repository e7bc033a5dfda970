//! The engine of nnz: models and their layers on dense and sparse storage, the trainer, data, and files. Tensors, the tape and
//! the operations are those of `nnz-tensor`.
#![forbid(unsafe_code)]

mod axes;
mod built;
pub mod cost;
pub mod data;
mod error;
mod evaluate;
mod files;
mod frozen;
mod history;
pub mod layers;
mod leaves;
mod model;
mod optim;
mod param;
mod spec;
mod step;
mod structure;
mod taps;
mod targets;
mod train;

/// Models and checkpoints as safetensors files.
pub mod file {
    pub use crate::built::{load_model, load_model_with, model_bytes, parse_model, save_model};
    pub use crate::files::{Header, Packing, Stored, is_checkpoint, write_atomically};
}

pub use nnz_tensor::fit::{LbfgsOptions, LrSchedule, OptimizerSpec, clip_by_norm, lbfgs};
pub use nnz_tensor::{Codes, Connections, Gradient, Real, SparseVar, Tensor, Var, derivatives, fit, ops, tape};

pub use axes::{Axis, Member, Span, axes};
pub use built::{Number, evaluate, probe, prune};
pub use data::{Preprocessing, Task};
pub use error::{Error, Result};
pub use evaluate::Evaluation;
pub use frozen::Frozen;
pub use history::{Event, History};
pub use layers::{
    Cache, CustomLayer, Effects, Gram, Init, LayerSpec, Layers, Mode, Moments, Open, ParamSpec, Pass, Role,
};
pub use leaves::{Formed, Made, Pulled, goes_straight, pulled};
pub use model::Model;
pub use optim::{Average, Optimizer};
pub use param::{
    Along, Entries, Layout, Moved, Param, PolicyRef, SPARSE_BELOW, SparseThresholds, Storage, StoragePolicy,
};
pub use spec::{KNOWN, ModelSpec};
pub use taps::{Change, Taps};
pub use targets::targets;
pub use train::{Dtype, EpochRecord, Learner, Observer, Position, Progress, TrainSpec, Trainer, steps_per_epoch};
