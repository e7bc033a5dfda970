//! Networks of other programs as networks that are trained and measured on data sets.

use super::{Network, Reads};
use crate::{Error, Result};
use nnz_core::{MethodInstance, Plan, Prunable, TargetKind};
use nnz_engine::data::{Dataset, Normalization};
use nnz_engine::file::Header;
use nnz_engine::{Dtype, Model, StoragePolicy, Task};
use nnz_onnx::GraphNet;
use std::str::FromStr;

/// Metadata key of how values become inputs.
const INPUTS: &str = "nnz.inputs";

/// How the values of a data set become inputs of a network whose file does not say it.
#[derive(Clone, Debug, PartialEq)]
pub enum Normalize {
    /// Bytes divided by 255; other numbers as they are.
    Unit,
    /// As they are, bytes too.
    Raw,
    /// Less the mean of the training rows, divided by their deviation: per channel for colour images.
    Data,
    /// As torchvision's networks: bytes by 255, then by the moments of ImageNet's channels.
    ImageNet,
    /// A mean and a deviation after bytes are divided by 255: for all values, or for each of three channels.
    Moments(Vec<[f32; 2]>),
}

impl FromStr for Normalize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "unit" => Self::Unit,
            "raw" => Self::Raw,
            "data" => Self::Data,
            "imagenet" => Self::ImageNet,
            _ => {
                let pair = |p: &str| {
                    let (mean, deviation) = p.split_once(':')?;
                    let pair = [mean, deviation].map(|v| v.trim().parse::<f32>().ok());
                    let [Some(m), Some(d)] = pair else { return None };
                    (m.is_finite() && d.is_finite() && d > 0.0).then_some([m, d])
                };
                let all: Option<Vec<[f32; 2]>> = text.split(',').map(pair).collect();
                match all.filter(|a| [1, 3].contains(&a.len())) {
                    Some(moments) => Self::Moments(moments),
                    None => {
                        return Err(format!(
                            "`{text}`: expected unit, raw, data, imagenet, MEAN:DEVIATION such as 0.1307:0.3081, or three of \
                             these for red, green and blue"
                        ));
                    }
                }
            }
        })
    }
}

impl std::fmt::Display for Normalize {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unit => f.write_str("unit"),
            Self::Raw => f.write_str("raw"),
            Self::Data => f.write_str("data"),
            Self::ImageNet => f.write_str("imagenet"),
            Self::Moments(all) => {
                let all: Vec<String> = all.iter().map(|[m, d]| format!("{m}:{d}")).collect();
                f.write_str(&all.join(","))
            }
        }
    }
}

/// Moments of ImageNet's channels, as torchvision has them.
const IMAGENET: [[f32; 2]; 3] = [[0.485, 0.229], [0.456, 0.224], [0.406, 0.225]];

/// Moments of channels as a normalization.
fn of_channels(moments: &[[f32; 2]], channels: usize) -> Result<Normalization, String> {
    match moments {
        [] => Ok(Normalization::NONE),
        [one] => Ok(Normalization::new(one[0], one[1])),
        all if all.iter().all(|m| *m == all[0]) => Ok(Normalization::new(all[0][0], all[0][1])),
        &[a, b, c] if channels == 3 => Ok(Normalization { channels: Some([a, b, c]), ..Normalization::NONE }),
        all => Err(format!("moments of {} channels for rows of {channels}", all.len())),
    }
}

/// How the values of `data` become inputs: as asked, else as the file says.
fn normalization(network: &Network, data: &Dataset, how: Option<&Normalize>) -> Result<Normalization> {
    let fail = |why: String| Error::file(&network.path, why);
    let channels = data.image[0];
    match how {
        Some(Normalize::Unit) => Ok(Normalization::NONE),
        Some(Normalize::Raw) => Ok(Normalization::TOKENS),
        Some(Normalize::Data) => {
            let rows: Vec<u32> = (0..data.train.len() as u32).collect();
            Ok(data.normalization(&rows).map_err(nnz_engine::Error::from)?)
        }
        Some(Normalize::ImageNet) => of_channels(&IMAGENET, channels).map_err(fail),
        Some(Normalize::Moments(all)) => of_channels(all, channels).map_err(fail),
        None => {
            if let Some(text) = network.graph.metadata.get(INPUTS) {
                let why = |e| fail(format!("`{INPUTS}` in its metadata: {e}"));
                return serde_json::from_str(text).map_err(why);
            }
            match &network.reads {
                Reads::Tokens { .. } => Ok(Normalization::TOKENS),
                Reads::Pictures(p) => {
                    let pairs: Vec<[f32; 2]> = p.mean.iter().zip(&p.deviation).map(|(m, d)| [*m, *d]).collect();
                    of_channels(&pairs, channels).map_err(fail)
                }
                _ => Err(fail(
                    "does not say how values become its inputs; give --normalize unit (bytes by 255), raw, data (by the \
                     moments of the training rows), imagenet, or MEAN:DEVIATION"
                        .into(),
                )),
            }
        }
    }
}

