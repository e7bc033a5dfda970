//! A training as the state of an experiment: its entire checkpoint.

use super::Trainer;
use crate::file::Header;
use crate::{Dtype, Number};
use nnz_core::{Error, Numbers, Result, State, Visit};

impl<T: Number> State for Trainer<'_, T> {
    /// Visits the bytes of a checkpoint; resumes from them if they differ.
    fn visit(&mut self, v: &mut dyn Visit) -> Result<()> {
        let refused = |e: std::io::Error| Error::Refused(format!("the state of a training: {e}"));
        let file = tempfile::NamedTempFile::new().map_err(refused)?.into_temp_path();
        let frame = self.frame().clone();
        let header = Header {
            model: self.model.spec.clone(),
            normalization: frame.normalization,
            classes: vec![String::new(); self.model.spec.output().map_or(0, |o| o.iter().product())],
            data: String::new(),
            method: String::new(),
            prunable: false.into(),
            encoding: None,
            task: frame.task,
            scales: frame.scales,
            dtype: Dtype::Native,
            policy: self.policy(),
        };
        self.save(&file, &header, "state")?;
        let now = std::fs::read(&file).map_err(refused)?;
        let mut kept = now.clone();
        v.vector("training", Numbers::U8(&mut kept))?;
        if kept != now {
            std::fs::write(&file, &kept).map_err(refused)?;
            self.resume(&file, "state")?;
        }
        Ok(())
    }
}
