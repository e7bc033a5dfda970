//! Which weights can a trained net lose?

nnz_core::methods![magnitude, gmp, lamp, essential_sparsity, wanda, sparsegpt, dsnot, filter_pruning, wgsef, transport_pruning,];

use nnz_core::subject::Show;
use nnz_core::{Budget, DistributionKind, Edit, Error, Owl, Period, Plan, Result, Setting, Shape, Signals, Sparsifier, Target, allocate};

/// Prunes a trained network in one shot, layer by layer, each measured after the earlier ones are pruned. With distribution `owl` all
/// layers are measured once before, to divide the budget.
struct Sequential<F> {
    budget: Budget,
    at: u64,
    /// Training rows over which inputs are measured.
    rows: usize,
    setting: Setting,
    /// Computes the edit of a layer from the moments of its inputs and the number of entries it keeps.
    prune: F,
    /// The next layer that is pruned, and the number of layers, once known.
    layer: usize,
    layers: Option<usize>,
    /// Outliers of the layers that were measured before any is pruned; of `owl`.
    outliers: Vec<usize>,
    /// Entries each layer keeps, where that was fixed before layers are shown one at a time; none before that is known.
    counts: Option<Vec<usize>>,
}

impl<F: Fn(&Target, usize) -> Result<Edit> + Send> Sequential<F> {
    fn new(name: &str, budget: Budget, at: Period, rows: usize, setting: &Setting, prune: F) -> Result<Self> {
        if budget.distribution == DistributionKind::Global || budget.distribution.build().needs_scores() {
            return Err(Error::Refused(format!(
                "{name} sees one layer at a time and cannot share a global budget; choose uniform, er, erk or owl"
            )));
        }
        let (at, setting) = (at.steps(setting), *setting);
        Ok(Self { budget, at, rows, setting, prune, layer: 0, layers: None, outliers: Vec::new(), counts: None })
    }
}

impl<F> Sequential<F> {
    fn owl(&self) -> bool {
        self.budget.distribution == DistributionKind::Owl
    }

    /// Entries that each layer keeps; none while the layers that decide it are measured.
    fn counts(&self, shapes: &[&Shape]) -> Result<Vec<usize>> {
        match self.owl() {
            true if self.outliers.len() < shapes.len() => Ok(Vec::new()),
            true => Owl::divide(shapes, &self.outliers, self.budget.density),
            false => allocate(&*self.budget.distribution.build(), shapes, &[], self.budget.density),
        }
    }
}

impl<F: Fn(&Target, usize) -> Result<Edit> + Send> Sparsifier for Sequential<F> {
    fn check(&self, shapes: &[&Shape]) -> Result<()> {
        // What owl gives is known once layers are measured.
        let distribution = if self.owl() { DistributionKind::Uniform } else { self.budget.distribution };
        Budget { distribution, ..self.budget }.fixed(&self.setting).check(shapes)
    }

    fn plan(&self, step: u64) -> Plan {
        if step != self.at || self.layers == Some(self.layer) {
            return Plan::Rest;
        }
        let measured = match self.owl() && self.layers.is_none_or(|n| self.outliers.len() < n) {
            true => self.outliers.len(),
            false => self.layer,
        };
        Plan::Rewire(Signals { gram: Some(measured), rows: self.rows, ..Signals::NONE })
    }

    /// One per layer, measured after the earlier layers are pruned.
    fn rounds(&self, _: u64) -> u32 {
        u32::MAX
    }

    fn layerwise(&self) -> bool {
        self.counts.is_some()
    }

    fn divide(&mut self, _: u64, shapes: &[&Shape], _: &mut Show) -> Result<bool> {
        (self.counts, self.layers) = (Some(self.counts(shapes)?), Some(shapes.len()));
        Ok(true)
    }

    fn rewire(&mut self, _: u64, targets: &[Target]) -> Result<Vec<Edit>> {
        let counts = match self.counts.take() {
            Some(counts) => counts,
            None => {
                self.layers = Some(targets.len());
                self.counts(&targets.iter().map(|t| t.shape).collect::<Vec<_>>())?
            }
        };
        let mut edits = vec![Edit::Keep; targets.len()];
        if counts.is_empty() {
            let next = targets.iter().find(|t| t.index == self.outliers.len());
            self.outliers.extend(next.map(|t| Owl::outliers(&wanda::scores(t))));
            return Ok(edits);
        }
        let Some(at) = targets.iter().position(|t| t.index == self.layer) else { return Ok(edits) };
        edits[at] = (self.prune)(&targets[at], counts[self.layer])?;
        self.layer += 1;
        Ok(edits)
    }

    fn state(&self) -> serde_json::Value {
        serde_json::json!([self.layer, self.layers, self.outliers])
    }

    fn restore(&mut self, state: &serde_json::Value) -> Result<()> {
        let number = |i: usize| state[i].as_u64().map(|n| n as usize);
        (self.layer, self.layers) = (number(0).unwrap_or_default(), number(1));
        let outliers = state[2].as_array().into_iter().flatten();
        self.outliers = outliers.filter_map(|n| Some(n.as_u64()? as usize)).collect();
        Ok(())
    }
}
