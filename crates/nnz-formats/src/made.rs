//! Tensors that a file stores in parts: weights under a mask of `torch.nn.utils.prune`, sparse tensors of PyTorch, and integers
//! or 8-bit floats with scales.

use crate::archive::Entry;
use crate::packed::MOST;
use crate::{Archive, Error, Format, Packing, Result};

/// Composition of a tensor.
#[derive(Clone, Debug)]
pub(crate) enum Made {
    /// `NAME_orig` times `NAME_mask`.
    Masked([String; 2]),
    /// Positions and values, summed over repeated positions.
    Coo([String; 2]),
    /// Directions of rows, and their lengths: those of `torch.nn.utils.weight_norm`.
    Normed([String; 2]),
}

impl Made {
    pub fn parts(&self) -> &[String] {
        match self {
            Self::Masked(parts) | Self::Coo(parts) | Self::Normed(parts) => parts,
        }
    }
}

/// Computes a tensor from the others it is made of.
pub(crate) fn read(archive: &Archive, entry: &Entry, made: &Made) -> Result<Vec<f32>, String> {
    let [a, b] = match made {
        Made::Masked(parts) | Made::Coo(parts) | Made::Normed(parts) => parts,
    };
    let floats = |name: &str| archive.read(name).map_err(|e| e.why);
    if let Made::Masked(_) = made {
        let (mut values, mask) = (floats(a)?, floats(b)?);
        values.iter_mut().zip(mask).for_each(|(v, m)| *v *= m);
        return Ok(values);
    }
    if let Made::Normed(_) = made {
        let (mut values, lengths) = (floats(a)?, floats(b)?);
        let rows = values.chunks_mut(entry.shape[1..].iter().product::<usize>().max(1));
        for (row, length) in rows.zip(lengths) {
            let own = row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt() as f32;
            row.iter_mut().for_each(|v| *v *= length / own);
        }
        return Ok(values);
    }
    let (places, nonzeros) = (archive.integers(a).map_err(|e| e.why)?, floats(b)?);
    let axes = archive.get(a).and_then(|e| e.shape.first().copied()).unwrap_or(0);
    let count = places.len().checked_div(axes).unwrap_or(0);
    let each: usize = entry.shape.iter().skip(axes).product();
    if axes == 0 || axes > entry.shape.len() || places.len() != axes * count || nonzeros.len() != count * each {
        return Err(format!("{} places and {} values make no {:?}", places.len(), nonzeros.len(), entry.shape));
    }
    let mut values = vec![0.0; entry.len()];
    for i in 0..count {
        let at = (0..axes).try_fold(0usize, |at, axis| {
            let place = places[axis * count + i];
            (place < entry.shape[axis]).then_some(at * entry.shape[axis] + place)
        });
        let at = at.ok_or_else(|| format!("value {i} lies outside {:?}", entry.shape))?;
        values[at * each..][..each].iter_mut().zip(&nonzeros[i * each..]).for_each(|(v, x)| *v += x);
    }
    Ok(values)
}

/// A sparse tensor of positions and values, if its claimed size is not beyond the data.
pub(crate) fn coo(name: &str, shape: Vec<usize>, values: &Entry, bytes: usize) -> Result<Entry, String> {
    let len = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    if shape.is_empty() || len.is_none_or(|n| n > bytes.saturating_mul(MOST)) {
        return Err(format!("`{name}` claims {shape:?} entries, but has {bytes} bytes"));
    }
    let parts = [format!("{name}.indices"), format!("{name}.values")];
    Ok(Entry { made: Some(Made::Coo(parts)), ..Entry::of(values.format, shape, Packing::Dense) })
}

/// The unit of integers or 8-bit floats: a scale for the tensor, for each row, or for each block.
#[derive(Clone, Debug)]
pub(crate) struct Scale {
    /// The scales.
    pub name: String,
    /// Name of the zero point.
    zero: Option<String>,
    /// Rows and columns that share one.
    block: [usize; 2],
    /// Divisor of the scales.
    by: f32,
}

impl Scale {
    pub fn apply(&self, archive: &Archive, entry: &Entry, values: &mut [f32]) -> Result<(), String> {
        let floats = |name: &str| archive.read(name).map_err(|e| e.why);
        let (scales, zeros) = (floats(&self.name)?, self.zero.as_deref().map(floats).transpose()?);
        let cols: usize = entry.shape.iter().skip(1).product::<usize>().max(1);
        let wide = cols.div_ceil(self.block[1]);
        for (r, row) in values.chunks_mut(cols).enumerate() {
            for (c, v) in row.iter_mut().enumerate() {
                let at = r / self.block[0] * wide + c / self.block[1];
                *v = (*v - zeros.as_ref().map_or(0.0, |z| z[at])) * (scales[at] / self.by);
            }
        }
        Ok(())
    }
}

/// Side of a block of 8-bit floats without a configuration.
const SIDE: usize = 128;

