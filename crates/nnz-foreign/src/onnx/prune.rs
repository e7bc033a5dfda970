//! Pruning of a graph in the order of computation: every matrix is weighed by what it reads behind those that are pruned already.

use super::{Network, Reads, export};
use crate::llm::planned::{Matrices, Planned, flat};
use crate::llm::{Part, Pruned, Pruning};
use crate::{Error, Result};
use nnz_core::{Pattern, Shape};
use nnz_engine::Moments;
use nnz_onnx::{Budget, Constant, Graph, Matrix, Session, Value};
use std::collections::{BTreeMap, HashSet};
use std::path::Path;

/// Most patches of one sample that a kernel is weighed by.
const PATCHES: usize = 512;

/// Inputs by name.
type Sample<'a> = Vec<(&'a str, Value)>;

/// Numbers of matrices and what is left of each.
type Kept = Vec<(usize, Vec<f32>)>;

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

impl All<'_> {
    /// The matrices that samples reach, each weighed by what it reads behind those that are pruned already, with their numbers; and
    /// of how many the second moments were singular.
    fn weighed(
        &self,
        plan: &Planned,
        samples: Vec<Sample>,
        tick: &mut impl FnMut(usize, usize),
    ) -> Result<(Kept, usize)> {
        let Self { network, matrices } = self;
        let (mut kept, mut singular) = (Vec::with_capacity(matrices.len()), 0);
        let mut kinds: BTreeMap<Vec<&str>, Vec<Sample>> = BTreeMap::new();
        for sample in samples {
            kinds.entry(sample.iter().map(|(name, _)| *name).collect()).or_default().push(sample);
        }
        for (given, samples) in kinds {
            // Only of two towers one can do without the other; elsewhere an input that is missing is an error.
            let mut session = match network.reads {
                Reads::Both { .. } => Session::plain(&part(&network.graph, &given), Budget::default())?,
                _ => Session::plain(&network.graph, Budget::default())?,
            };
            let mut states = samples.into_iter().map(|s| session.begin(s)).collect::<nnz_onnx::Result<Vec<_>>>()?;
            // Matrices that read the same, such as queries, keys and values, share their moments.
            let mut last: Option<(&str, usize, Moments)> = None;
            let at: Vec<Option<usize>> =
                matrices.iter().map(|m| session.position(&network.graph.nodes[m.node].outputs[0])).collect();
            for step in 0..session.len() {
                for index in (0..matrices.len()).filter(|&k| at[k] == Some(step)) {
                    let matrix = &matrices[index];
                    let reads = &*network.graph.nodes[matrix.node].inputs[0];
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
                    let values = plan.rounded(index, self.read(index)?, moments)?;
                    let shape = &network.graph.constants[&matrix.name].shape;
                    session.replace(&matrix.name, Value::floats(shape, matrix.constant_of(values.clone())))?;
                    kept.push((index, values));
                    tick(kept.len(), matrices.len());
                }
                for state in &mut states {
                    session.step(step, state, None)?;
                }
            }
        }
        // Two kinds of samples that reach the same matrix.
        kept.sort_by_key(|(index, _)| *index);
        kept.dedup_by_key(|(index, _)| *index);
        Ok((kept, singular))
    }
}

/// What of a graph can be computed from some of its inputs: of a network of two towers, one.
fn part(graph: &Graph, given: &[&str]) -> Graph {
    let mut part = graph.clone();
    let mut known: HashSet<String> = part.constants.keys().cloned().collect();
    known.extend(given.iter().map(|n| (*n).to_owned()));
    // Nodes are in order.
    part.nodes.retain(|n| {
        let reached = n.inputs.iter().all(|i| i.is_empty() || known.contains(i));
        known.extend(n.outputs.iter().filter(|_| reached).cloned());
        reached
    });
    part.inputs.retain(|p| known.contains(&p.name));
    part.outputs.retain(|p| known.contains(&p.name));
    part
}

/// Prunes the matrices and kernels of a network, all but its head, and writes it: to an ONNX file when the name ends so, else to a
/// folder. `samples` are inputs that methods weigh by, each a batch of its own; of a network of two towers one that leaves inputs
/// out weighs what can be computed from the others, and what no sample reaches stays dense, as a note says. `tick` hears of every
/// matrix.
///
/// # Errors
/// When the method asks for what is not measured here; when it needs samples and there are none; when something cannot be
/// read or written.
pub fn prune(
    network: &mut Network,
    pruning: &Pruning,
    samples: Vec<Sample>,
    to: &Path,
    sparse: bool,
    mut tick: impl FnMut(usize, usize),
) -> Result<Pruned> {
    if pruning.grid()?.is_some() {
        return Err(Error::file(
            &network.path,
            "essential-sparsity goes down as far as the perplexity of a language model or the accuracy of a network that nnz trained \
             allows, and neither is measured of this network; say how far yourself, such as --method magnitude --density 0.5",
        ));
    }
    let mut matrices: Vec<Matrix> = network.matrices().into_iter().filter(|m| !m.head).collect();
    let pattern = pruning.options.get("pattern").and_then(toml::Value::as_str).map(str::parse);
    if let Some(Ok(Pattern::Nm { m, .. })) = pattern {
        let all = matrices.len();
        matrices.retain(|k| k.cols.is_multiple_of(m));
        if matrices.len() < all {
            let less = all - matrices.len();
            network.notes.push(format!("{less} of {all} matrices stay dense: their inputs are no multiple of {m}"));
        }
    }
    if matrices.is_empty() {
        return Err(Error::file(&network.path, "there is no matrix or kernel in it that could be pruned"));
    }
    let pictures = samples.iter().flatten().any(|(name, _)| *name == "pixel_values");
    let (kept, singular) = {
        let all = All { network, matrices: matrices.clone() };
        let plan = Planned::new(&all, pruning)?;
        if plan.reads {
            network.runs()?;
            if samples.is_empty() {
                return Err(pruning.needs(match network.reads {
                    Reads::Both { .. } => "a text and pictures",
                    Reads::Pictures(_) => "pictures",
                    _ => "a text",
                }));
            }
            all.weighed(&plan, samples, &mut tick)?
        } else {
            let mut kept = Vec::with_capacity(matrices.len());
            for index in 0..matrices.len() {
                kept.push((index, plan.rounded(index, all.read(index)?, None)?));
                tick(kept.len(), matrices.len());
            }
            (kept, 0)
        }
    };
    if kept.len() < matrices.len() {
        let (less, all) = (matrices.len() - kept.len(), matrices.len());
        let they = if pictures { "texts" } else { "pictures" };
        network.notes.push(format!(
            "{less} of {all} matrices stay dense: they read {they}, and none were given; give both, each with its own --calibrate"
        ));
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
    let part = |(name, entries): (String, usize)| Part {
        entries,
        written: written.get(&name).copied().unwrap_or_default(),
        name,
    };
    Ok(Pruned { parts: nonzeros.into_iter().map(part).collect(), bytes, tried: Vec::new(), singular })
}
