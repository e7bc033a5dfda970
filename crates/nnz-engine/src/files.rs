//! Models and checkpoints as safetensors files.
//!
//! A weight is one dense tensor `NAME`, or the three tensors of PyTorch's CSR layout: `NAME.crow_indices`,
//! `NAME.col_indices` (32-bit) and `NAME.values`. The header's metadata, one JSON document under the key `nnz`, says which,
//! and holds the model's specification, so the file is self-contained. A checkpoint adds optimizer state and position.
//! Equal models are equal files, byte for byte.

use crate::data::{Normalization, Preprocessing, Task};
use crate::layers::Layers;
use crate::train::Snapshot;
use crate::{
    Average, Dtype, Error, Layout, Model, ModelSpec, Optimizer, OptimizerSpec, Param, PolicyRef, Position, Real,
    Result, Role, SparseThresholds, Storage, StoragePolicy, Tensor,
};
use half::bf16;
use nnz_core::{Prunable, Shape, Topology};
use safetensors::tensor::{Dtype as FileDtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// Contents of a model file besides its tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// Specification of the network.
    pub model: ModelSpec,
    /// How inputs are normalized.
    pub normalization: Normalization,
    /// Class names, or names of the targets.
    pub classes: Vec<String>,
    /// Name of the data it was trained on.
    pub data: String,
    /// The method and its density, in words.
    pub method: String,
    /// Which weights are prunable.
    #[serde(rename = "prune_head")]
    pub prunable: Prunable,
    /// Whether classes were given as texts, also where these look like numbers.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub texts: bool,
    /// How the columns of a table became inputs, see [`crate::data::Dataset::encoding`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoding: Option<serde_json::Value>,
    /// Task of the network.
    #[serde(default, skip_serializing_if = "Task::is_default")]
    pub task: Task,
    /// Mean and standard deviation of each target: output times the second plus the first is in the target's units.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scales: Vec<[f32; 2]>,
    /// How weights and tables are written.
    #[serde(default, skip_serializing_if = "Dtype::is_default")]
    pub dtype: Dtype,
    /// Storage of its weights when it was measured, used wherever it is read again.
    #[serde(default, skip_serializing_if = "StoragePolicy::is_default")]
    pub policy: StoragePolicy,
}

impl Header {
    /// How rows become inputs and goals.
    pub fn frame(&self) -> Preprocessing {
        Preprocessing { task: self.task, normalization: self.normalization, scales: self.scales.clone() }
    }
}

/// A network read from a file.
#[derive(Clone, Debug)]
pub struct Stored<T> {
    /// The network.
    pub model: Model<T>,
    /// Header of its file.
    pub header: Header,
}

/// Most columns of a weight, and as many more per byte of its file: a file that holds only a shape must not cause
/// allocations for its columns.
const FEW_COLUMNS: usize = 1 << 20;
const COLUMNS_EACH: usize = 16;

/// Format of weights with zeros.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Packing {
    /// Compressed rows if that is smaller or a connection has the value zero, else dense with zeros.
    #[default]
    Smallest,
    /// Compressed rows for every weight that lacks connections: keeps connections whose value is zero.
    Csr,
    /// Dense with zeros, which any reader loads.
    Dense,
}

const FORMAT: &str = "nnz-1";

/// The document under the metadata's key `nnz`. A single key, since several would be written in any order.
#[derive(Serialize, Deserialize)]
struct Metadata {
    format: String,
    header: Header,
    layout: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    checkpoint: Option<CheckpointHeader>,
}

/// Position of a training, for [`save_checkpoint`].
#[derive(Clone, Debug, Serialize, Deserialize)]
struct CheckpointHeader {
    /// Hash of everything that determines the run.
    run: String,
    optimizer: OptimizerSpec,
    #[serde(default)]
    average: bool,
    /// Thresholds of storage `auto`: the choice a training began with, whatever a machine would choose now.
    #[serde(default, skip_serializing_if = "SparseThresholds::is_empty")]
    crossovers: SparseThresholds,
    /// Tensors of state of every parameter, where they are not as many as the optimizer's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    slots: Vec<usize>,
    position: Position,
}