impl Archive {
    /// Lists weights of `torch.nn.utils.prune`, which are `NAME_orig` times `NAME_mask`.
    pub(crate) fn mask(&mut self) {
        let names: Vec<String> =
            self.entries.keys().filter_map(|n| n.strip_suffix("_orig")).map(str::to_owned).collect();
        for name in names {
            let parts = [format!("{name}_orig"), format!("{name}_mask")];
            let [Some(orig), Some(mask)] = [&parts[0], &parts[1]].map(|p| self.entries.get(p)) else { continue };
            if orig.shape != mask.shape || !orig.format.is_float() || self.entries.contains_key(&name) {
                continue;
            }
            let made = Made::Masked(parts.clone());
            let entry = Entry { made: Some(made), ..Entry::of(orig.format, orig.shape.clone(), Packing::Dense) };
            self.parts.extend(parts);
            self.entries.insert(name, entry);
        }
        self.norm();
    }

    /// Lists weights of `torch.nn.utils.weight_norm`: now `LAYER.parametrizations.NAME.original0` and `original1`, before
    /// `LAYER.NAME_g` and `NAME_v`.
    fn norm(&mut self) {
        let names: Vec<String> = self.entries.keys().cloned().collect();
        for lengths in names {
            let (rows, whole) = match (lengths.strip_suffix(".original0"), lengths.strip_suffix("_g")) {
                (Some(n), _) => (format!("{n}.original1"), n.replace("parametrizations.", "")),
                (_, Some(n)) => (format!("{n}_v"), n.to_owned()),
                _ => continue,
            };
            let (Some(g), Some(v)) = (self.entries.get(&lengths), self.entries.get(&rows)) else { continue };
            let fits = v.shape.len() > 1
                && g.shape.len() == v.shape.len()
                && g.shape[0] == v.shape[0]
                && g.len() == v.shape[0];
            if !fits || !v.format.is_float() || self.entries.contains_key(&whole) {
                continue;
            }
            let parts = [rows, lengths];
            let made = Made::Normed(parts.clone());
            let entry = Entry { made: Some(made), ..Entry::of(v.format, v.shape.clone(), Packing::Dense) };
            self.parts.extend(parts);
            self.entries.insert(whole, entry);
        }
    }

    /// Finds the scales of weights: `NAME_scale` with an optional `NAME_zero_point` (compressed-tensors, fp8), `NAME_scale_inv`
    /// (blocks of fp8), and `SCB` of a layer (bitsandbytes, a 127th of which is a step).
    ///
    /// # Errors
    /// When scales do not fit their weight.
    pub(crate) fn scale(&mut self) -> Result<(), Error> {
        let side = |key: usize| {
            let said = &self.config.as_ref()?["quantization_config"]["weight_block_size"][key];
            said.as_u64().map(|n| n as usize).filter(|&n| n > 0)
        };
        let sides = [0, 1].map(|i| side(i).unwrap_or(SIDE));
        let names: Vec<String> = self.entries.keys().cloned().collect();
        for name in names {
            let (whole, by) =
                match (name.strip_suffix("_scale"), name.strip_suffix("_scale_inv"), name.strip_suffix(".SCB")) {
                    (Some(n), ..) | (_, Some(n), _) => (n.to_owned(), 1.0),
                    (.., Some(layer)) => (format!("{layer}.weight"), 127.0),
                    _ => continue,
                };
            let (Some(weight), Some(scales)) = (self.entries.get(&whole), self.entries.get(&name)) else { continue };
            if !matches!(weight.format, Format::I8 | Format::F8E4M3 | Format::F8E5M2) || weight.shape.is_empty() {
                continue;
            }
            let (rows, cols) = (weight.shape[0], weight.shape[1..].iter().product::<usize>());
            let inverse = name.ends_with("_scale_inv");
            let block = match *scales.shape {
                _ if scales.len() == 1 => [rows, cols],
                [r] | [r, 1] if r == rows => [1, cols],
                [r, g] if r == rows && g > 0 && cols.is_multiple_of(g) && !inverse => [1, cols / g],
                [r, g] if r == rows.div_ceil(sides[0]) && g == cols.div_ceil(sides[1]) => sides,
                _ => {
                    return Err(self.fail(format!(
                        "`{name}` of shape {:?} does not fit `{whole}` of shape {:?}: a scale for all, for each row, or for blocks",
                        scales.shape, weight.shape
                    )));
                }
            };
            let block = block.map(|b| b.max(1));
            let zero = format!("{whole}_zero_point");
            let zero = match self.entries.get(&zero) {
                Some(z) if z.len() == scales.len() => Some(zero),
                Some(z) => {
                    return Err(self.fail(format!("`{zero}` has {} numbers for {} scales", z.len(), scales.len())));
                }
                None => None,
            };
            if self.entries.contains_key(&format!("{whole}_g_idx")) {
                return Err(self
                    .fail(format!("`{whole}` has its groups in another order (`{whole}_g_idx`), which is not read")));
            }
            let layout = whole.strip_suffix(".weight").map(|l| format!("{l}.weight_format"));
            if let Some(layout) = layout.filter(|l| by != 1.0 && self.entries.contains_key(l)) {
                if self.read(&layout)?.iter().any(|v| *v != 0.0) {
                    return Err(
                        self.fail(format!("`{layout}` is not `row`: `{whole}` is laid out for one kind of GPU"))
                    );
                }
                self.parts.insert(layout);
            }
            self.parts.insert(name.clone());
            self.parts.extend(zero.clone());
            if let Some(weight) = self.entries.get_mut(&whole) {
                weight.scale = Some(Scale { name, zero, block, by });
            }
        }
        Ok(())
    }
}
