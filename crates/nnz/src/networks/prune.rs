//! Pruning of a graph in the order of computation: every matrix is weighed by what it reads behind those that are pruned already.

use super::{Network, export};
use crate::models::planned::{Matrices, Planned, flat};
use crate::models::{Part, Pruned, Pruning};
use crate::{Error, Result};
use nnz_core::{Pattern, Shape};
use nnz_engine::Moments;
use nnz_onnx::{Budget, Constant, Matrix, Session, Value};
use std::path::Path;

/// Most patches of one sample that a kernel is weighed by.
const PATCHES: usize = 512;

/// The matrices of a graph that are pruned.
struct All<'a> {
    network: &'a Network,
    matrices: Vec<Matrix>,
}

impl Matrices for All<'_> {
    fn shapes(&self) -> Vec<Shape> {
        self.matrices.iter().map(|m| Shape::matrix(&m.name, m.rows, m.cols)).collect()
    }

    fn read(&self, index: usize) -> Result<Vec<f32>> {
        let matrix = &self.matrices[index];
        let values = matrix.rows_of(self.network.graph.constants[&matrix.name].numbers());
        match values.iter().position(|v| !v.is_finite()) {
            Some(at) => Err(Error::file(
                &self.network.path,
                format!("`{}` holds {} at number {at}; the file is damaged", matrix.name, values[at]),
            )),
            None => Ok(values),
        }
    }
}

/// Prunes the matrices and kernels of a network, all but its head, and writes it: to an ONNX file when the name ends so, else to a
/// folder. `samples` are inputs that methods weigh by, each a batch of its own. `tick` hears of every matrix.
///
/// # Errors
/// When the method asks for what is not measured here; when it needs samples and there are none; when something cannot be
/// read or written.
pub fn prune(
    network: &mut Network,
    pruning: &Pruning,
    samples: Vec<Vec<(&'static str, Value)>>,
    to: &Path,
    sparse: bool,
    mut tick: impl FnMut(usize, usize),
) -> Result<Pruned> {
    let mut matrices: Vec<Matrix> = network.matrices().into_iter().filter(|m| !m.head).collect();
    let pattern = pruning.options.get("pattern").and_then(toml::Value::as_str).map(str::parse);
    if let Some(Ok(Pattern::Nm { m, .. })) = pattern {
        let all = matrices.len();
        matrices.retain(|k| k.cols.is_multiple_of(m as usize));
        if matrices.len() < all {
            let less = all - matrices.len();
            network.notes.push(format!("{less} of {all} matrices stay dense: their inputs are no multiple of {m}"));
        }
    }
    if matrices.is_empty() {
        return Err(Error::file(&network.path, "there is no matrix or kernel in it that could be pruned"));
    }
    let mut singular = 0;
    let mut kept: Vec<(usize, Vec<f32>)> = Vec::with_capacity(matrices.len());
    {
        let all = All { network, matrices: matrices.clone() };
        let plan = Planned::new(&all, pruning)?;
        if plan.reads {
            network.runs()?;
        }
        if plan.reads && samples.is_empty() {
            return Err(pruning.needs(if network.pictures().is_some() { "pictures" } else { "a text" }));
        }
        let finish = |values: Vec<f32>| values.into_iter().map(|v| pruning.dtype.round(v)).collect::<Vec<f32>>();
        if plan.reads {
            let mut session = Session::plain(&network.graph, Budget::default())?;
            let mut states = samples.into_iter().map(|s| session.begin(s)).collect::<nnz_onnx::Result<Vec<_>>>()?;
            // Matrices that read the same, such as queries, keys and values, share their moments.
            let mut last: Option<(String, usize, Moments)> = None;
            let at: Vec<Option<usize>> =
                matrices.iter().map(|m| session.position(&network.graph.nodes[m.node].outputs[0])).collect();
            for step in 0..session.len() {
                for index in (0..matrices.len()).filter(|&k| at[k] == Some(step)) {
                    let matrix = &matrices[index];
                    let reads = network.graph.nodes[matrix.node].inputs[0].clone();
                    let shared = last.as_ref().is_some_and(|(name, area, _)| {
                        *name == reads && *area == matrix.cols && matrix.kernel.is_empty()
                    });
                    if !shared {
                        let mut moments = Moments::default();
                        for state in &states {
                            moments.add(&session.patches(step, state, PATCHES)?);
                        }
                        last = Some((reads, matrix.cols, moments.mean()));
                    }
                    let moments = last.as_ref().map(|(.., m)| m);
                    singular += usize::from(moments.is_some_and(flat));
                    let values = finish(plan.prune(index, all.read(index)?, moments)?);
                    let shape = &network.graph.constants[&matrix.name].shape;
                    session.replace(&matrix.name, Value::floats(shape, matrix.constant_of(values.clone())))?;
                    kept.push((index, values));
                    tick(kept.len(), matrices.len());
                }
                for state in &mut states {
                    session.step(step, state, None)?;
                }
            }
        } else {
            for index in 0..matrices.len() {
                kept.push((index, finish(plan.prune(index, all.read(index)?, None)?)));
                tick(kept.len(), matrices.len());
            }
        }
    }
    let mut nonzeros = Vec::with_capacity(kept.len());
    for (index, values) in kept {
        let matrix = &matrices[index];
        nonzeros.push((matrix.name.clone(), values.len()));
        let constant = network.graph.constants.get_mut(&matrix.name);
        if let Some(constant) = constant {
            *constant = Constant::floats(&constant.shape.clone(), matrix.constant_of(values));
        }
    }
    let said = serde_json::json!({"method": pruning.method.key, "options": pruning.options});
    let (written, bytes) = export(network, to, pruning.packing, pruning.dtype, sparse, &said)?;
    let part = |(name, entries): (String, usize)| Part { entries, written: written.get(&name).copied().unwrap_or_default(), name };
    Ok(Pruned { parts: nonzeros.into_iter().map(part).collect(), bytes, tried: Vec::new(), singular })
}
