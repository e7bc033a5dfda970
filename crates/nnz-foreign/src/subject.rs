//! Networks of other programs as the subject of a method: one matrix is in memory at a time.

use crate::{Error, Result};
use nnz_core::{
    Edit, Editor, Method, MethodInstance, Plan, Setting, Shape, Signals, Subject, Target, TargetKind, Topology, subject,
};
use nnz_engine::Moments;
use nnz_formats::{Dtype, Packing};
use toml::Table;

/// How a model is to be pruned and written.
pub struct Pruning<'a> {
    /// The method.
    pub method: &'static Method,
    /// Its options.
    pub options: &'a Table,
    /// Key of all random choices.
    pub seed: u64,
    /// How matrices are written; the smallest usual way when left out.
    pub packing: Option<Packing>,
    /// How numbers are written.
    pub dtype: Dtype,
    /// Whether heads of graphs are pruned, too.
    pub heads: bool,
}

impl Pruning<'_> {
    /// The method, if it can prune matrices one at a time.
    ///
    /// # Errors
    /// When it trains, changes more than weights, or asks for more than what a matrix reads.
    pub(crate) fn build(&self) -> Result<MethodInstance> {
        if self.options.contains_key("rows") {
            return Err(Error::Refused(
                "rows counts training rows, and this network was not trained here; --calibrate says what is read and \
                 --calibration-tokens how much of a text"
                    .into(),
            ));
        }
        let setting = Setting { seed: self.seed, steps: 0, steps_per_epoch: 1 };
        let work = self.method.build(&self.method.options_for_trained(self.options), &setting)?;
        if work.procedure.as_ref().is_some_and(|p| p.steps() > 0) {
            return self.refuse("goes on in rounds that train the model");
        }
        if work.parametrization.is_some() || work.sparsifier.kind() != TargetKind::Weights {
            return self.refuse("does more than remove weights of a trained model");
        }
        match work.sparsifier.plan(0) {
            Plan::Rewire(signals) => self.measured(signals)?,
            _ if work.procedure.is_some() => {}
            _ => return self.refuse("does not prune a trained model"),
        }
        Ok(work)
    }

    /// That nothing but what a matrix reads is asked for.
    fn measured(&self, signals: Signals) -> Result<()> {
        match (Signals { gram: None, rows: 0, ..signals }).any() {
            true => self.refuse("asks for gradients of the whole model"),
            false => Ok(()),
        }
    }

    fn refuse<T>(&self, what: &str) -> Result<T> {
        Err(Error::Refused(format!(
            "{} {what}; magnitude, lamp, wanda, sparsegpt and dsnot prune models matrix by matrix",
            self.method.key
        )))
    }

    /// Refuses to go on without what comes in.
    pub(crate) fn needs<T>(&self, what: &str) -> Result<T> {
        Err(Error::Refused(format!("{} looks at what weights read; give {what} with --calibrate", self.method.key)))
    }
}

/// Matrices that are pruned one after the other, by number.
pub(crate) trait Matrices {
    /// What is kept of all of them.
    type Kept: Clone;

    /// Their names and extents.
    fn shapes(&self) -> Vec<Shape>;

    /// The entries of one as they are now, row-major.
    fn read(&self, index: usize) -> Result<Vec<f32>>;

    /// The moments of what one reads, after all those before it as they are now.
    fn moments(&mut self, index: usize) -> Result<Moments>;

    /// Puts entries in the place of those `before` of one matrix, each as `dtype` gives it back.
    fn put(&mut self, index: usize, before: &[f32], values: Vec<f32>, dtype: Dtype) -> Result<()>;

    /// A score, of which more is better.
    fn score(&mut self) -> Result<f64>;

    /// All of them as they are now.
    fn keep(&self) -> Self::Kept;

    /// Goes back to that.
    fn go_back(&mut self, kept: &Self::Kept);
}

/// Whether second moments are singular: fewer inputs than they have numbers, or a number that is always zero.
fn is_singular(moments: &Moments) -> bool {
    let cols = moments.first.len();
    moments.rows < cols || (0..cols).any(|j| moments.square[j * cols + j] == 0.0)
}

/// Matrices that a method edits.
pub(crate) struct Streamed<'a, M: Matrices> {
    pruning: &'a Pruning<'a>,
    pub matrices: M,
    shapes: Vec<Shape>,
    /// Which were edited: what is zero in them does not exist.
    edited: Vec<bool>,
    kept: Vec<(String, M::Kept, Vec<bool>)>,
    /// Matrices whose inputs had singular second moments.
    pub singular: usize,
}

