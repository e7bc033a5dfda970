//! Pruning of a graph in the order of computation: every matrix is pruned using its inputs after those before it are pruned.

use super::{Exported, Network, Reads, export};
use crate::llm::planned::{Matrices, Planned, is_singular};
use crate::llm::{Part, Pruned, Pruning};
use crate::{Error, Result};
use nnz_core::{Pattern, Shape};
use nnz_engine::Moments;
use nnz_onnx::{Budget, Graph, Matrix, Session, Value};
use std::collections::{BTreeMap, HashSet};
use std::path::Path;

/// Most patches of one sample that are used for a kernel.
const PATCHES: usize = 512;

/// Inputs by name.
type Sample<'a> = Vec<(&'a str, Value)>;

/// Indices of matrices with their pruned values.
type Kept = Vec<(usize, Vec<f32>)>;

/// The matrices of a graph that are pruned.
struct All<'a> {
    network: &'a Network,
    matrices: Vec<Matrix>,
    /// Whether the inputs of a kernel are taken with channels last, so that groups of N:M run along channels, as sparse
    /// matrix units of processors require.
    channels: bool,
}

/// Input channels of a matrix: all inputs, if it is not a kernel.
fn channels(m: &Matrix) -> usize {
    m.cols / m.kernel.iter().product::<usize>().max(1)
}

/// Transposes runs of `inner` numbers: `[.., a, b]` to `[.., b, a]`.
fn transposed<T: Copy>(v: &[T], a: usize, b: usize) -> Vec<T> {
    v.chunks_exact((a * b).max(1)).flat_map(|c| (0..b).flat_map(move |j| (0..a).map(move |i| c[i * b + j]))).collect()
}

