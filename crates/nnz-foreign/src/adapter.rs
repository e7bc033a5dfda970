//! Adapters as files: the changes of fine-tuning, stored apart from the network. `s2ft` trains few columns of
//! few weights, so this is small; biases and whatever else differs are included.
//!
//! A file holds, for every parameter that differs, its differing columns and base ⊕ tuned of their bits: the same file
//! fuses and unfuses, and both restore every bit. With checksums of both networks, it is never applied to another one.

use crate::{Error, Result};
use nnz_core::Adapter;
use nnz_engine::file::{Header, write_atomically};
use nnz_engine::{Layout, Model, Param, Tensor};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::path::Path;

const FORMAT: &str = "nnz-adapter-1";

/// One of the two networks that an adapter converts between.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct End {
    /// SHA-256 of its parameters, in hexadecimal.
    pub sha256: String,
    /// Its file's header.
    pub header: Header,
}

/// The difference between two networks of the same layers.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// The network without it.
    pub base: End,
    /// The network with it.
    pub tuned: End,
    /// By parameter: columns, and base ⊕ tuned of the bits in them.
    parts: Vec<(String, Adapter<u32>)>,
}

#[derive(Serialize, Deserialize)]
struct Metadata {
    format: String,
    base: End,
    tuned: End,
}

/// Extents of a parameter's values: those of a matrix if they form one, one row otherwise.
fn extents(p: &Param<f32>) -> (usize, usize) {
    match (&p.layout, p.value.shape()) {
        (Layout::Dense | Layout::Masked(_), &[rows, cols]) => (rows, cols),
        _ => (1, p.value.len()),
    }
}

fn bits(p: &Param<f32>) -> Vec<u32> {
    p.value.data().iter().map(|v| v.to_bits()).collect()
}

/// Hashes the names, extents, connections and bits of all parameters.
fn checksum(model: &Model<f32>) -> String {
    let mut hash = Sha256::new();
    for p in &model.params {
        hash.update(p.shape.name.as_bytes());
        let topology = p.topology();
        hash.update(
            [[p.shape.rows, p.shape.cols, topology.nnz()].map(|n| n as u64).map(u64::to_le_bytes).concat()].concat(),
        );
        if p.layout != Layout::Dense {
            topology.columns().iter().for_each(|c| hash.update(c.to_le_bytes()));
        }
        bits(p).iter().for_each(|b| hash.update(b.to_le_bytes()));
    }
    nnz_engine::data::hex(&hash.finalize())
}

impl Difference {
    /// Computes the difference from `base` to `tuned`.
    ///
    /// # Errors
    /// When their layers or connections differ.
    pub fn between(base: (&Model<f32>, &Header), tuned: (&Model<f32>, &Header)) -> Result<Self> {
        let refuse = |why: &str| {
            Err(Error::Refused(format!(
                "{why}: an adapter leads between two networks of the same layers and connections"
            )))
        };
        if base.0.spec.layers != tuned.0.spec.layers {
            return refuse("the networks have other layers");
        }
        let mut parts = Vec::new();
        for (a, b) in base.0.params.iter().zip(&tuned.0.params) {
            if a.layout != b.layout {
                return refuse(&format!("`{}` has other connections in the second network", a.shape.name));
            }
            let (old, new) = (bits(a), bits(b));
            let mut part = Adapter::between(&old, &new, extents(a).1);
            if !part.columns.is_empty() {
                let before = Adapter::between(&new, &old, extents(a).1);
                part.block.iter_mut().zip(before.block).for_each(|(n, o)| *n ^= o);
                parts.push((a.shape.name.clone(), part));
            }
        }
        let end = |(model, header): (&Model<f32>, &Header)| End { sha256: checksum(model), header: header.clone() };
        Ok(Self { base: end(base), tuned: end(tuned), parts })
    }

    /// Parameters that differ, with the number of their differing columns.
    pub fn columns(&self) -> Vec<(&str, usize)> {
        self.parts.iter().map(|(name, a)| (&**name, a.columns.len())).collect()
    }

    /// Counts the values in differing columns or parameters.
    pub fn values(&self) -> usize {
        self.parts.iter().map(|(_, a)| a.block.len()).sum()
    }

    /// Applies it to its base, to the bit, and returns the header for the result.
    ///
    /// # Errors
    /// When the network is not the base.
    pub fn fuse(&self, model: &mut Model<f32>) -> Result<&Header> {
        self.lead(model, &self.base, &self.tuned, "it can be fused with that one alone")
    }

    /// Removes it again, to the bit.
    ///
    /// # Errors
    /// When the network is not its base with it applied.
    pub fn unfuse(&self, model: &mut Model<f32>) -> Result<&Header> {
        self.lead(model, &self.tuned, &self.base, "nothing but that can be unfused")
    }