/// Contents of a checkpoint.
pub(crate) struct Checkpoint<'a, T: Real> {
    pub model: Cow<'a, Model<T>>,
    pub optimizer: Cow<'a, Optimizer<T>>,
    pub average: Option<Average<T>>,
    pub crossovers: SparseThresholds,
    pub snapshots: Cow<'a, BTreeMap<String, Snapshot<T>>>,
    /// Values and optimizer state of the leaves of every parametrized weight, one after the other.
    pub leaves: Vec<Vec<T>>,
    pub position: Position,
}

struct Out {
    tensors: Vec<(String, FileDtype, Vec<usize>, Vec<u8>)>,
    layout: BTreeMap<String, String>,
}

impl Out {
    fn real<T: Real>(&mut self, name: String, shape: Vec<usize>, values: &[T], narrow: bool) {
        let (dtype, bytes) = match size_of::<T>() {
            _ if narrow => {
                (FileDtype::BF16, values.iter().flat_map(|v| bf16::from_f64(v.f64()).to_le_bytes()).collect())
            }
            4 => (FileDtype::F32, values.iter().flat_map(|v| (v.f64() as f32).to_le_bytes()).collect()),
            _ => (FileDtype::F64, values.iter().flat_map(|v| v.f64().to_le_bytes()).collect()),
        };
        self.tensors.push((name, dtype, shape, bytes));
    }

    fn index(&mut self, name: String, numbers: impl Iterator<Item = u32>) {
        let bytes: Vec<u8> = numbers.flat_map(|n| n.to_le_bytes()).collect();
        self.tensors.push((name, FileDtype::U32, vec![bytes.len() / 4], bytes));
    }

    fn model<T: Real>(&mut self, model: &Model<T>, packing: Packing, dtype: Dtype) -> Result<()> {
        for p in &model.params {
            let name = p.shape.name.clone();
            let narrow = dtype.rounds(p.role);
            let each = if narrow { 2 } else { 4 };
            let packed = (4 + each) * p.nnz() + 4 * (p.shape.rows + 1);
            let packing = match packing {
                Packing::Smallest if packed < each * p.shape.len() || p.has_zero_connections() => Packing::Csr,
                Packing::Smallest => Packing::Dense,
                chosen => chosen,
            };
            let shape = match p.weight() || p.role == Role::Structure {
                _ if p.unformed() => vec![0],
                true => vec![p.shape.rows, p.shape.cols],
                false => p.value.shape().to_vec(),
            };
            match (&p.layout, packing) {
                (Layout::Dense | Layout::Masked(_), Packing::Dense) | (Layout::Dense, Packing::Csr) => {
                    self.real(name, shape, p.value.data(), narrow);
                }
                (Layout::Sparse(_), Packing::Dense) => {
                    let (mut all, rows) = (vec![T::ZERO; p.shape.len()], p.by_rows());
                    rows.topology.positions().zip(rows.of(&p.value)).for_each(|(i, v)| all[i as usize] = v);
                    self.real(name, shape, &all, narrow);
                }
                (_, Packing::Csr | Packing::Smallest) => {
                    let rows = p.by_rows();
                    let topology = &rows.topology;
                    u32::try_from(topology.nnz())
                        .map_err(|_| Error::Refused(format!("`{name}` has more than 2^32 connections")))?;
                    self.layout.insert(name.clone(), "csr".into());
                    self.index(format!("{name}.crow_indices"), topology.starts().iter().map(|&s| s as u32));
                    self.index(format!("{name}.col_indices"), topology.columns().iter().copied());
                    let values = rows.of(&p.value);
                    self.real(format!("{name}.values"), vec![values.len()], &values, narrow);
                }
            }
        }
        Ok(())
    }

    fn bytes(self, header: Header, checkpoint: Option<CheckpointHeader>) -> Result<Vec<u8>> {
        let Self { tensors, layout } = self;
        let failed = |e: &dyn std::fmt::Display| Error::Refused(format!("a network cannot be written: {e}"));
        let views: Result<Vec<_>, _> =
            tensors.iter().map(|(n, d, s, b)| TensorView::new(*d, s.clone(), b).map(|v| (n.as_str(), v))).collect();
        let views = views.map_err(|e| failed(&e))?;
        let metadata = Metadata { format: FORMAT.into(), header, layout, checkpoint };
        let text = serde_json::to_string(&metadata).map_err(|e| failed(&e))?;
        let metadata = HashMap::from([("nnz".to_string(), text)]);
        safetensors::serialize(views, Some(metadata)).map_err(|e| failed(&e))
    }
}

