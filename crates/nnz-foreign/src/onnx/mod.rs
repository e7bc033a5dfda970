//! Networks of other programs as graphs: ONNX files, and checkpoints of architectures that [`nnz_onnx::build`] knows. Encoders of
//! texts and networks for images are opened, run, timed, pruned and written through one code path.

mod export;
mod own;
mod prune;
mod raw;
mod train;

pub use export::{Exported, NARROW, Target, export};
pub use nnz_onnx::GraphNet;
pub use nnz_onnx::build::{Fit, Pictures, Reads};
pub use own::{own, state_dict};
pub use prune::prune;
pub use train::{Normalize, learner, put_back, spare};

use crate::llm::Tokens;
use crate::{Error, Result};
use nnz_data::Picture;
use nnz_engine::cost::Machine;
use nnz_formats::Archive;
use nnz_onnx::{Budget, Constant, DType, Graph, Matrix, Session, Value, build};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A network of another program.
#[derive(Debug)]
pub struct Network {
    /// Its path.
    pub path: PathBuf,
    /// Its graph.
    pub graph: Graph,
    /// Its architecture.
    pub family: String,
    /// Its inputs.
    pub reads: Reads,
    /// Names of its classes, if known.
    pub classes: Vec<String>,
    /// Assumptions made.
    pub notes: Vec<String>,
    /// The checkpoint it was built from; `None` for ONNX.
    pub archive: Option<Archive>,
}

impl From<nnz_onnx::Error> for Error {
    fn from(e: nnz_onnx::Error) -> Self {
        match e {
            nnz_onnx::Error::File { path, why } => Self::File { path, why },
            nnz_onnx::Error::Formats(e) => e.into(),
            other => Self::Refused(other.to_string()),
        }
    }
}

/// An ONNX file, or the one in a folder.
fn onnx(path: &Path) -> Option<PathBuf> {
    let file = if path.is_dir() { path.join("model.onnx") } else { path.into() };
    (file.extension().is_some_and(|e| e == "onnx") && file.is_file()).then_some(file)
}

/// Whether a path is a network of another program that is computed as a graph.
pub fn known(path: &Path) -> bool {
    let named = path.extension().is_some_and(|e| e == "onnx");
    named
        || onnx(path).is_some()
        || (path.exists() && Archive::open(path).is_ok_and(|a| build::known(&a) || loose(path, &a)))
}

/// Whether a file of weights does not describe its network: its matrices can still be pruned and written. Of folders, only those
/// written from such a file.
fn loose(path: &Path, archive: &Archive) -> bool {
    let file = path.extension().is_some_and(|e| ["npz", "pth", "pt", "bin", "safetensors"].iter().any(|k| e == *k));
    (file || archive.metadata.contains_key("nnz"))
        && archive.config.is_none()
        && archive.kind != "GGUF"
        && !build::known(archive)
}

/// Metadata key of a graph's inputs.
const READS: &str = "nnz.pictures";
/// Key of the longest sequence of tokens.
const CONTEXT: &str = "nnz.context";
/// Key of its classes.
const CLASSES: &str = "nnz.classes";

