//! State as safetensors files: every array under its name, and the run it belongs to in the metadata.

use crate::{Error, Real, Result, Tensor, write_atomically};
use nnz_core::{Numbers, State, Visit};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::{BTreeSet, HashMap};
use std::path::Path;

/// Metadata key of the run; it names the format.
const FORMAT: &str = "nnz-state-1";

fn refused(why: String) -> nnz_core::Error {
    nnz_core::Error::Refused(why)
}

#[derive(Default)]
struct Writer {
    names: BTreeSet<String>,
    arrays: Vec<(String, Dtype, Vec<usize>, Vec<u8>)>,
}

impl Visit for Writer {
    fn array(&mut self, name: &str, extents: &mut Vec<usize>, numbers: Numbers) -> nnz_core::Result<()> {
        if numbers.len() != extents.iter().product::<usize>() {
            return Err(refused(format!("`{name}` holds {} numbers for extents {extents:?}", numbers.len())));
        }
        if !self.names.insert(name.into()) {
            return Err(refused(format!("two arrays of one state are named `{name}`")));
        }
        let (dtype, bytes) = match numbers {
            Numbers::F32(v) => (Dtype::F32, v.iter().flat_map(|x| x.to_le_bytes()).collect()),
            Numbers::F64(v) => (Dtype::F64, v.iter().flat_map(|x| x.to_le_bytes()).collect()),
            Numbers::U8(v) => (Dtype::U8, v.clone()),
            Numbers::U32(v) => (Dtype::U32, v.iter().flat_map(|x| x.to_le_bytes()).collect()),
            Numbers::U64(v) => (Dtype::U64, v.iter().flat_map(|x| x.to_le_bytes()).collect()),
        };
        self.arrays.push((name.into(), dtype, extents.clone(), bytes));
        Ok(())
    }
}

struct Reader<'a> {
    arrays: SafeTensors<'a>,
    asked: BTreeSet<String>,
}

impl Visit for Reader<'_> {
    fn array(&mut self, name: &str, extents: &mut Vec<usize>, numbers: Numbers) -> nnz_core::Result<()> {
        let Ok(array) = self.arrays.tensor(name) else { return Err(refused(format!("array `{name}` is missing"))) };
        self.asked.insert(name.into());
        let bytes = array.data();
        fn words<const N: usize, V>(bytes: &[u8], of: fn([u8; N]) -> V) -> Vec<V> {
            bytes.as_chunks::<N>().0.iter().map(|b| of(*b)).collect()
        }
        let wanted = match (array.dtype(), numbers) {
            (Dtype::F32, Numbers::F32(v)) => {
                return put(extents, array.shape(), || *v = words(bytes, f32::from_le_bytes));
            }
            (Dtype::F64, Numbers::F64(v)) => {
                return put(extents, array.shape(), || *v = words(bytes, f64::from_le_bytes));
            }
            (Dtype::U8, Numbers::U8(v)) => return put(extents, array.shape(), || *v = bytes.to_vec()),
            (Dtype::U32, Numbers::U32(v)) => {
                return put(extents, array.shape(), || *v = words(bytes, u32::from_le_bytes));
            }
            (Dtype::U64, Numbers::U64(v)) => {
                return put(extents, array.shape(), || *v = words(bytes, u64::from_le_bytes));
            }
            (_, Numbers::F32(_)) => "F32",
            (_, Numbers::F64(_)) => "F64",
            (_, Numbers::U8(_)) => "U8",
            (_, Numbers::U32(_)) => "U32",
            (_, Numbers::U64(_)) => "U64",
        };
        Err(refused(format!("array `{name}` has type {:?}, expected {wanted}", array.dtype())))
    }
}

fn put(extents: &mut Vec<usize>, shape: &[usize], write: impl FnOnce()) -> nnz_core::Result<()> {
    *extents = shape.to_vec();
    write();
    Ok(())
}

/// Writes a state, whole or not at all. `run` identifies its run: everything that determines it.
///
/// # Errors
/// When two arrays have one name, or the file cannot be written.
pub fn save_state(path: &Path, state: &mut dyn State, run: &str) -> Result<()> {
    let mut writer = Writer::default();
    state.visit(&mut writer)?;
    let views: Result<Vec<_>, _> = writer
        .arrays
        .iter()
        .map(|(name, dtype, shape, bytes)| TensorView::new(*dtype, shape.clone(), bytes).map(|v| (name.as_str(), v)))
        .collect();
    let views = views.map_err(|e| Error::file(path, e))?;
    let metadata = HashMap::from([(FORMAT.to_string(), run.to_string())]);
    let bytes = safetensors::serialize(views, Some(metadata)).map_err(|e| Error::file(path, e))?;
    write_atomically(path, &bytes)
}

/// Replaces `state` by one that [`save_state`] wrote for `run`.
///
/// # Errors
/// When the file has another format or run, lacks an array, or has one that nobody asked for. Then `state` may be changed in
/// part and must not be used further.
pub fn load_state(path: &Path, state: &mut dyn State, run: &str) -> Result<()> {
    let bytes = std::fs::read(path).map_err(|e| Error::file(path, format!("cannot read: {e}")))?;
    let broken = |e: safetensors::SafeTensorError| Error::file(path, format!("not a whole safetensors file: {e}"));
    let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(broken)?;
    let arrays = SafeTensors::deserialize(&bytes).map_err(broken)?;
    let Some(of) = metadata.metadata().as_ref().and_then(|m| m.get(FORMAT)) else {
        return Err(Error::file(path, format!("no state of a fit: its metadata has no key `{FORMAT}`")));
    };
    if of != run {
        let why = format!("the state of run {of}, not of {run}: start in another directory, or remove this file");
        return Err(Error::file(path, why));
    }
    let mut reader = Reader { arrays, asked: BTreeSet::new() };
    state.visit(&mut reader).map_err(|e| Error::file(path, e))?;
    match reader.arrays.names().into_iter().find(|n| !reader.asked.contains(*n)) {
        None => Ok(()),
        Some(name) => Err(Error::file(path, format!("array `{name}` belongs to nothing that is fitted here"))),
    }
}

/// Visits a tensor of fixed extents.
///
/// # Errors
/// Those of [`Visit::array`], or when the extents differ.
pub fn visit_tensor<T: Real>(v: &mut dyn Visit, name: &str, tensor: &mut Tensor<T>) -> nnz_core::Result<()> {
    let mut extents = tensor.shape().to_vec();
    let values: Vec<T> = if size_of::<T>() == 4 {
        let mut narrow: Vec<f32> = tensor.data().iter().map(|v| v.f64() as f32).collect();
        v.array(name, &mut extents, Numbers::F32(&mut narrow))?;
        narrow.into_iter().map(|v| T::of(f64::from(v))).collect()
    } else {
        let mut wide: Vec<f64> = tensor.data().iter().map(|v| v.f64()).collect();
        v.array(name, &mut extents, Numbers::F64(&mut wide))?;
        wide.into_iter().map(T::of).collect()
    };
    if extents != tensor.shape() {
        return Err(refused(format!("`{name}` is {extents:?} where {:?} is needed", tensor.shape())));
    }
    *tensor = Tensor::new(&extents, values);
    Ok(())
}