/// Writes a file whole or not at all: a temporary name in the same directory, synced, then renamed, and the directory synced.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    nnz_disk::write(path, bytes).map_err(|e| Error::file(path, format!("cannot write: {e}")))
}

pub(crate) fn to_bytes_generic<T: Real>(model: &Model<T>, header: &Header, packing: Packing) -> Result<Vec<u8>> {
    let mut out = Out { tensors: Vec::new(), layout: BTreeMap::new() };
    out.model(model, packing, header.dtype)?;
    out.bytes(Header { model: model.spec.clone(), ..header.clone() }, None)
}

/// Everything a training needs to resume bit for bit. `run` names the run it belongs to.
pub(crate) fn checkpoint<T: Real>(checkpoint: &Checkpoint<'_, T>, header: &Header, run: &str) -> Result<Vec<u8>> {
    let Checkpoint { model, optimizer, average, crossovers, snapshots, leaves, position } = checkpoint;
    let mut out = Out { tensors: Vec::new(), layout: BTreeMap::new() };
    out.model(model, Packing::Csr, Dtype::Native)?;
    for (i, param) in model.params.iter().enumerate() {
        let rows = param.by_rows();
        let mut state = |name: String, tensor: &Tensor<T>| {
            // What does not lie as the values do is written as it is.
            if param.unformed() || tensor.shape() != param.value.shape() {
                return out.real(format!("{name}.own"), tensor.shape().to_vec(), tensor.data(), false);
            }
            let entries = rows.of(tensor);
            out.real(name, vec![entries.len()], &entries, false);
        };
        for (k, slot) in optimizer.state[i].iter().enumerate() {
            state(format!("optimizer.{}.{k}", param.shape.name), slot);
        }
        if let Some(average) = average {
            state(format!("average.{}", param.shape.name), &average.values()[i]);
        }
    }
    for (name, Snapshot { params, state }) in snapshots.iter() {
        for (p, state) in params.iter().zip(state) {
            let (name, rows) = (format!("snapshot.{name}.{}", p.shape.name), p.by_rows());
            if p.nnz() < p.shape.len() {
                out.index(format!("{name}.crow_indices"), rows.topology.starts().iter().map(|&s| s as u32));
                out.index(format!("{name}.col_indices"), rows.topology.columns().iter().copied());
            }
            for (k, tensor) in std::iter::once(&p.value).chain(state).enumerate() {
                let entries = rows.of(tensor);
                out.real(format!("{name}.{k}"), vec![entries.len()], &entries, false);
            }
        }
    }
    for (i, values) in leaves.iter().enumerate() {
        out.real(format!("leaves.{i}"), vec![values.len()], values, false);
    }
    let mut slots: Vec<usize> = optimizer.state.iter().map(Vec::len).collect();
    let (optimizer, average) = (optimizer.spec, average.is_some());
    if slots.iter().all(|&n| n == optimizer.slots()) {
        slots.clear();
    }
    let (crossovers, position) = (crossovers.clone(), position.clone());
    let checkpoint = CheckpointHeader { run: run.into(), optimizer, average, crossovers, slots, position };
    out.bytes(Header { model: model.spec.clone(), ..header.clone() }, Some(checkpoint))
}

/// A parsed file; tensors are still bytes in place.
struct In<'a> {
    path: &'a Path,
    tensors: SafeTensors<'a>,
    header: Header,
    layout: BTreeMap<String, String>,
    checkpoint: Option<CheckpointHeader>,
    /// Length of the file.
    bytes: usize,
}

