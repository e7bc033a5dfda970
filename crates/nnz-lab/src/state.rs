//! The state of an experiment as a safetensors file.

use crate::{Error, Result};
use nnz_core::{State, Visit};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// Which run a file belongs to stands under this key.
const RUN: &str = "nnz-run";

/// Collects the parts of a state.
#[derive(Default)]
struct Writer(BTreeMap<String, (Dtype, Vec<u8>)>);

impl Writer {
    fn put(&mut self, name: &str, dtype: Dtype, bytes: Vec<u8>) -> nnz_core::Result<()> {
        match self.0.insert(name.into(), (dtype, bytes)) {
            Some(_) => Err(nnz_core::Error::Refused(format!("two parts of a state are named `{name}`"))),
            None => Ok(()),
        }
    }
}

impl Visit for Writer {
    fn f32s(&mut self, name: &str, values: &mut Vec<f32>) -> nnz_core::Result<()> {
        self.put(name, Dtype::F32, values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    fn f64s(&mut self, name: &str, values: &mut Vec<f64>) -> nnz_core::Result<()> {
        self.put(name, Dtype::F64, values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    fn u32s(&mut self, name: &str, values: &mut Vec<u32>) -> nnz_core::Result<()> {
        self.put(name, Dtype::U32, values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    fn text(&mut self, name: &str, value: &mut String) -> nnz_core::Result<()> {
        self.put(name, Dtype::U8, value.clone().into_bytes())
    }
}

/// Fills the parts of a state.
struct Reader<'a>(SafeTensors<'a>);

impl<'a> Reader<'a> {
    fn bytes(&self, name: &str, dtype: Dtype) -> nnz_core::Result<&'a [u8]> {
        let bad = |why: String| nnz_core::Error::Refused(format!("the kept state: `{name}` {why}"));
        let tensor = self.0.tensor(name).map_err(|_| bad("is missing".into()))?;
        match tensor.dtype() == dtype {
            true => Ok(tensor.data()),
            false => Err(bad(format!("has type {:?}, expected {dtype:?}", tensor.dtype()))),
        }
    }
}

impl Visit for Reader<'_> {
    fn f32s(&mut self, name: &str, values: &mut Vec<f32>) -> nnz_core::Result<()> {
        *values = self.bytes(name, Dtype::F32)?.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        Ok(())
    }

    fn f64s(&mut self, name: &str, values: &mut Vec<f64>) -> nnz_core::Result<()> {
        *values = self.bytes(name, Dtype::F64)?.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)).collect();
        Ok(())
    }

    fn u32s(&mut self, name: &str, values: &mut Vec<u32>) -> nnz_core::Result<()> {
        *values = self.bytes(name, Dtype::U32)?.as_chunks().0.iter().map(|b| u32::from_le_bytes(*b)).collect();
        Ok(())
    }

    fn text(&mut self, name: &str, value: &mut String) -> nnz_core::Result<()> {
        let bytes = self.bytes(name, Dtype::U8)?.to_vec();
        let bad = |_| nnz_core::Error::Refused(format!("the kept state: `{name}` is no text"));
        *value = String::from_utf8(bytes).map_err(bad)?;
        Ok(())
    }
}

/// Writes what `state` shows; `run` names what it belongs to.
pub(crate) fn save(path: &Path, run: &str, state: &mut dyn State) -> Result<()> {
    let mut parts = Writer::default();
    state.visit(&mut parts)?;
    let size = |dtype: &Dtype| match dtype {
        Dtype::F64 => 8,
        Dtype::U8 => 1,
        _ => 4,
    };
    let view = |(name, (dtype, bytes)): (&String, &(Dtype, Vec<u8>))| {
        let view = TensorView::new(*dtype, vec![bytes.len() / size(dtype)], bytes);
        view.map(|v| (name.clone(), v.dtype(), v.shape().to_vec(), bytes.clone()))
    };
    let owned = parts.0.iter().map(view).collect::<Result<Vec<_>, _>>().map_err(|e| Error::file(path, e))?;
    let views = owned.iter().map(|(n, d, s, b)| TensorView::new(*d, s.clone(), b).map(|v| (n.as_str(), v)));
    let views = views.collect::<Result<Vec<_>, _>>().map_err(|e| Error::file(path, e))?;
    let metadata = HashMap::from([(RUN.to_string(), run.to_string())]);
    let bytes = safetensors::serialize(views, Some(metadata)).map_err(|e| Error::file(path, e))?;
    Ok(nnz_engine::file::write_atomically(path, &bytes)?)
}

/// Fills `state` from a file of `run`; whether there was one.
pub(crate) fn load(path: &Path, run: &str, state: &mut dyn State) -> Result<bool> {
    if !path.exists() {
        return Ok(false);
    }
    let bytes = std::fs::read(path).map_err(|e| Error::file(path, format!("cannot read: {e}")))?;
    let broken =
        |e: safetensors::SafeTensorError| Error::file(path, format!("is damaged: {e}; add --again to start anew"));
    let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(broken)?;
    let of = metadata.metadata().as_ref().and_then(|m| m.get(RUN)).cloned().unwrap_or_default();
    // Of an arm or seed that has ended since.
    if of != run {
        return Ok(false);
    }
    state.visit(&mut Reader(SafeTensors::deserialize(&bytes).map_err(broken)?))?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default, PartialEq, Debug)]
    struct All(Vec<f32>, Vec<f64>, Vec<u32>, String, u64, f64);

    impl State for All {
        fn visit(&mut self, v: &mut dyn Visit) -> nnz_core::Result<()> {
            v.f32s("a", &mut self.0)?;
            v.f64s("b", &mut self.1)?;
            v.u32s("c", &mut self.2)?;
            v.text("d", &mut self.3)?;
            v.u64("e", &mut self.4)?;
            v.f64("f", &mut self.5)
        }
    }

    #[test]
    fn what_is_kept_comes_back_to_the_bit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.safetensors");
        let mut all = All(vec![0.1, f32::NAN], vec![1e-300], vec![7], "words".into(), u64::MAX - 1, 0.3);
        save(&path, "run/a-0", &mut all).unwrap();
        let mut back = All::default();
        assert!(!load(&path, "run/a-1", &mut back).unwrap() && back == All::default());
        assert!(load(&path, "run/a-0", &mut back).unwrap());
        assert_eq!(format!("{back:?}"), format!("{all:?}"));
        assert!(load(&path, "run/a-0", &mut Missing).unwrap_err().to_string().contains("`z` is missing"));
        std::fs::write(&path, b"no").unwrap();
        assert!(load(&path, "run/a-0", &mut back).unwrap_err().to_string().contains("damaged"));
    }

    struct Missing;

    impl State for Missing {
        fn visit(&mut self, v: &mut dyn Visit) -> nnz_core::Result<()> {
            v.u32s("z", &mut Vec::new())
        }
    }
}
