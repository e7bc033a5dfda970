//! Training: what it is told ([`TrainSpec`]), what it tells ([`EpochRecord`], [`Progress`]), and [`Trainer`], which does it:
//! one file for its parts, one for its steps, one for the acts of procedures.

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