impl Network {
    /// Opens an ONNX file, or a checkpoint: a folder or a file.
    ///
    /// # Errors
    /// When it cannot be read, or its architecture is not known.
    pub fn open(path: &Path) -> Result<Self> {
        let named = path.extension().is_some_and(|e| e == "onnx");
        if let Some(file) = onnx(path).or(named.then(|| path.into())) {
            let graph = Graph::open(&file)?;
            let has = |name: &str| graph.inputs.iter().any(|p| p.name == name);
            let said = |key: &str, what: &str, read: &dyn Fn(&serde_json::Value) -> bool| {
                let text = graph.metadata.get(key);
                let value = text.map(|t| serde_json::from_str::<serde_json::Value>(t).unwrap_or_default()).filter(read);
                match text.is_some() && value.is_none() {
                    true => Err(Error::file(path, format!("`{key}` in its metadata is not {what}"))),
                    false => Ok(value),
                }
            };
            let form = r#"{"shape": [channels, height, width], "mean": [..], "deviation": [..]} with a number for each channel"#;
            let pictures = said(READS, form, &|v| pictures(v).is_some())?.and_then(|v| pictures(&v));
            let context = said(CONTEXT, "a number of tokens", &|v| v.as_u64().is_some_and(|n| n > 0))?;
            let context = context.and_then(|v| v.as_u64()).map_or(512, |n| n as usize);
            let names = |v: &serde_json::Value| serde_json::from_value::<Vec<String>>(v.clone()).ok();
            let classes = said(CLASSES, "a list of names", &|v| names(v).is_some())?;
            let classes = classes.and_then(|v| names(&v)).unwrap_or_default();
            let vocabulary = usize::MAX;
            let reads = match (has("input_ids"), has("pixel_values"), pictures) {
                (true, true, Some(pictures)) => Reads::Both { vocabulary, context, pictures },
                (true, false, _) => Reads::Tokens { vocabulary, context },
                (false, _, Some(pictures)) => Reads::Pictures(pictures),
                _ => Reads::Anything,
            };
            let family = "ONNX".into();
            let mut kinds = graph.inputs.iter().filter_map(|p| p.kind).chain(graph.constants.values().map(|c| c.kind));
            let double = kinds.any(|k| k == DType::F64);
            let notes = double.then(|| "its 64-bit floats are computed in 32 bits, and written as they came".into());
            let notes = notes.into_iter().collect();
            return Ok(Self { path: path.into(), graph, family, reads, classes, notes, archive: None });
        }
        let archive = Archive::open(path)?;
        if loose(path, &archive) {
            return Self::weights(path, archive);
        }
        let mut built = build::build(&archive)?;
        built.notes.extend(archive.notes.iter().cloned());
        Ok(Self {
            path: path.into(),
            graph: built.graph,
            family: built.family.into(),
            reads: built.reads,
            classes: built.classes,
            notes: built.notes,
            archive: Some(archive),
        })
    }

    /// Wraps weights of which only names and shapes are known.
    fn weights(path: &Path, archive: Archive) -> Result<Self> {
        let mut constants = BTreeMap::new();
        for (name, entry) in archive.tensors().filter(|(_, e)| export::weight(e)) {
            constants.insert(name.to_string(), Constant::floats(&entry.shape, archive.read(name)?));
        }
        let graph = Graph {
            path: path.into(),
            name: String::new(),
            opset: nnz_onnx::OPSET,
            nodes: Vec::new(),
            constants,
            inputs: Vec::new(),
            outputs: Vec::new(),
            metadata: BTreeMap::new(),
        };
        let mut notes = archive.notes.clone();
        notes.push(
            "what these weights compute is not known: every tensor of two or more axes counts as a matrix".into(),
        );
        let (family, reads, archive) = ("weights".into(), Reads::Anything, Some(archive));
        Ok(Self { path: path.into(), graph, family, reads, classes: Vec::new(), notes, archive })
    }

    /// The weights that can be pruned, and heads; for weights alone every tensor of two or more axes.
    pub fn matrices(&self) -> Vec<Matrix> {
        if !self.graph.nodes.is_empty() {
            return self.graph.matrices();
        }
        let matrix = |(name, c): (&String, &Constant)| {
            let (rows, cols) = (c.shape[0], c.shape[1..].iter().product());
            Matrix {
                name: name.clone(),
                node: usize::MAX,
                rows,
                cols,
                kernel: c.shape[2..].to_vec(),
                by_columns: false,
                head: false,
                inside: false,
            }
        };
        self.graph.constants.iter().filter(|(_, c)| c.shape.len() > 1 && !c.is_empty()).map(matrix).collect()
    }

    /// Checks that it can be run.
    ///
    /// # Errors
    /// When only its weights are known.
    pub fn runs(&self) -> Result<()> {
        match self.graph.nodes.is_empty() {
            true => Err(Error::file(
                &self.path,
                "what these weights compute is not known: there is no config.json beside them, and their names are those of no architecture that is \
                 known; so they can only be listed, converted, and pruned by magnitude",
            )),
            false => Ok(()),
        }
    }

    /// Prepares it to run, with matrices sparse if that is fastest on a machine, or all dense.
    ///
    /// # Errors
    /// When an operator is missing.
    pub fn session(&self, machine: Option<&Machine>) -> Result<Session> {
        self.runs()?;
        let advice = machine.cloned().map(|m| {
            let advice =
                move |rows: usize, cols: usize, density: f64, batch: usize| match batch <= 2 || sides(rows, cols) {
                    true => m.advice(rows, cols, density, batch),
                    false => "dense",
                };
            Box::new(advice) as nnz_onnx::Advice
        });
        Ok(Session::new(&self.graph, advice, Budget::default())?)
    }

