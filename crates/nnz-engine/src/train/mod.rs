//! Training: its settings ([`TrainSpec`]), its records ([`EpochRecord`], [`Progress`]), and [`Trainer`], which does it:
//! a [`Learner`] that a method acts on, with one file for the loop and one for the commands of procedures.

mod acts;
mod learner;
mod record;
mod spec;
mod state;
mod steps;
mod trainer;

pub use learner::Learner;
pub(crate) use record::Snapshot;
pub use record::{EpochRecord, Position, Progress};
pub use spec::{Dtype, TrainSpec, steps_per_epoch};
pub use trainer::{Observer, Trainer};