impl<'a, M: Matrices> Streamed<'a, M> {
    pub fn new(matrices: M, pruning: &'a Pruning<'a>) -> Self {
        let shapes = matrices.shapes();
        Self { pruning, matrices, edited: vec![false; shapes.len()], shapes, kept: Vec::new(), singular: 0 }
    }

    /// Prunes, and gives what is left.
    pub fn prune(mut self, work: &mut MethodInstance) -> Result<(M, usize)> {
        subject::prune(work, &mut self)?;
        Ok((self.matrices, self.singular))
    }
}

/// Shows a matrix; of one that was edited, what is left.
fn show(
    index: usize,
    shape: &Shape,
    values: &[f32],
    edited: bool,
    moments: Option<&Moments>,
    see: &mut dyn FnMut(&Target),
) {
    let (gram, mean): (&[f64], &[f64]) = moments.map_or((&[], &[]), |m| (&m.square, &m.first));
    if !edited {
        let all = Topology::full(shape.rows, shape.cols);
        return see(&Target { gram, mean, ..Target::new(index, shape, &all, values) });
    }
    let left = (0..values.len()).filter(|&p| values[p] != 0.0).map(|p| p as u64);
    let topology = Topology::from_positions(shape.rows, shape.cols, left);
    let values: Vec<f32> = values.iter().copied().filter(|v| *v != 0.0).collect();
    see(&Target { gram, mean, ..Target::new(index, shape, &topology, &values) });
}

impl<M: Matrices> Subject for Streamed<'_, M> {
    type Error = Error;

    fn shapes(&self, _: TargetKind) -> Vec<Shape> {
        self.shapes.clone()
    }

    fn edit(&mut self, signals: Signals, by: &mut dyn Editor) -> Result<()> {
        self.pruning.measured(signals)?;
        let refs: Vec<&Shape> = self.shapes.iter().collect();
        // The method's vocabulary has no errors of files; what went wrong is kept beside it.
        let mut failure = None;
        let mut look = |index: usize, see: &mut dyn FnMut(&Target)| {
            let values = self.matrices.read(index).map_err(|e| {
                let said = nnz_core::Error::Refused(e.to_string());
                failure = Some(e);
                said
            })?;
            show(index, &self.shapes[index], &values, self.edited[index], None, see);
            Ok(())
        };
        let divided = by.divide(&refs, &mut look);
        if let Some(e) = failure {
            return Err(e);
        }
        if !divided? {
            return Err(Error::Refused(format!(
                "{} with one budget for the whole model needs the scores of all its weights at once; give \
                 --distribution uniform",
                self.pruning.method.key
            )));
        }
        let asked = signals.gram.map_or(0..self.shapes.len(), |index| index..(index + 1).min(self.shapes.len()));
        for index in asked {
            let moments = signals.gram.map(|_| self.matrices.moments(index)).transpose()?;
            self.singular += usize::from(moments.as_ref().is_some_and(is_singular));
            let before = self.matrices.read(index)?;
            let mut edits = Ok(Vec::new());
            let mut see = |t: &Target| edits = by.edit(&[*t]);
            show(index, &self.shapes[index], &before, self.edited[index], moments.as_ref(), &mut see);
            let mut kept = vec![0.0; before.len()];
            match edits?.pop() {
                None | Some(Edit::Keep) => continue,
                Some(Edit::Rewire { topology, .. }) => {
                    topology.positions().for_each(|p| kept[p as usize] = before[p as usize]);
                }
                Some(Edit::Set { topology, values }) => {
                    topology.positions().zip(values).for_each(|(p, v)| kept[p as usize] = v as f32);
                }
                Some(Edit::Replace { .. }) => return self.pruning.refuse("replaces layers by two"),
            }
            let dtype = self.pruning.dtype.fitting(&kept);
            kept.iter_mut().for_each(|v| *v = dtype.round(*v));
            self.matrices.put(index, &before, kept, dtype)?;
            self.edited[index] = true;
        }
        Ok(())
    }

    fn evaluate(&mut self) -> Result<f64> {
        self.matrices.score()
    }

    fn snapshot(&mut self, name: String) -> Result<()> {
        self.kept.retain(|(known, ..)| *known != name);
        self.kept.push((name, self.matrices.keep(), self.edited.clone()));
        Ok(())
    }

    fn restore(&mut self, name: &str) -> Result<()> {
        let Some((_, kept, edited)) = self.kept.iter().find(|(known, ..)| known == name) else {
            return Err(Error::Refused(format!("the method goes back to `{name}`, which it never kept")));
        };
        self.matrices.go_back(kept);
        self.edited.clone_from(edited);
        Ok(())
    }

    fn average(&mut self, _: &[String]) -> Result<()> {
        self.pruning.refuse("averages what it trained")
    }
}