    /// Opens the tokenizer next to it.
    ///
    /// # Errors
    /// When there is none, or it does not match.
    pub fn tokens(&self) -> Result<Tokens> {
        let vocabulary = match self.reads {
            Reads::Tokens { vocabulary, .. } | Reads::Both { vocabulary, .. } => vocabulary,
            _ => return Err(Error::file(&self.path, "this network reads no texts")),
        };
        match &self.archive {
            Some(archive) => Tokens::of(archive, vocabulary),
            None => {
                let folder = if self.path.is_dir() { &self.path } else { self.path.parent().unwrap_or(Path::new("")) };
                let file = folder.join("tokenizer.json");
                match file.is_file() {
                    true => Tokens::open(&file, self.table()),
                    false => Err(Error::file(
                        &self.path,
                        "there is no tokenizer.json beside the network; put it into the same folder",
                    )),
                }
            }
        }
    }

    /// Rows of the embedding table, if the graph shows it.
    fn table(&self) -> Option<usize> {
        let looks = |n: &&nnz_onnx::Node| n.op == "Gather" && n.inputs.get(1).is_some_and(|i| i == "input_ids");
        let node = self.graph.nodes.iter().find(looks)?;
        self.graph.constants.get(&node.inputs[0])?.shape.first().copied()
    }

    /// Longest sequence of tokens it reads.
    pub fn context(&self) -> usize {
        match self.reads {
            Reads::Tokens { context, .. } | Reads::Both { context, .. } => context,
            _ => 0,
        }
    }

    /// Image preprocessing, if it reads images.
    pub fn pictures(&self) -> Option<&Pictures> {
        match &self.reads {
            Reads::Pictures(p) | Reads::Both { pictures: p, .. } => Some(p),
            _ => None,
        }
    }

    /// Makes inputs from sequences of tokens, the short ones padded and masked.
    pub fn of_tokens(&self, texts: &[Vec<u32>]) -> Vec<(&str, Value)> {
        let length = texts.iter().map(Vec::len).max().unwrap_or(0);
        let shape = [texts.len(), length];
        let each = |f: &dyn Fn(&Vec<u32>, usize) -> i64| {
            let all = texts.iter().flat_map(|t| (0..length).map(move |i| (t, i)));
            Value::ints(&shape, all.map(|(t, i)| f(t, i)).collect())
        };
        let value = |name: &str| match name {
            "input_ids" => Some(each(&|t, i| t.get(i).copied().map_or(0, i64::from))),
            "attention_mask" => Some(each(&|t, i| i64::from(i < t.len()))),
            "token_type_ids" => Some(each(&|_, _| 0)),
            _ => None,
        };
        self.graph.inputs.iter().filter_map(|p| Some((p.name.as_str(), value(&p.name)?))).collect()
    }

    /// Makes an input from images: the shorter side scaled to the network's, center-cropped, each channel less its mean and
    /// divided by its deviation.
    ///
    /// # Errors
    /// When the network does not read images.
    pub fn of_pictures(&self, pictures: &[Picture]) -> Result<Vec<(&str, Value)>> {
        let Some(want) = self.pictures() else {
            return Err(Error::file(&self.path, "the file does not say how its input is made from a picture"));
        };
        let [channels, height, width] = want.shape;
        if ![1, 3].contains(&channels) {
            return Err(Error::file(
                &self.path,
                format!("pictures of {channels} channels; gray and coloured ones are read"),
            ));
        }
        let area = height * width;
        let mut x = vec![0.0; pictures.len() * channels * area];
        for (picture, x) in pictures.iter().zip(x.chunks_exact_mut(channels * area)) {
            for (i, v) in fitted(picture, want).into_iter().enumerate() {
                let c = i % channels;
                x[c * area + i / channels] = (f32::from(v) / 255.0 - want.mean[c]) / want.deviation[c];
            }
        }
        let name = self.graph.inputs.iter().find(|p| p.name != "input_ids" && p.name != "attention_mask");
        let name = name.map(|p| p.name.as_str()).unwrap_or_default();
        Ok(vec![(name, Value::floats(&[pictures.len(), channels, height, width], x))])
    }