impl<'a> In<'a> {
    /// Parses what does not depend on the network.
    fn parse(path: &'a Path, bytes: &'a [u8]) -> Result<Self> {
        let fail = |why: String| Error::file(path, why);
        let broken = |e: safetensors::SafeTensorError| fail(format!("not a whole safetensors file: {e}"));
        let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(broken)?;
        let tensors = SafeTensors::deserialize(bytes).map_err(broken)?;
        let Some(text) = metadata.metadata().as_ref().and_then(|m| m.get("nnz")) else {
            return Err(fail("no model of nnz: its metadata has no key `nnz`".into()));
        };
        let document: serde_json::Value =
            serde_json::from_str(text).map_err(|e| fail(format!("metadata `nnz`: {e}")))?;
        let format = document["format"].as_str().unwrap_or("unnamed");
        if format != FORMAT {
            return Err(fail(format!("has format {format}, this program reads {FORMAT}")));
        }
        let Metadata { header, layout, checkpoint, .. } =
            serde_json::from_value(document).map_err(|e| fail(format!("metadata `nnz`: {e}")))?;
        Ok(Self { path, tensors, header, layout, checkpoint, bytes: bytes.len() })
    }

    /// Checks the network, whose custom layers are among `layers`.
    fn checked(mut self, layers: &Layers) -> Result<Self> {
        let bound = self.header.model.bind(layers);
        bound.map_err(|why| self.fail(why))?;
        let header = &self.header;
        let outputs = header.task.outputs(header.classes.len(), header.model.input);
        let scales = if header.task == Task::Regression { header.classes.len() } else { 0 };
        let sound = |s: &[f32; 2]| s[0].is_finite() && s[1] > 0.0 && s[1].is_finite();
        if header.scales.len() != scales || !header.scales.iter().all(sound) {
            return Err(
                self.fail(format!("{} scales in the header, expected {scales} that are numbers", header.scales.len()))
            );
        }
        header.normalization.check().map_err(|why| self.fail(format!("normalization in the header: {why}")))?;
        header.model.check(outputs).map_err(|why| self.fail(format!("model in the header: {why}")))?;
        Ok(self)
    }

    fn fail(&self, why: impl ToString) -> Error {
        Error::file(self.path, why)
    }

