//! Pruning of a graph in the order of computation: every matrix is pruned using its inputs after those before it are pruned.

use super::{Exported, Network, Reads, export};
use crate::llm::{Part, Pruned, Pruning};
use crate::subject::{Matrices, Streamed};
use crate::{Error, Result};
use nnz_core::{Pattern, Plan, Shape};
use nnz_engine::Moments;
use nnz_formats::Dtype;
use nnz_onnx::{Budget, Constant, Graph, Matrix, Session, State, Value};
use std::collections::{BTreeMap, HashSet};
use std::path::Path;

/// Most patches of one sample that are used for a kernel.
const PATCHES: usize = 512;

/// Inputs by name.
type Sample<'a> = Vec<(&'a str, Value)>;

/// The matrices of a graph that a method edits.
struct All<'a> {
    network: &'a mut Network,
    matrices: Vec<Matrix>,
    /// Whether the inputs of a kernel are taken with channels last, so that groups of N:M run along channels, as sparse
    /// matrix units of processors require.
    channels: bool,
    samples: Vec<Sample<'a>>,
    /// What samples become, by the inputs they give; none before it is asked for.
    flows: Vec<Flow>,
    tick: &'a mut dyn FnMut(usize, usize),
    done: usize,
}

/// Samples of the same inputs on their way through a graph.
struct Flow {
    session: Session,
    states: Vec<State>,
    /// The step that is next.
    step: usize,
    /// Moments of what was asked for last, by its name and the inputs of a matrix that reads it; queries, keys and values share
    /// theirs.
    last: Option<(String, usize, Moments)>,
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
    type Kept = Vec<Constant>;

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

    fn moments(&mut self, index: usize) -> Result<Moments> {
        let matrix = &self.matrices[index];
        let node = &self.network.graph.nodes[matrix.node];
        // What was read before that is gone: from the start again.
        let passed = |f: &Flow| f.session.position(&node.outputs[0]).is_some_and(|at| at < f.step);
        if self.flows.iter().any(passed) {
            self.flows.clear();
        }
        if self.flows.is_empty() {
            self.flows = flows(self.network, &self.samples)?;
        }
        let found = self.flows.iter_mut().find_map(|f| Some((f.session.position(&node.outputs[0])?, f)));
        let Some((at, flow)) = found else { return Ok(Moments::default()) };
        if flow
            .last
            .as_ref()
            .is_none_or(|(name, area, _)| *name != node.inputs[0] || *area != matrix.cols || !matrix.kernel.is_empty())
        {
            for step in flow.step..at {
                flow.states.iter_mut().try_for_each(|s| flow.session.step(step, s, None))?;
            }
            flow.step = at;
            let mut moments = Moments::default();
            for state in &flow.states {
                moments.add(&flow.session.patches(at, state, PATCHES)?);
            }
            flow.last = Some((node.inputs[0].clone(), matrix.cols, moments.mean()));
        }
        let moments = flow.last.as_ref().map(|(.., m)| m.clone()).unwrap_or_default();
        Ok(self.ordered(&self.matrices[index], moments))
    }

    fn put(&mut self, index: usize, _: &[f32], values: Vec<f32>, _: Dtype) -> Result<()> {
        let matrix = &self.matrices[index];
        let values = matrix.constant_of(self.first(matrix, values));
        let Some(constant) = self.network.graph.constants.get_mut(&matrix.name) else { return Ok(()) };
        for flow in &mut self.flows {
            flow.session.replace(&matrix.name, Value::floats(&constant.shape, values.clone()))?;
        }
        let made = constant.with(&values);
        *constant =
            made.map_err(|why| Error::file(&self.network.path, format!("`{}` pruned holds {why}", matrix.name)))?;
        // What was read after it would not be what it was.
        let outputs = self.network.graph.nodes.get(matrix.node).map(|n| &n.outputs[0]);
        let read = |f: &Flow| outputs.and_then(|o| f.session.position(o)).is_some_and(|at| at < f.step);
        if self.flows.iter().any(read) {
            self.flows.clear();
        }
        self.done += 1;
        (self.tick)(self.done, self.matrices.len());
        Ok(())
    }

    fn score(&mut self) -> Result<f64> {
        Err(Error::file(
            &self.network.path,
            "essential-sparsity goes down as far as the perplexity of a language model or the accuracy of a network that nnz trained \
             allows, and neither is measured of this network; say how far yourself, such as --method magnitude --density 0.5",
        ))
    }