    /// Fixes extents of an input that the file leaves open.
    ///
    /// # Errors
    /// When the network has no such input, or the file gives it another shape.
    pub fn fix(&mut self, input: &str, shape: &[usize]) -> Result<()> {
        let fail = |why: String| Error::file(&self.path, why);
        let names: Vec<&str> = self.graph.inputs.iter().map(|p| p.name.as_str()).collect();
        let Some(at) = names.iter().position(|n| *n == input) else {
            return Err(fail(format!("no input `{input}`; it reads {}", names.join(", "))));
        };
        if let Some(told) = &self.graph.inputs[at].shape {
            let fits = told.len() == shape.len() && told.iter().zip(shape).all(|(t, s)| t.is_none_or(|t| t == *s));
            if !fits {
                let told: Vec<String> = told.iter().map(|d| d.map_or("?".into(), |d| d.to_string())).collect();
                return Err(fail(format!("input `{input}` has shape [{}], not {shape:?}", told.join(", "))));
            }
        }
        self.graph.inputs[at].shape = Some(shape.iter().map(|&d| Some(d)).collect());
        Ok(())
    }

    /// Makes inputs of the network's types and shapes, for timing: `batch` samples.
    ///
    /// # Errors
    /// When an input's shape is not known.
    pub fn typical(&self, batch: usize) -> Result<Vec<(&str, Value)>> {
        let mut all = Vec::new();
        for port in &self.graph.inputs {
            let Some(shape) = &port.shape else {
                return Err(Error::file(
                    &self.path,
                    format!(
                        "the file does not say what shape input `{0}` has; give it with --shape {0}=1x3x224x224",
                        port.name
                    ),
                ));
            };
            let open = |i: usize| match (i, &self.reads, shape.len()) {
                (0, ..) => Some(batch),
                (_, Reads::Tokens { .. } | Reads::Both { .. }, 2) => Some(TOKENS.min(self.context())),
                (i, _, 4) => self.pictures().map(|p| p.shape[i - 1]),
                _ => None,
            };
            let shape: Option<Vec<usize>> = shape.iter().enumerate().map(|(i, d)| d.or_else(|| open(i))).collect();
            let Some(shape) =
                shape.filter(|s| s.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).is_some_and(|n| n < 1 << 28))
            else {
                return Err(Error::file(
                    &self.path,
                    format!("input `{0}` may have any extent; give its shape with --shape {0}=1x3x224x224", port.name),
                ));
            };
            let n: usize = shape.iter().product();
            let one = i64::from(port.name != "token_type_ids");
            let numbers = || (0..n).map(|i| (i * 7919 % 2003) as f32 / 1001.0 - 1.0).collect();
            let value = match port.kind {
                kind if kind.is_none_or(DType::is_float) => Value::floats(&shape, numbers()),
                Some(DType::Bool) => Value::Bool(nnz_onnx::Array::new(&shape, vec![true; n])),
                Some(DType::U8) => Value::Byte(nnz_onnx::Array::new(&shape, vec![1; n])),
                Some(DType::I8) => Value::Small(nnz_onnx::Array::new(&shape, vec![1; n])),
                _ => Value::ints(&shape, vec![one; n]),
            };
            all.push((port.name.as_str(), value));
        }
        Ok(all)
    }
}

/// Whether a matrix has so many entries per input and output that converting those to tiles for a sparse product does not cost
/// more than it saves. The cost model measures square layers, the smallest of 128; MobileNetV2 is full of 16x96.
fn sides(rows: usize, cols: usize) -> bool {
    rows * cols >= 64 * (rows + cols)
}

/// Tokens per sequence when timing encoders.
pub const TOKENS: usize = 128;

