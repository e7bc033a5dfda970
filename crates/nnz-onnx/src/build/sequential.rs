//! Plain convolutional networks, `features.*` and `classifier.*` of torch's `Sequential`: tensors show convolutions, norms and
//! matrices, and gaps in their numbering show layers without tensors. Those are assumed to be ReLU, and a
//! maximum over 2x2 where one more is missing; the first matrix must fit the features, and a note says what was assumed.

use super::*;

/// The layers with tensors below a prefix, in order: their positions, and their number in the last list.
fn numbered(archive: &Archive, prefix: &str) -> Vec<(Vec<usize>, String)> {
    let mut found: Vec<(Vec<usize>, String)> = Vec::new();
    for (name, _) in archive.tensors() {
        let Some(place) = name.strip_prefix(prefix).and_then(|n| n.strip_suffix(".weight")) else { continue };
        let Some(numbers) = place.split('.').map(|p| p.parse().ok()).collect::<Option<Vec<usize>>>() else { continue };
        found.push((numbers, format!("{prefix}{place}")));
    }
    found.sort();
    found
}

pub(super) fn fits(archive: &Archive) -> bool {
    let (features, classifier) = (numbered(archive, "features."), numbered(archive, "classifier."));
    let shape = |name: &str| archive.get(&format!("{name}.weight")).map_or(0, |e| e.shape.len());
    let all = features.len() + classifier.len();
    let others = archive.tensors().filter(|(n, _)| n.ends_with(".weight")).count();
    let one_rank = |list: &[(Vec<usize>, String)]| list.iter().all(|(n, _)| n.len() == list[0].0.len());
    all == others
        && !features.is_empty()
        && !classifier.is_empty()
        && one_rank(&features)
        && features[0].0.len() <= 2
        && classifier[0].0.len() == 1
        && features.iter().all(|(_, n)| matches!(shape(n), 1 | 4))
        && shape(&features[0].1) == 4
        && classifier.iter().all(|(_, n)| shape(n) == 2)
}

/// AlexNet (Krizhevsky 2014, arXiv:1404.5997) as in torchvision, whose strides and overlapping maxima no tensor shows.
fn alexnet(archive: &Archive) -> Result<Built> {
    let mut net = Net::new(archive, "alexnet");
    let mut x = net.input("pixel_values", DType::F32, &[None, Some(3), Some(224), Some(224)]);
    for (layer, stride, pad, maximum) in
        [(0, 4, 2, true), (3, 1, 2, true), (6, 1, 1, false), (8, 1, 1, false), (10, 1, 1, true)]
    {
        let (weight, bias) = (format!("features.{layer}.weight"), format!("features.{layer}.bias"));
        let shape = net.shape(&weight)?;
        let inputs = [x, net.weight(&weight, &shape)?, net.weight(&bias, &shape[..1])?];
        let attributes =
            [("kernel_shape", ints(&shape[2..])), ("strides", ints(&[stride; 2])), ("pads", ints(&[pad; 4]))];
        x = net.node("Conv", &inputs.each_ref().map(String::as_str), &attributes);
        net.call(&format!("features.{layer}"));
        x = net.node("Relu", &[&x], &[]);
        if maximum {
            x = net.max_pool(&x, 3, 2, 0);
        }
    }
    x = net.node("Flatten", &[&x], &[("axis", int(1))]);
    for layer in ["classifier.1", "classifier.4"] {
        let shape = net.shape(&format!("{layer}.weight"))?;
        x = net.linear(&x, layer, shape[0], shape[1])?;
        x = net.node("Relu", &[&x], &[]);
    }
    net.head(&x, "classifier.6")?;
    let reads = Reads::Pictures(Pictures::image_net(224));
    Ok(Built { graph: net.graph, family: "AlexNet", reads, classes: Vec::new(), notes: Vec::new() })
}

/// The family of a plain network that needs no guess, since torchvision has it.
const VGG: &str = "VGG";
/// The family of one whose layers without tensors are a guess.
pub(super) const GUESSED: &str = "plain convolutional network";

