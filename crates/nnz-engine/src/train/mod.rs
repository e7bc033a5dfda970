//! Training: its settings ([`TrainSpec`]), its records ([`EpochRecord`], [`Progress`]), and [`Trainer`], which does it:
//! one file for its parts, one for its steps, one for the commands of procedures.

mod acts;
mod record;
mod spec;
mod state;
mod steps;
mod trainer;

pub(crate) use record::Snapshot;
pub use record::{EpochRecord, Position, Progress};
pub use spec::{Dtype, TrainSpec, steps_per_epoch};
pub use trainer::{Observer, Trainer};
