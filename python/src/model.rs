//! A trained network: its layers as arrays, its answers, its file.

use crate::arrays::{arrays, slice};
use crate::error::{kind, value};
use crate::threads::computing;
use nnz::core::Topology;
use nnz::data::read::Encoding;
use nnz::engine::data::Normalization;
use nnz::engine::file::{Header, Packing, load_model, save_model};
use nnz::engine::{Layout, Model as Network, ModelSpec, Param, Storage, Task};
use numpy::{PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray1, PyReadonlyArray2, PyUntypedArrayMethods};
use pyo3::prelude::*;
use std::path::PathBuf;

type Values<'py> = Bound<'py, PyArray1<f32>>;
type Indices<'py> = Bound<'py, PyArray1<i32>>;

/// A trained network.
#[pyclass(frozen, module = "nnz._nnz")]
pub struct Model {
    network: Network<f32>,
    header: Header,
    encoding: Option<Encoding>,
}

impl Model {
    fn new(network: Network<f32>, header: Header) -> PyResult<Self> {
        let encoding = header.encoding.as_ref().map(Encoding::from_json).transpose().map_err(value)?;
        Ok(Self { network, header, encoding })
    }

    fn param(&self, name: &str) -> PyResult<&Param<f32>> {
        let found = self.network.params.iter().find(|p| p.shape.name == name);
        found.ok_or_else(|| value(format!("no layer `{name}`")))
    }
}

#[pymethods]
impl Model {
    /// Reads a network that nnz trained.
    #[staticmethod]
    fn load(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        let (network, header) = py.detach(|| computing(|| load_model(&path, Storage::Auto))).map_err(value)?;
        Self::new(network, header)
    }

    /// A perceptron of these matrices, `(data, indices, indptr, columns)` or an array `[outputs, inputs]`, with a bias each.
    #[staticmethod]
    fn perceptron(
        weights: Vec<Bound<'_, PyAny>>,
        biases: Vec<PyReadonlyArray1<'_, f32>>,
        classes: Vec<String>,
        texts: bool,
        regression: bool,
    ) -> PyResult<Self> {
        let matrices = weights.iter().map(matrix).collect::<PyResult<Vec<_>>>()?;
        let mut sizes: Vec<usize> = matrices.iter().map(|m| m.0.cols()).collect();
        sizes.extend(matrices.last().map(|m| m.0.rows()));
        let spec = sizes.iter().map(ToString::to_string).collect::<Vec<_>>().join("-");
        let inputs = *sizes.first().ok_or_else(|| value("no weights"))?;
        let spec = ModelSpec::parse(&format!("mlp:{spec}"), [1, 1, inputs], classes.len()).map_err(value)?;
        let mut network: Network<f32> = Network::born(&spec, None, Storage::Auto, true, 0).map_err(value)?;
        let (mut matrices, mut biases) = (matrices.into_iter(), biases.into_iter());
        for p in &mut network.params {
            if p.weight() {
                let (topology, values) = matrices.next().ok_or_else(|| value("too few weights"))?;
                if [topology.rows(), topology.cols()] != [p.shape.rows, p.shape.cols] {
                    let (rows, cols) = (topology.rows(), topology.cols());
                    return Err(value(format!(
                        "`{}` is [{}, {}], got [{rows}, {cols}]",
                        p.shape.name, p.shape.rows, p.shape.cols
                    )));
                }
                *p = Param::from_entries(&p.shape, p.prunable, topology, Storage::Auto, values).map_err(value)?;
            } else {
                let bias = biases.next().ok_or_else(|| value("too few biases"))?;
                let (bias, data) = (slice(&bias, "biases")?, p.value.data_mut());
                if bias.len() != data.len() {
                    return Err(value(format!("`{}` has {} values, got {}", p.shape.name, data.len(), bias.len())));
                }
                data.copy_from_slice(bias);
            }
        }
        let task = if regression { Task::Regression } else { Task::Classification };
        let header = Header {
            scales: if regression { vec![[0.0, 1.0]; classes.len()] } else { Vec::new() },
            model: spec,
            normalization: Normalization::NONE,
            classes,
            data: "arrays".into(),
            method: "given as arrays".into(),
            prunable: true.into(),
            texts,
            task,
            dtype: Default::default(),
            encoding: None,
            policy: Default::default(),
        };
        Self::new(network, header)
    }

    /// The header of its file, as JSON.
    fn header(&self) -> PyResult<String> {
        serde_json::to_string(&self.header).map_err(value)
    }