    fn keep(&self) -> Self::Kept {
        self.matrices.iter().map(|m| self.network.graph.constants[&m.name].clone()).collect()
    }

    fn go_back(&mut self, kept: &Self::Kept) {
        for (matrix, constant) in self.matrices.iter().zip(kept) {
            self.network.graph.constants.insert(matrix.name.clone(), constant.clone());
        }
        self.flows.clear();
    }
}

/// Samples at the start of a graph, by the inputs they give.
fn flows(network: &Network, samples: &[Sample]) -> Result<Vec<Flow>> {
    let mut kinds: BTreeMap<Vec<&str>, Vec<Sample>> = BTreeMap::new();
    for sample in samples {
        kinds.entry(sample.iter().map(|(name, _)| *name).collect()).or_default().push(sample.clone());
    }
    let flow = |(given, samples): (Vec<&str>, Vec<Sample>)| {
        // Only of two towers one can do without the other; elsewhere an input that is missing is an error.
        let session = match network.reads {
            Reads::Both { .. } => Session::plain(&part(&network.graph, &given), Budget::default())?,
            _ => Session::plain(&network.graph, Budget::default())?,
        };
        let states = samples.into_iter().map(|s| session.begin(s)).collect::<nnz_onnx::Result<Vec<_>>>()?;
        Ok(Flow { session, states, step: 0, last: None })
    };
    kinds.into_iter().map(flow).collect()
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
    let mut work = pruning.build()?;
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
    let grouped = matches!(pattern, Some(Ok(Pattern::Nm { flat: false, .. })));
    if let Some(Ok(Pattern::Nm { m, flat, .. })) = pattern {
        let inputs = |k: &Matrix| if flat { k.cols } else { channels(k) };
        let (fit, odd): (Vec<Matrix>, Vec<Matrix>) = matrices.into_iter().partition(|k| inputs(k).is_multiple_of(m));
        matrices = fit;
        if !odd.is_empty() {
            let each = odd.iter().map(|k| format!("`{}` with {}", k.name, inputs(k))).collect();
            network.notes.push(format!(
                "{} of {} matrices stay dense: their inputs{} are no multiple of {m}: {}",
                odd.len(),
                odd.len() + matrices.len(),
                if flat { "" } else { " (of kernels the channels)" },
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
    if matches!(work.sparsifier.plan(0), Plan::Rewire(s) if s.gram.is_some()) {
        network.runs()?;
        if samples.is_empty() {
            return pruning.needs(match network.reads {
                Reads::Both { .. } => "a text and pictures",
                Reads::Pictures(_) => "pictures",
                _ => "a text",
            });
        }
        let (flows, all) = (flows(network, &samples)?, matrices.len());
        let reached =
            |m: &Matrix| flows.iter().any(|f| f.session.position(&network.graph.nodes[m.node].outputs[0]).is_some());
        // What a branch or loop multiplies by is read inside it, where no inputs are watched.
        let within = matrices.iter().filter(|m| m.inside).count();
        matrices.retain(|m| !m.inside);
        if within > 0 {
            network.notes.push(format!(
                "{within} of {all} matrices stay dense: branches and loops multiply by them, whose inputs are not watched; \
                 magnitude needs no inputs"
            ));
        }
        let all = matrices.len();
        matrices.retain(reached);
        if matrices.len() < all {
            let they =
                if samples.iter().flatten().any(|(name, _)| *name == "pixel_values") { "texts" } else { "pictures" };
            network.notes.push(format!(
                "{} of {all} matrices stay dense: they read {they}, and none were given; give both, each with its own --calibrate",
                all - matrices.len()
            ));
        }
    }
    let parts: Vec<(String, usize)> = matrices.iter().map(|m| (m.name.clone(), m.rows * m.cols)).collect();
    let (flows, done) = (Vec::new(), 0);
    let all = All { network, matrices, channels: grouped, samples, flows, tick: &mut tick, done };
    let (all, singular) = Streamed::new(all, pruning).prune(&mut work)?;
    let network = all.network;
    let said = serde_json::json!({"method": pruning.method.key, "options": pruning.options});
    let Exported { written, bytes, notes } = export(network, to, pruning.packing, pruning.dtype, sparse, &said)?;
    let part = |(name, entries): (String, usize)| Part {
        entries,
        written: written.get(&name).copied().unwrap_or_default(),
        name,
    };
    Ok(Pruned { parts: parts.into_iter().map(part).collect(), bytes, tried: Vec::new(), singular, notes })
}