/// Parses a file's image preprocessing.
fn pictures(v: &serde_json::Value) -> Option<Pictures> {
    let floats = |key: &str| v[key].as_array()?.iter().map(|x| Some(x.as_f64()? as f32)).collect::<Option<Vec<_>>>();
    let shape: Vec<usize> = v["shape"].as_array()?.iter().map(|d| Some(d.as_u64()? as usize)).collect::<Option<_>>()?;
    let shape: [usize; 3] = shape.try_into().ok()?;
    let (mean, deviation) = (floats("mean")?, floats("deviation")?);
    let sound = shape.iter().all(|&d| (1..=1 << 12).contains(&d))
        && mean.len() == shape[0]
        && deviation.len() == shape[0]
        && deviation.iter().all(|d| d.is_finite() && *d != 0.0);
    let fit = match &v["fit"] {
        serde_json::Value::Null => Fit::Cover,
        said if said == "stretch" => Fit::Stretch,
        said => {
            let least = shape[1].max(shape[2]) as u64;
            Fit::Shorter(said.as_u64().filter(|n| (least..=1 << 12).contains(n))? as usize)
        }
    };
    sound.then_some(Pictures { shape, mean, deviation, cubic: v["cubic"] == true, fit })
}

/// Pixels `[height, width, channels]` of an image, scaled and center-cropped.
fn fitted(picture: &Picture, want: &Pictures) -> Vec<u8> {
    let [channels, height, width] = want.shape;
    let from: Vec<u8> = match (channels, picture.channels) {
        (3, 1) => picture.pixels.iter().flat_map(|&p| [p; 3]).collect(),
        (1, 3) => {
            let luma = |c: &[u8]| 19595 * u32::from(c[0]) + 38470 * u32::from(c[1]) + 7471 * u32::from(c[2]);
            picture.pixels.chunks_exact(3).map(|c| ((luma(c) + (1 << 15)) >> 16) as u8).collect()
        }
        _ => picture.pixels.clone(),
    };
    let (w, h) = (picture.width, picture.height);
    let (whole_w, whole_h) = match want.fit {
        Fit::Stretch => (width, height),
        Fit::Shorter(side) if w <= h => (side, side * h / w),
        Fit::Shorter(side) => (side * w / h, side),
        Fit::Cover if w * height <= h * width => (width, width * h / w),
        Fit::Cover => (height * w / h, height),
    };
    let narrow = scaled(&from, [w, whole_w, width], channels, want.cubic);
    scaled(&narrow, [h, whole_h, height], width * channels, want.cubic)
}

/// The middle `new` positions of an axis `[.., old, inner]` scaled to `whole` of them: averages over the support of each
/// output, in integers, as in Pillow.
fn scaled(from: &[u8], [old, whole, new]: [usize; 3], inner: usize, cubic: bool) -> Vec<u8> {
    let scale = old as f64 / whole as f64;
    let stretch = scale.max(1.0);
    let reach = stretch * if cubic { 2.0 } else { 1.0 };
    // Keys' cubic with a = -1/2, or a triangle.
    let weight = |x: f64| match x.abs() {
        x if !cubic => (1.0 - x).max(0.0),
        x if x < 1.0 => (1.5 * x - 2.5) * x * x + 1.0,
        x if x < 2.0 => ((2.5 - 0.5 * x) * x - 4.0) * x + 2.0,
        _ => 0.0,
    };
    let first = (whole - new) / 2;
    let covered = |i: usize| {
        let middle = (i as f64 + 0.5) * scale;
        let (start, end) = ((middle - reach + 0.5) as usize, ((middle + reach + 0.5) as usize).min(old));
        let weights: Vec<f64> = (start..end).map(|p| weight((p as f64 + 0.5 - middle) / stretch)).collect();
        let sum: f64 = weights.iter().sum();
        // 22 bits behind the point.
        (start, weights.into_iter().map(|w| (w / sum * f64::from(1 << 22)).round() as i64).collect())
    };
    let places: Vec<(usize, Vec<i64>)> = (first..first + new).map(covered).collect();
    let mut out = vec![0; from.len() / old * new];
    for (line, to) in from.chunks_exact(old * inner).zip(out.chunks_exact_mut(new * inner)) {
        for ((start, weights), to) in places.iter().zip(to.chunks_exact_mut(inner)) {
            for (c, y) in to.iter_mut().enumerate() {
                let all = weights.iter().zip(line[start * inner + c..].iter().step_by(inner));
                let sum = all.map(|(w, &v)| w * i64::from(v)).sum::<i64>();
                *y = ((sum + (1 << 21)) >> 22).clamp(0, 255) as u8;
            }
        }
    }
    out
}
