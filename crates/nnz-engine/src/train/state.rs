//! A training as the state of an experiment: its entire checkpoint.

use super::Trainer;
use crate::file::Header;
use crate::{Dtype, Number};
use nnz_core::{Numbers, Result, State, Visit};

impl<T: Number> State for Trainer<'_, T> {
    /// Visits the bytes of a checkpoint; resumes from them if they differ.
    fn visit(&mut self, v: &mut dyn Visit) -> Result<()> {
        let frame = self.frame().clone();
        let header = Header {
            model: self.model.spec.clone(),
            normalization: frame.normalization,
            classes: vec![String::new(); self.model.spec.output().map_or(0, |o| o.iter().product())],
            data: String::new(),
            method: String::new(),
            prunable: false.into(),
            texts: false,
            encoding: None,
            task: frame.task,
            scales: frame.scales,
            dtype: Dtype::Native,
            policy: self.policy(),
        };
        let now = self.to_bytes(&header, "state")?;
        let mut kept = now.clone();
        v.vector("training", Numbers::U8(&mut kept))?;
        if kept != now {
            self.resume_bytes(&kept, "state")?;
        }
        Ok(())
    }
}
