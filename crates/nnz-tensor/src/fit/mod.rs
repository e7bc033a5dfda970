//! A model-agnostic loop: parameters by name ([`Parameter`]), a function of them ([`Objective`]), an update rule ([`Rule`]),
//! observers that may step in ([`Hook`]), and [`Fit`], which runs them and can be interrupted at any step.

mod adam;
mod lbfgs;
mod objective;
mod rule;
mod schedule;
mod sgd;
mod spec;
mod store;
mod whole;

pub use adam::Adam;
pub use lbfgs::{Lbfgs, LbfgsOptions, lbfgs};
pub use objective::{Fitting, Hook, Objective, Parameter, Seen};
pub use rule::{At, Loss, Rule, Slot, clip_all, clip_by_norm, clip_gradients};
pub use schedule::LrSchedule;
pub use sgd::Sgd;
pub use spec::OptimizerSpec;
pub use store::{load_state, save_state, visit_tensor};
pub use whole::{Fit, FitProgress, FitSpec};