/// A network as one that is trained and measured on a data set, and what a file of it would say.
///
/// # Errors
/// When it does not fit the data, does not say how values become its inputs, or cannot be trained, with the node.
pub fn learner(
    network: &Network,
    data: &Dataset,
    how: Option<&Normalize>,
    policy: &StoragePolicy,
    prunable: &Prunable,
) -> Result<(Model<f32>, Header)> {
    let fail = |why: String| Error::file(&network.path, why);
    network.runs()?;
    let task = if data.real() { Task::Regression } else { Task::Classification };
    let known = &network.classes;
    if !data.real() && !known.is_empty() && known.len() == data.classes.len() && *known != data.classes {
        let same = known.iter().all(|c| data.classes.contains(c));
        if same {
            return Err(fail(format!("has its classes in another order than {}: {}", data.name, known.join(", "))));
        }
    }
    let model = GraphNet::model(&network.graph, data.image, policy, prunable)?;
    let normalization = normalization(network, data, how)?;
    let outputs = task.outputs(data.classes.len(), data.image);
    model.spec.check(outputs).map_err(|why| fail(format!("{}: {why}", data.name)))?;
    let header = Header {
        model: model.spec.clone(),
        normalization,
        classes: data.classes.clone(),
        texts: data.texts,
        data: data.name.clone(),
        method: "made elsewhere".into(),
        prunable: prunable.clone(),
        encoding: data.encoding.clone(),
        task,
        // What it answers is in the units of the targets.
        scales: if data.real() { vec![[0.0, 1.0]; data.classes.len()] } else { Vec::new() },
        dtype: Dtype::Native,
        policy: policy.clone(),
    };
    Ok((model, header))
}

/// Names of a list, the first few.
fn names(all: &[String]) -> String {
    let shown: Vec<String> = all.iter().take(4).map(|n| format!("`{n}`")).collect();
    match all.len() - shown.len() {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// Leaves dense what a method cannot prune in a network of another program, whose layers nobody chose for it: weights that its pattern
/// does not fit, and those whose inputs are not measured where it measures them, in a run of so many steps. Returns notes about them,
/// and about units that cannot be cut where it cuts units. Where nothing would be left, all is, and the method refuses it.
pub fn spare(model: &mut Model<f32>, work: &MethodInstance, steps: u64) -> Vec<String> {
    let Some(net) = GraphNet::of(model) else { return Vec::new() };
    if matches!(work.sparsifier.kind(), TargetKind::Units | TargetKind::Structure) {
        let [c, h, w] = model.spec.input;
        let note = |(why, all): (String, Vec<String>)| format!("units of {} stay: {why}", names(&all));
        return net.held(&[h, w, c]).into_iter().map(note).collect();
    }
    let measures = |plan: Plan| matches!(plan, Plan::Rewire(s) | Plan::Observe(s) if s.gram.is_some());
    let measures = (0..=steps).any(|step| measures(work.sparsifier.plan(step)));
    let shown = net.shown();
    let (mut misfits, mut hidden, mut first) = (Vec::new(), Vec::new(), None);
    for (p, shown) in model.params.iter().zip(shown).filter(|(p, _)| p.weight() && p.prunable) {
        if let Err(nnz_core::Error::Pattern { pattern, why, .. }) = work.sparsifier.check(&[&p.shape]) {
            first.get_or_insert((pattern, why));
            misfits.push(p.shape.name.clone());
        } else if measures && !shown {
            hidden.push(p.shape.name.clone());
        }
    }
    let gone = |p: &nnz_engine::Param<f32>| [&misfits, &hidden].iter().any(|all| all.contains(&p.shape.name));
    if !model.params.iter().any(|p| p.weight() && p.prunable && !gone(p)) {
        return Vec::new();
    }
    model.params.iter_mut().filter(|p| gone(p)).for_each(|p| p.prunable = false);
    let mut notes = Vec::new();
    if let Some((pattern, why)) = first {
        let stay = if misfits.len() == 1 { "stays dense, which" } else { "stay dense, which" };
        notes.push(format!("{} {stay} pattern {pattern} does not fit: {why}", names(&misfits)));
    }
    if !hidden.is_empty() {
        let stay = if hidden.len() == 1 { "stays" } else { "stay" };
        notes.push(format!(
            "{} {stay} dense: only what products and convolutions without groups read is measured",
            names(&hidden)
        ));
    }
    notes
}

/// Puts the weights of a model back into the network that it came from, and says there how values become inputs.
///
/// # Errors
/// When the model is of another network, or a weight does not fit its number type.
pub fn put_back(network: &mut Network, model: &Model<f32>, header: &Header) -> Result<()> {
    let Some(net) = GraphNet::of(model) else {
        return Err(Error::file(&network.path, "these are weights of another network"));
    };
    net.write_into(&mut network.graph, model)?;
    say(network, header);
    Ok(())
}

/// The network of a model that is a graph, which nnz trained and whose file is at a path.
pub(super) fn graph_of(model: &Model<f32>, header: &Header, path: &std::path::Path) -> Result<Option<Network>> {
    let Some(net) = GraphNet::of(model) else { return Ok(None) };
    let mut network = Network {
        path: path.into(),
        graph: net.graph(model)?,
        family: "ONNX".into(),
        reads: Reads::Anything,
        classes: Vec::new(),
        notes: Vec::new(),
        archive: None,
    };
    say(&mut network, header);
    Ok(Some(network))
}

fn say(network: &mut Network, header: &Header) {
    if network.archive.is_none() {
        let text = serde_json::to_string(&header.normalization).unwrap_or_default();
        network.graph.metadata.insert(INPUTS.into(), text);
        if network.classes.is_empty() && header.task == Task::Classification {
            network.classes = header.classes.clone();
        }
    }
}