    /// Name, shape, nonzeros, storage, role and kernel of every weight; then name and shape of everything else.
    #[allow(clippy::type_complexity, reason = "a table")]
    fn table(&self) -> (Vec<(String, [usize; 2], usize, &'static str, String, [usize; 2])>, Vec<(String, Vec<usize>)>) {
        let weight = |p: &Param<f32>| {
            let role = p.shape.role.to_string();
            (p.shape.name.clone(), [p.shape.rows, p.shape.cols], p.nnz(), p.storage_name(), role, p.shape.kernel)
        };
        let other = |p: &Param<f32>| (p.shape.name.clone(), p.value.shape().to_vec());
        let params = &self.network.params;
        (
            params.iter().filter(|p| p.weight()).map(weight).collect(),
            params.iter().filter(|p| !p.weight()).map(other).collect(),
        )
    }

    /// Bytes of all parameters with their indices.
    fn bytes(&self) -> usize {
        self.network.bytes()
    }

    /// Nonzeros / entries over the prunable weights.
    fn density(&self) -> f64 {
        self.network.density()
    }

    /// The connections of a weight in compressed rows: values, columns, starts of rows. NumPy owns the arrays.
    fn csr<'py>(&self, py: Python<'py>, name: &str) -> PyResult<(Values<'py>, Indices<'py>, Indices<'py>)> {
        let p = self.param(name)?;
        let (starts, columns, values) = py.detach(|| {
            computing(|| {
                let entries = p.by_rows();
                let values = entries.of(&p.value);
                let small = |n: usize| i32::try_from(n);
                let starts: Result<Vec<i32>, _> = entries.topology.starts().iter().map(|&n| small(n)).collect();
                (starts, entries.topology.columns().iter().map(|&c| c as i32).collect::<Vec<_>>(), values)
            })
        });
        let starts = starts.map_err(|_| value(format!("`{name}` has more connections than 32 bits count")))?;
        Ok((PyArray1::from_vec(py, values), PyArray1::from_vec(py, columns), PyArray1::from_vec(py, starts)))
    }

    /// Every entry of a weight, `[rows, columns]`, or of another parameter, as it is shaped.
    fn dense<'py>(&self, py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyAny>> {
        let p = self.param(name)?;
        if !p.weight() {
            let shape = p.value.shape().to_vec();
            return Ok(PyArray1::from_vec(py, p.value.data().to_vec()).reshape(shape)?.into_any());
        }
        let (rows, cols) = (p.shape.rows, p.shape.cols);
        let all = py.detach(|| match &p.layout {
            Layout::Sparse(_) => {
                let entries = p.by_rows();
                let mut all = vec![0.0; rows * cols];
                entries.topology.positions().zip(entries.of(&p.value)).for_each(|(at, v)| all[at as usize] = v);
                all
            }
            _ => p.value.data().to_vec(),
        });
        Ok(PyArray1::from_vec(py, all).reshape([rows, cols])?.into_any())
    }

    /// Answers for rows, `[rows, outputs]`: the probability of every class, numbers in the units of the targets, or the input as it
    /// is reconstructed.
    fn answer<'py>(&self, py: Python<'py>, inputs: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let given = arrays(inputs, Vec::new(), Vec::new())?;
        let (found, rows) = py.detach(|| {
            let (inputs, rows) = given.asked(self.encoding.as_ref()).map_err(value)?;
            let (width, want) = (inputs.len() / rows.max(1), self.header.model.input.iter().product::<usize>());
            if width != want {
                return Err(value(format!("rows of {width} numbers, but the network takes {want}")));
            }
            let found = computing(|| nnz_cli::outputs(&self.network, &self.header, &inputs, rows));
            Ok((found.map_err(|e| value(format!("{e:#}")))?, rows))
        })?;
        let width = found.len() / rows.max(1);
        PyArray1::from_vec(py, found).reshape([rows, width])
    }

    /// Writes it as a file that every command reads; with `dense`, zeros too.
    #[pyo3(signature = (path, dense=false))]
    fn save(&self, py: Python<'_>, path: PathBuf, dense: bool) -> PyResult<()> {
        nnz_cli::writable(&path).map_err(value)?;
        let packing = if dense { Packing::Dense } else { Packing::Smallest };
        py.detach(|| computing(|| save_model(&path, &self.network, &self.header, packing))).map_err(value)
    }
}

/// The connections of a matrix and their values.
fn matrix(of: &Bound<'_, PyAny>) -> PyResult<(Topology, Vec<f32>)> {
    if let Ok((data, indices, indptr, width)) =
        of.extract::<(PyReadonlyArray1<'_, f32>, PyReadonlyArray1<'_, u32>, PyReadonlyArray1<'_, i64>, usize)>()
    {
        let starts = slice(&indptr, "indptr")?.iter().map(|&i| usize::try_from(i)).collect::<Result<Vec<_>, _>>();
        let starts = starts.map_err(|_| value("indptr: a negative start"))?;
        let rows = starts.len().saturating_sub(1);
        let topology = Topology::new(rows, width, starts, slice(&indices, "indices")?.to_vec()).map_err(value)?;
        let values = slice(&data, "data")?.to_vec();
        return match values.len() == topology.nnz() {
            true => Ok((topology, values)),
            false => Err(value(format!("{} values for {} indices", values.len(), topology.nnz()))),
        };
    }
    let Ok(dense) = of.extract::<PyReadonlyArray2<'_, f32>>() else {
        return Err(kind("weights: expected arrays of float32, or compressed rows"));
    };
    let (shape, all) = ([dense.shape()[0], dense.shape()[1]], slice(&dense, "weights")?);
    let there = all.iter().enumerate().filter(|(_, v)| **v != 0.0);
    let topology = Topology::from_positions(shape[0], shape[1], there.clone().map(|(i, _)| i as u64));
    Ok((topology, there.map(|(_, &v)| v).collect()))
}