    fn tensor(&self, name: &str) -> Result<TensorView<'_>> {
        self.tensors.tensor(name).map_err(|_| self.fail(format!("tensor `{name}` is missing")))
    }

    fn real<T: Real>(&self, name: &str, len: usize) -> Result<Vec<T>> {
        let t = self.tensor(name)?;
        let values: Vec<T> = match t.dtype() {
            FileDtype::BF16 => {
                t.data().chunks_exact(2).map(|b| T::of(bf16::from_le_bytes([b[0], b[1]]).to_f64())).collect()
            }
            FileDtype::F32 => {
                let word = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
                t.data().chunks_exact(4).map(|b| T::of(f64::from(word(b)))).collect()
            }
            FileDtype::F64 => {
                let word = |b: &[u8]| f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]);
                t.data().chunks_exact(8).map(|b| T::of(word(b))).collect()
            }
            other => return Err(self.fail(format!("tensor `{name}` has type {other:?}, expected F32, F64 or BF16"))),
        };
        match values.len() == len {
            true => Ok(values),
            false => Err(self.fail(format!("tensor `{name}` holds {} values, expected {len}", values.len()))),
        }
    }

    fn index(&self, name: &str) -> Result<Vec<u32>> {
        let t = self.tensor(name)?;
        match t.dtype() {
            FileDtype::U32 => {
                Ok(t.data().chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
            }
            other => Err(self.fail(format!("tensor `{name}` has type {other:?}, expected U32"))),
        }
    }

    /// Refuses a shape for which the file is too short: compressed rows do not mention columns without entries.
    fn bounded(&self, name: &str, cols: usize) -> Result<()> {
        match cols <= FEW_COLUMNS.saturating_add(self.bytes.saturating_mul(COLUMNS_EACH)) {
            true => Ok(()),
            false => Err(self.fail(format!("`{name}` claims {cols} columns in a file of {} bytes", self.bytes))),
        }
    }

    fn param<T: Real>(&self, shape: &Shape, prunable: bool, storage: PolicyRef) -> Result<Param<T>> {
        let name = &shape.name;
        self.bounded(name, shape.cols)?;
        match self.layout.get(name).map(String::as_str) {
            // The weight of a training that moves its factors.
            None if self.checkpoint.is_some() && self.tensor(name)?.shape() == [0] => {
                let value = Tensor::zeros(&[0]);
                Ok(Param { shape: shape.clone(), role: Role::Weight, prunable, layout: Layout::Dense, value })
            }
            None => {
                let values: Vec<T> = self.real(name, shape.len())?;
                // A file written dense with zeros becomes sparse again: zeros are not connections, except if the policy
                // stores all connections.
                let exist = (0..values.len()).filter(|&i| values[i] != T::ZERO);
                let topology = Topology::from_positions(shape.rows, shape.cols, exist.map(|i| i as u64));
                let full = topology.nnz() == shape.len() || topology.nnz() == 0 || self.checkpoint.is_some();
                let full = full || storage.storage == Storage::Dense;
                let topology = if full { Topology::full(shape.rows, shape.cols) } else { topology };
                let values = topology.positions().map(|p| values[p as usize]).collect();
                Param::from_entries(shape, prunable, topology, storage, values)
            }
            Some("csr") => {
                let starts = self.index(&format!("{name}.crow_indices"))?.into_iter().map(|s| s as usize).collect();
                let columns = self.index(&format!("{name}.col_indices"))?;
                let topology = Topology::new(shape.rows, shape.cols, starts, columns)
                    .map_err(|e| self.fail(format!("`{name}`: {e}")))?;
                let values = self.real(&format!("{name}.values"), topology.nnz())?;
                Param::from_entries(shape, prunable, topology, storage, values)
            }
            Some(other) => Err(self.fail(format!("`{name}` has the unknown layout `{other}`"))),
        }
    }

    /// Reads a procedure's snapshot of a network like `model`.
    fn snapshot<T: Real>(
        &self,
        snapshot: &str,
        model: &Model<T>,
        storage: PolicyRef,
        optimizer: &Optimizer<T>,
    ) -> Result<Snapshot<T>> {
        let (mut params, mut states) = (Vec::new(), Vec::new());
        for p in &model.params {
            let name = format!("snapshot.{snapshot}.{}", p.shape.name);
            let (rows, cols) = (p.shape.rows, p.shape.cols);
            let topology = match self.tensors.tensor(&format!("{name}.crow_indices")) {
                Ok(_) => {
                    let starts = self.index(&format!("{name}.crow_indices"))?.into_iter().map(|s| s as usize).collect();
                    let columns = self.index(&format!("{name}.col_indices"))?;
                    Topology::new(rows, cols, starts, columns).map_err(|e| self.fail(format!("`{name}`: {e}")))?
                }
                // The file holds as many values as that.
                Err(_) if self.tensor(&format!("{name}.0"))?.shape() == [p.shape.len()] => Topology::full(rows, cols),
                Err(_) => return Err(self.fail(format!("`{name}.0` is not of {} values", p.shape.len()))),
            };
            let values = self.real(&format!("{name}.0"), topology.nnz())?;
            let param = match p.weight() {
                true => Param::from_entries(&p.shape, p.prunable, topology, storage, values)?,
                false => Param { value: Tensor::new(p.value.shape(), values), ..p.clone() },
            };
            let rows = param.by_rows();
            let mut state = Vec::new();
            for k in 0..optimizer.spec.slots() {
                let mut tensor = Tensor::zeros(param.value.shape());
                rows.set(&mut tensor, &self.real::<T>(&format!("{name}.{}", k + 1), param.nnz())?);
                state.push(tensor);
            }
            params.push(param);
            states.push(state);
        }
        Ok(Snapshot { params, state: states })
    }

    fn model<T: Real>(&self, storage: PolicyRef) -> Result<Model<T>> {
        let spec = &self.header.model;
        let mut params = Vec::new();
        for p in spec.params() {
            params.push(match p.role {
                Role::Weight => self.param(&p.shape, self.header.prunable.takes(&p.shape), storage)?,
                Role::Structure => {
                    let read: Param<T> = self.param(&p.shape, false, Storage::Sparse.into())?;
                    Param::structure(&p.shape, &read.topology())
                }
                _ => Param::plain(&p, Tensor::new(&p.dims(), self.real(&p.shape.name, p.shape.len())?)),
            });
        }
        Ok(Model { spec: spec.clone(), params })
    }
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|e| Error::file(path, format!("cannot read: {e}")))
}