    fn lead<'a>(&self, model: &mut Model<f32>, from: &End, to: &'a End, way: &str) -> Result<&'a Header> {
        let found = checksum(model);
        if found != from.sha256 {
            return Err(Error::Refused(format!(
                "the adapter was taken from {} with checksum {}..., and this one has {}...: {way}",
                from.header.model.name,
                from.sha256.chars().take(12).collect::<String>(),
                &found[..12]
            )));
        }
        let damaged = |name: &str| Error::Refused(format!("the adapter is damaged: it does not fit `{name}`"));
        // All or nothing.
        let mut new = Vec::with_capacity(self.parts.len());
        for (name, part) in &self.parts {
            let at = model.params.iter().position(|p| p.shape.name == *name).ok_or_else(|| damaged(name))?;
            let p = &model.params[at];
            let (rows, cols) = extents(p);
            let width = part.columns.len();
            if part.columns.iter().any(|&c| c >= cols) || part.block.len() != rows * width {
                return Err(damaged(name));
            }
            let mut values = bits(p);
            for (row, block) in values.chunks_mut(cols.max(1)).zip(part.block.chunks(width.max(1))) {
                part.columns.iter().zip(block).for_each(|(&c, b)| row[c] ^= b);
            }
            new.push((at, Tensor::new(p.value.shape(), values.into_iter().map(f32::from_bits).collect())));
        }
        new.into_iter().for_each(|(at, value)| model.params[at].value = value);
        if checksum(model) != to.sha256 {
            return Err(damaged(&to.header.model.name));
        }
        Ok(&to.header)
    }

    /// Writes it as safetensors: `NAME.columns` and `NAME.bits`, in 32 bits.
    pub fn write(&self, path: &Path) -> Result<()> {
        let bytes = |all: &mut dyn Iterator<Item = u32>| all.flat_map(u32::to_le_bytes).collect::<Vec<u8>>();
        let mut data = Vec::new();
        for (name, part) in &self.parts {
            let width = part.columns.len();
            data.push((format!("{name}.columns"), vec![width], bytes(&mut part.columns.iter().map(|&c| c as u32))));
            let rows = part.block.len() / width.max(1);
            data.push((format!("{name}.bits"), vec![rows, width], bytes(&mut part.block.iter().copied())));
        }
        let bad = |e: &dyn std::fmt::Display| Error::file(path, format!("cannot write: {e}"));
        let views =
            data.iter().map(|(name, shape, bytes)| Ok((name, TensorView::new(Dtype::U32, shape.clone(), bytes)?)));
        let views: std::result::Result<Vec<_>, safetensors::SafeTensorError> = views.collect();
        let (base, tuned) = (self.base.clone(), self.tuned.clone());
        let text = serde_json::to_string(&Metadata { format: FORMAT.into(), base, tuned }).map_err(|e| bad(&e))?;
        let metadata = HashMap::from([("nnz-adapter".to_string(), text)]);
        let all = views.and_then(|v| safetensors::serialize(v, Some(metadata))).map_err(|e| bad(&e))?;
        Ok(write_atomically(path, &all)?)
    }

    /// Reads what [`Difference::write`] wrote.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|e| Error::file(path, format!("cannot read: {e}")))?;
        Self::parse(&bytes, path)
    }

    /// Parses bytes; `path` names them in errors.
    pub fn parse(bytes: &[u8], path: &Path) -> Result<Self> {
        let none = || Error::file(path, "is no adapter; `nnz adapter take` makes one");
        let damaged = |why: String| Error::file(path, format!("is a damaged adapter: {why}"));
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(|_| none())?;
        let text = header.metadata().as_ref().and_then(|m| m.get("nnz-adapter")).ok_or_else(none)?;
        let Metadata { format, base, tuned } = serde_json::from_str(text).map_err(|e| damaged(e.to_string()))?;
        if format != FORMAT {
            return Err(damaged(format!("its format is `{format}`, which this version does not know")));
        }
        let file = SafeTensors::deserialize(bytes).map_err(|e| damaged(e.to_string()))?;
        let numbers = |name: &str| -> Result<(Vec<usize>, Vec<u32>)> {
            let view = file.tensor(name).map_err(|_| damaged(format!("it lacks `{name}`")))?;
            if view.dtype() != Dtype::U32 {
                return Err(damaged(format!("`{name}` is no 32-bit tensor")));
            }
            let (quads, _) = view.data().as_chunks::<4>();
            Ok((view.shape().to_vec(), quads.iter().map(|q| u32::from_le_bytes(*q)).collect()))
        };
        let mut names: Vec<&str> = file.names().into_iter().filter_map(|n| n.strip_suffix(".columns")).collect();
        names.sort_unstable();
        let mut parts = Vec::with_capacity(names.len());
        for name in names {
            let (_, columns) = numbers(&format!("{name}.columns"))?;
            let (shape, block) = numbers(&format!("{name}.bits"))?;
            if shape.len() != 2 || shape[1] != columns.len() || !columns.is_sorted_by(|a, b| a < b) {
                return Err(damaged(format!("columns of `{name}` do not fit its bits")));
            }
            parts.push((
                name.to_string(),
                Adapter { columns: columns.into_iter().map(|c| c as usize).collect(), block },
            ));
        }
        Ok(Self { base, tuned, parts })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nnz_core::Rng;
    use nnz_engine::data::Normalization;
    use nnz_engine::{Dtype as Width, ModelSpec, Storage, Task};

    fn header(model: &Model<f32>, data: &str) -> Header {
        Header {
            model: model.spec.clone(),
            normalization: Normalization::NONE,
            classes: (0..3).map(|c| c.to_string()).collect(),
            data: data.into(),
            method: String::new(),
            prunable: false.into(),
            texts: false,
            encoding: None,
            policy: Default::default(),
            task: Task::Classification,
            scales: Vec::new(),
            dtype: Width::Native,
        }
    }

    fn network() -> Model<f32> {
        let spec = ModelSpec::parse("mlp:12-8-3", [1, 3, 4], 3).unwrap();
        Model::born(&spec, None, Storage::Auto, false, 1).unwrap()
    }

    /// The network with new numbers in some columns of its first weight and in its last bias.
    fn tuned(columns: &[usize], seed: u64) -> Model<f32> {
        let (mut model, mut rng) = (network(), Rng::stream(seed, "tuned", 0, 0));
        let weight = model.params[0].value.data_mut();
        (0..96).filter(|i| columns.contains(&(i % 12))).for_each(|i| weight[i] = rng.normal() as f32);
        model.params[3].value.data_mut()[1] = -0.0;
        model
    }

    fn all(model: &Model<f32>) -> Vec<u32> {
        model.params.iter().flat_map(bits).collect()
    }

    #[test]
    fn adapters_fuse_unfuse_and_switch_to_the_bit_and_through_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let base = network();
        let (first, second) = (tuned(&[2, 3], 1), tuned(&[3, 11], 2));
        let take = |t: &Model<f32>, name: &str| {
            let path = dir.path().join(name);
            let made = Difference::between((&base, &header(&base, "a")), (t, &header(t, name))).unwrap();
            made.write(&path).unwrap();
            let read = Difference::read(&path).unwrap();
            assert_eq!(read.columns().len(), made.columns().len());
            read
        };
        let [a, b] = [take(&first, "first"), take(&second, "second")];
        assert_eq!((a.values(), a.columns()), (17, vec![("fc1.weight", 2), ("fc2.bias", 1)]));
        let mut model = base.clone();
        for _ in 0..2 {
            assert_eq!(a.fuse(&mut model).unwrap().data, "first");
            assert_eq!(all(&model), all(&first));
            assert!(a.fuse(&mut model).unwrap_err().to_string().contains("that one alone"));
            assert!(b.unfuse(&mut model).is_err());
            assert_eq!(a.unfuse(&mut model).unwrap().data, "a");
            assert_eq!(all(&model), all(&base));
            b.fuse(&mut model).unwrap();
            assert_eq!(all(&model), all(&second));
            b.unfuse(&mut model).unwrap();
        }
    }

    #[test]
    fn what_is_no_adapter_or_damaged_is_refused() {
        let (base, other, dir) = (network(), tuned(&[5], 3), tempfile::tempdir().unwrap());
        let path = dir.path().join("x");
        let made = Difference::between((&base, &header(&base, "a")), (&other, &header(&other, "b"))).unwrap();
        made.write(&path).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        for length in [0, 7, bytes.len() / 2, bytes.len() - 1] {
            assert!(Difference::parse(&bytes[..length], &path).is_err());
        }
        let mut bent = bytes.clone();
        *bent.last_mut().unwrap() ^= 1;
        let damaged = Difference::parse(&bent, &path).unwrap();
        let error = damaged.fuse(&mut base.clone()).unwrap_err().to_string();
        assert!(error.contains("damaged"), "{error}");
        let spec = ModelSpec::parse("mlp:12-9-3", [1, 3, 4], 3).unwrap();
        let wider: Model<f32> = Model::born(&spec, None, Storage::Auto, false, 1).unwrap();
        let error = Difference::between((&base, &header(&base, "")), (&wider, &header(&wider, ""))).unwrap_err();
        assert!(error.to_string().contains("same layers"), "{error}");
    }
}