pub(super) fn build(archive: &Archive) -> Result<Built> {
    let is = |name: &str, shape: &[usize]| archive.get(name).is_some_and(|e| e.shape == shape);
    if is("features.0.weight", &[64, 3, 11, 11]) && is("classifier.1.weight", &[4096, 256 * 36]) {
        return alexnet(archive);
    }
    // Simonyan and Zisserman 2014: the layers between its tensors are those that this reader assumes anyway.
    let vgg = is("features.0.weight", &[64, 3, 3, 3])
        && is("classifier.0.weight", &[4096, 512 * 49])
        && is("classifier.3.weight", &[4096, 4096])
        && archive.get("classifier.6.weight").is_some();
    let mut net = Net::new(archive, "sequential");
    let (features, classifier) = (numbered(archive, "features."), numbered(archive, "classifier."));
    let shape = net.shape(&format!("{}.weight", features[0].1))?;
    let mut channels = shape[1];
    let mut x = net.input("x", DType::F32, &[None, Some(channels), None, None]);
    let mut pools = 0;
    for (i, (place, name)) in features.iter().enumerate() {
        let shape = net.shape(&format!("{name}.weight"))?;
        let norm = net.has(&format!("{name}.running_mean"));
        match (shape.as_slice(), norm) {
            // Larger kernels come with strides, which no tensor shows.
            ([_, inputs, h, w], false) if *inputs == channels && h == w && [1, 3, 5].contains(h) => {
                (x, channels) = net.conv(&x, name, Step::ONE)?;
            }
            ([n], true) if *n == channels => x = net.batch_norm(&x, name, channels, 1e-5)?,
            _ => {
                return Err(
                    net.fail(format!("`{name}` is {shape:?} after {channels} channels, which is no plain network"))
                );
            }
        }
        // Layers between this one and the next.
        let at = *place.last().unwrap_or(&0);
        let missing = match features.get(i + 1) {
            Some((next, _)) if next[..next.len() - 1] == place[..place.len() - 1] => next[next.len() - 1] - at - 1,
            // The end of a list: an activation and a maximum.
            _ => 2,
        };
        match missing {
            0 => {}
            1 => x = net.node("Relu", &[&x], &[]),
            2 => {
                x = net.node("Relu", &[&x], &[]);
                x = net.max_pool(&x, 2, 2, 0);
                pools += 1;
            }
            n => {
                return Err(net.fail(format!("{n} layers without tensors after `{name}`: their kinds cannot be known")));
            }
        }
    }
    let first = net.shape(&format!("{}.weight", classifier[0].1))?;
    // A square image, halved as often as there are maxima.
    let side = (first[1] as f64 / channels as f64).sqrt().round() as usize;
    if side == 0 || side * side * channels != first[1] || pools > 12 {
        return Err(net.fail(format!(
            "`{}.weight` reads {} numbers, which are no square of {channels} channels",
            classifier[0].1, first[1]
        )));
    }
    let size = side << pools;
    net.graph.inputs[0].shape =
        Some(vec![None, net.graph.inputs[0].shape.as_ref().and_then(|s| s[1]), Some(size), Some(size)]);
    x = net.node("Flatten", &[&x], &[("axis", int(1))]);
    let mut inputs = first[1];
    for (i, (_, name)) in classifier.iter().enumerate() {
        let shape = net.shape(&format!("{name}.weight"))?;
        if shape[1] != inputs {
            return Err(net.fail(format!("`{name}.weight` is {shape:?}, but {inputs} numbers come in")));
        }
        if i + 1 == classifier.len() {
            net.head(&x, name)?;
        } else {
            x = net.linear(&x, name, shape[0], shape[1])?;
            x = net.node("Relu", &[&x], &[]);
        }
        inputs = shape[0];
    }
    let channels = shape[1];
    let pictures = Pictures::even(channels, size, 0.5, 0.5);
    if vgg && size == 224 {
        let reads = Reads::Pictures(Pictures::image_net(size));
        return Ok(Built { graph: net.graph, family: VGG, reads, classes: Vec::new(), notes: Vec::new() });
    }
    let notes = vec![format!(
        "read as a plain network: ReLU and {pools} maxima over 2x2 where the names leave room; pictures of {channels}x{size}x{size} \
         from -1 to 1"
    )];
    Ok(Built { graph: net.graph, family: GUESSED, reads: Reads::Pictures(pictures), classes: Vec::new(), notes })
}