pub(crate) fn parse_generic<T: Real>(
    bytes: &[u8],
    path: &Path,
    storage: PolicyRef,
    layers: &Layers,
) -> Result<(Model<T>, Header)> {
    let file = In::parse(path, bytes)?.checked(layers)?;
    let storage = if storage.open() { (&file.header.policy).into() } else { storage };
    Ok((file.model(storage)?, file.header))
}

/// Whether a file is a checkpoint of `run`.
pub fn is_checkpoint(path: &Path, run: &str) -> bool {
    let of_run = |bytes: Vec<u8>| Some(In::parse(path, &bytes).ok()?.checkpoint?.run == run);
    read(path).ok().and_then(of_run).unwrap_or(false)
}

/// Reads a checkpoint of `run` from bytes; refuses another run's. `path` names them in errors.
pub(crate) fn parse_checkpoint<T: Real>(
    bytes: &[u8],
    path: &Path,
    storage: Storage,
    run: &str,
    layers: &Layers,
) -> Result<Checkpoint<'static, T>> {
    let file = In::parse(path, bytes)?.checked(layers)?;
    let Some(checkpoint) = &file.checkpoint else { return Err(file.fail("a model, not a checkpoint")) };
    if checkpoint.run != run {
        return Err(file.fail(format!(
            "a checkpoint of run {}, not of {run}: the recipe, the data or the method changed since; start in another \
             directory, or remove this one",
            checkpoint.run
        )));
    }
    let crossovers = checkpoint.crossovers.clone();
    let storage = PolicyRef { storage, crossovers: &crossovers };
    let model: Model<T> = file.model(storage)?;
    if checkpoint.optimizer.slots() > file.tensors.len() {
        let slots = checkpoint.optimizer.slots();
        return Err(file.fail(format!("an optimizer with {slots} vectors a parameter, which are not there")));
    }
    let mut optimizer = Optimizer::new(checkpoint.optimizer, &model.params);
    let mut average = checkpoint.average.then(|| Average::new(&model.params));
    for (i, param) in model.params.iter().enumerate() {
        let rows = param.by_rows();
        let state = |name: String, tensor: &mut Tensor<T>| -> Result<()> {
            rows.set(tensor, &file.real(&name, param.nnz())?);
            Ok(())
        };
        let mut slots = Vec::new();
        for k in 0..checkpoint.slots.get(i).copied().unwrap_or(optimizer.state[i].len()) {
            let name = format!("optimizer.{}.{k}", param.shape.name);
            let own = format!("{name}.own");
            if let Ok(found) = file.tensors.tensor(&own) {
                let dims = found.shape().to_vec();
                slots.push(Tensor::new(&dims, file.real(&own, dims.iter().product())?));
            } else {
                let mut slot = Tensor::zeros(param.value.shape());
                state(name, &mut slot)?;
                slots.push(slot);
            }
        }
        optimizer.state[i] = slots;
        if let Some(average) = &mut average {
            state(format!("average.{}", param.shape.name), &mut average.values_mut()[i])?;
        }
    }
    let position = checkpoint.position.clone();
    let snapshots =
        position.snapshots.iter().map(|name| Ok((name.clone(), file.snapshot(name, &model, storage, &optimizer)?)));
    let snapshots = snapshots.collect::<Result<BTreeMap<_, _>>>()?;
    let leaves = (0..position.leaves.len()).map(|i| {
        let name = format!("leaves.{i}");
        let len = file.tensor(&name)?.shape().iter().product();
        file.real(&name, len)
    });
    let leaves = leaves.collect::<Result<Vec<_>>>()?;
    let (model, optimizer, snapshots) = (Cow::Owned(model), Cow::Owned(optimizer), Cow::Owned(snapshots));
    Ok(Checkpoint { model, optimizer, average, crossovers, snapshots, leaves, position })
}