impl Matrices for All<'_> {
    fn shapes(&self) -> Vec<Shape> {
        self.matrices.iter().map(|m| Shape::matrix(&m.name, m.rows, m.cols)).collect()
    }

    fn read(&self, index: usize) -> Result<Vec<f32>> {
        let matrix = &self.matrices[index];
        let values = self.last(matrix, matrix.rows_of(self.network.graph.constants[&matrix.name].numbers()));
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
    /// Reorders rows of inputs from the file's order to the pruning order.
    fn last(&self, m: &Matrix, rows: Vec<f32>) -> Vec<f32> {
        match self.channels && !m.kernel.is_empty() {
            true => transposed(&rows, channels(m), m.cols / channels(m)),
            false => rows,
        }
    }

    /// The inverse of [`All::last`].
    fn first(&self, m: &Matrix, rows: Vec<f32>) -> Vec<f32> {
        match self.channels && !m.kernel.is_empty() {
            true => transposed(&rows, m.cols / channels(m), channels(m)),
            false => rows,
        }
    }

    /// Reorders the moments of inputs to the pruning order.
    fn ordered(&self, m: &Matrix, moments: Moments) -> Moments {
        if !self.channels || m.kernel.is_empty() {
            return moments;
        }
        let (c, k) = (channels(m), m.cols / channels(m));
        let turn = |v: &[f64]| transposed(v, c, k);
        let rows: Vec<Vec<f64>> = moments.square.chunks_exact(m.cols).map(turn).collect();
        let order = transposed(&(0..m.cols).collect::<Vec<usize>>(), c, k);
        let square = order.iter().flat_map(|&i| rows[i].iter().copied()).collect();
        Moments { square, first: turn(&moments.first), rows: moments.rows }
    }

    /// Prunes the matrices that samples reach, each by its inputs after those before it are pruned, with their indices; and counts
    /// the matrices whose second moments were singular.
    fn weighed(
        &self,
        plan: &Planned,
        samples: Vec<Sample>,
        tick: &mut impl FnMut(usize, usize),
    ) -> Result<(Kept, usize)> {
        let Self { network, matrices, .. } = self;
        let (mut kept, mut singular) = (Vec::with_capacity(matrices.len()), 0);
        let mut kinds: BTreeMap<Vec<&str>, Vec<Sample>> = BTreeMap::new();
        for sample in samples {
            kinds.entry(sample.iter().map(|(name, _)| *name).collect()).or_default().push(sample);
        }
        for (given, samples) in kinds {
            // Only one of two towers can do without the other; elsewhere a missing input is an error.
            let mut session = match network.reads {
                Reads::Both { .. } => Session::plain(&part(&network.graph, &given), Budget::default())?,
                _ => Session::plain(&network.graph, Budget::default())?,
            };
            let mut states = samples.into_iter().map(|s| session.begin(s)).collect::<nnz_onnx::Result<Vec<_>>>()?;
            // Matrices with the same input, such as queries, keys and values, share their moments.
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
                        last = Some((reads, matrix.cols, self.ordered(matrix, moments.mean())));
                    }
                    let moments = last.as_ref().map(|(.., m)| m);
                    singular += usize::from(moments.is_some_and(is_singular));
                    let values = self.first(matrix, plan.rounded(index, self.read(index)?, moments)?);
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

/// The part of a graph that can be computed from some of its inputs: for a network of two towers, one.
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

/// Prunes the matrices and kernels of a network, all but its head, and writes it: to an ONNX file if the name ends so, else to a
/// folder. `samples` are calibration inputs, each a separate batch; for a network of two towers, a sample that leaves inputs
/// out calibrates what can be computed from the others, and unreached matrices stay dense, as a note says. `tick` is called for
/// every matrix.
///
/// # Errors
/// When the method asks for unsupported signals; when it needs samples and there are none; when something cannot be
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
    let (heads, mut matrices): (Vec<Matrix>, Vec<Matrix>) =
        network.matrices().into_iter().partition(|m| m.head && !pruning.heads);
    let dense = |names: Vec<String>| match names.len() {
        0..=6 => names.join("; "),
        n => format!("{}; and {} more", names[..5].join("; "), n - 5),
    };
    if let [first, ..] = &heads[..] {
        network.notes.push(format!("the head `{}` stays dense; --prune-head prunes it, too", first.name));
    }
    let stay = network.graph.stay();
    if !stay.is_empty() {
        let each = stay.iter().map(|(name, why)| format!("`{name}`: {why}")).collect();
        network.notes.push(format!("not pruned: {}", dense(each)));
    }
    let pattern = pruning.options.get("pattern").and_then(toml::Value::as_str).map(str::parse);
    let grouped = matches!(pattern, Some(Ok(Pattern::Nm { .. })));
    if let Some(Ok(Pattern::Nm { m, .. })) = pattern {
        let (fit, odd): (Vec<Matrix>, Vec<Matrix>) = matrices.into_iter().partition(|k| channels(k).is_multiple_of(m));
        matrices = fit;
        if !odd.is_empty() {
            let each = odd.iter().map(|k| format!("`{}` with {}", k.name, channels(k))).collect();
            network.notes.push(format!(
                "{} of {} matrices stay dense: their inputs (of kernels the channels) are no multiple of {m}: {}",
                odd.len(),
                odd.len() + matrices.len(),
                dense(each)
            ));
        }
    }
    if matrices.is_empty() {
        let why = network.notes.drain(..).collect::<Vec<_>>().join("; ");
        let why = if why.is_empty() { String::new() } else { format!(" ({why})") };
        return Err(Error::file(
            &network.path,
            format!("there is no matrix or kernel in it that could be pruned{why}"),
        ));
    }
    let pictures = samples.iter().flatten().any(|(name, _)| *name == "pixel_values");
    let (kept, singular) = {
        let all = All { network, matrices: matrices.clone(), channels: grouped };
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
                let values = plan.rounded(index, all.read(index)?, None)?;
                kept.push((index, all.first(&all.matrices[index], values)));
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
        let path = &network.path;
        if let Some(constant) = network.graph.constants.get_mut(&matrix.name) {
            let made = constant.with(&matrix.constant_of(values));
            *constant = made.map_err(|why| Error::file(path, format!("`{}` pruned holds {why}", matrix.name)))?;
        }
    }
    let said = serde_json::json!({"method": pruning.method.key, "options": pruning.options});
    let Exported { written, bytes, notes } = export(network, to, pruning.packing, pruning.dtype, sparse, &said)?;
    let part = |(name, entries): (String, usize)| Part {
        entries,
        written: written.get(&name).copied().unwrap_or_default(),
        name,
    };
    Ok(Pruned { parts: nonzeros.into_iter().map(part).collect(), bytes, tried: Vec::new(), singular, notes })
}
