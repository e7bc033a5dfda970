//! Networks by name.

use crate::layers::{
    Activation, Attention, BatchNorm, Conv2d, Embedding, Flatten, Function, GlobalAvgPool, Init, Last, LayerNorm,
    LayerSpec, Linear, MaxPool, Positions, Relu, Residual, Sample, Tokens,
};
use nnz_core::{LayerRole, closest};

/// The names that [`crate::ModelSpec::parse`] knows.
pub const KNOWN: &str = "mlp:IN-HIDDEN-..-OUT, lenet5, vgg-small, resnet8, resnet20, resnet32 (or resnet20:WIDTH), mobilenet-small, \
                         transformer:WIDTH-DEPTH-HEADS-PATCH, causal-transformer:VOCABULARY-WIDTH-DEPTH-HEADS, \
                         autoencoder:IN-HIDDEN-..-CODE and vae:IN-HIDDEN-..-CODE";

/// Most blocks a name may ask for.
const DEEPEST: usize = 1000;

pub(super) fn layers(text: &str, input: [usize; 3], classes: usize) -> Result<Vec<LayerSpec>, String> {
    let (name, sizes) = text.split_once(':').map_or((text, None), |(n, s)| (n, Some(s)));
    let numbers = |what: &str| -> Result<Vec<usize>, String> {
        let parse = |w: &str| w.parse().ok().filter(|&w: &usize| w > 0 && w < 1 << 32);
        sizes.and_then(|s| s.split('-').map(parse).collect()).ok_or_else(|| format!("expected {what}"))
    };
    match (name, sizes) {
        ("mlp", Some(_)) => {
            let what = "layer widths joined by `-`, such as mlp:784-300-100-10";
            let widths = numbers(what)?;
            if widths.len() < 2 { Err(format!("expected {what}")) } else { Ok(mlp(&widths)) }
        }
        ("autoencoder" | "vae", Some(_)) => {
            let what = format!("widths down to the code joined by `-`, such as {name}:784-256-32");
            let widths = numbers(&what)?;
            if widths.len() < 2 { Err(format!("expected {what}")) } else { Ok(autoencoder(&widths, name == "vae")) }
        }
        ("lenet5", None) => lenet5(input, classes),
        ("vgg-small", None) => Ok(vgg(input[0], classes)),
        ("resnet8" | "resnet20" | "resnet32", _) => {
            let blocks = if name == "resnet8" {
                1
            } else if name == "resnet20" {
                3
            } else {
                5
            };
            let what = format!("the width of the first stage alone, such as {name}:8");
            match sizes.map_or(Ok(vec![16]), |_| numbers(&what))?[..] {
                [width] => Ok(resnet(blocks, width, input[0], classes)),
                _ => Err(format!("expected {what}")),
            }
        }
        ("mobilenet-small", None) => Ok(mobilenet(input[0], classes)),
        ("transformer", Some(_)) => {
            let what = "width, depth, heads and patch size, such as transformer:64-2-4-7";
            match numbers(what)?[..] {
                [width, depth, heads, patch] if depth <= DEEPEST => {
                    picture_transformer(input, classes, width, depth, heads, patch)
                }
                _ => Err(format!("expected {what}, with at most {DEEPEST} blocks")),
            }
        }
        ("causal-transformer", Some(_)) => {
            let what = "vocabulary, width, depth and heads, such as causal-transformer:256-64-2-4";
            match numbers(what)?[..] {
                [vocabulary, width, depth, heads] => {
                    causal_transformer(input, classes, vocabulary, width, depth, heads)
                }
                _ => Err(format!("expected {what}, with at most {DEEPEST} blocks")),
            }
        }
        _ => {
            let names = KNOWN
                .split_whitespace()
                .filter_map(|w| w.split([':', ',']).next())
                .filter(|&w| !["and", "(or"].contains(&w));
            Err(format!("there is none of this name{}; known models are {KNOWN}", closest(name, names)))
        }
    }
}

fn mlp(widths: &[usize]) -> Vec<LayerSpec> {
    let mut layers = vec![Flatten {}.into()];
    for (i, w) in widths.windows(2).enumerate() {
        layers.extend((i > 0).then(|| Relu {}.into()));
        layers.push(Linear::new(&format!("fc{}", i + 1), w[0], w[1]).into());
    }
    layers
}

/// Layers down to a code and back up through the same widths; only the code's own matrices touch the code. With
/// `variational` the code is drawn (Kingma & Welling 2013, arXiv:1312.6114). Its divergence weighs 2 / inputs: with the
/// mean of squared errors over the inputs as loss, that is 2 / inputs times the negative evidence bound of normal inputs
/// of variance 1.
fn autoencoder(widths: &[usize], variational: bool) -> Vec<LayerSpec> {
    let mut layers = vec![Flatten {}.into()];
    let code = widths.len() - 1;
    // He's initialization is for inputs from a ReLU. The output starts near the mean of the data, since initial noise
    // on every input takes long to unlearn.
    let stack = |layers: &mut Vec<LayerSpec>, part: &str, widths: &[usize], last: Init| {
        for (i, w) in widths.windows(2).enumerate() {
            layers.extend((i > 0).then(|| Relu {}.into()));
            let init = match i {
                i if i + 2 == widths.len() => last,
                0 => Init::Lecun,
                _ => Init::He,
            };
            layers.push(Linear { init, ..Linear::new(&format!("{part}{}", i + 1), w[0], w[1]) }.into());
        }
    };
    let mut down = widths.to_vec();
    if variational {
        down[code] *= 2;
    }
    stack(&mut layers, "encoder", &down, Init::Lecun);
    layers.extend(variational.then(|| Sample { weight: 2.0 / widths[0] as f64 }.into()));
    stack(&mut layers, "decoder", &widths.iter().rev().copied().collect::<Vec<_>>(), Init::Small);
    layers
}

fn pool() -> LayerSpec {
    MaxPool { size: 2, stride: None, padding: 0 }.into()
}

/// LeNet-5-Caffe: 20 and 50 filters of 5x5, 500 units.
fn lenet5([channels, height, width]: [usize; 3], classes: usize) -> Result<Vec<LayerSpec>, String> {
    let side = |n: usize| ((n.checked_sub(4)? / 2).checked_sub(4)? / 2).checked_sub(1).map(|n| n + 1);
    let (Some(h), Some(w)) = (side(height), side(width)) else {
        return Err(format!("pictures of {height}x{width} are too small for two 5x5 convolutions with pooling"));
    };
    Ok(vec![
        Conv2d::new("conv1", channels, 20, 5, 0).into(),
        Relu {}.into(),
        pool(),
        Conv2d::new("conv2", 20, 50, 5, 0).into(),
        Relu {}.into(),
        pool(),
        Flatten {}.into(),
        Linear::new("fc1", h * w * 50, 500).into(),
        Relu {}.into(),
        Linear::new("fc2", 500, classes).into(),
    ])
}

/// A convolution without bias and its batch normalization.
fn conv_norm(name: &str, inputs: usize, outputs: usize, kernel: usize, stride: usize, groups: usize) -> Vec<LayerSpec> {
    let conv = Conv2d { stride, groups, bias: false, ..Conv2d::new(name, inputs, outputs, kernel, kernel / 2) };
    vec![conv.into(), BatchNorm::new(&format!("{name}.norm"), outputs).into()]
}

/// Three pairs of 3x3 convolutions with 32, 64 and 128 filters, batch-normalized, in the manner of Simonyan & Zisserman
/// 2014 (arXiv:1409.1556).
fn vgg(mut channels: usize, classes: usize) -> Vec<LayerSpec> {
    let mut layers = Vec::new();
    for (i, width) in [32, 64, 128].into_iter().enumerate() {
        for j in 0..2 {
            layers.extend(conv_norm(&format!("conv{}", 2 * i + j + 1), channels, width, 3, 1, 1));
            layers.push(Relu {}.into());
            channels = width;
        }
        layers.extend((i < 2).then(pool));
    }
    layers.extend([GlobalAvgPool {}.into(), Linear::new("fc", channels, classes).into()]);
    layers
}

/// The residual networks for small images of He et al. 2015 (arXiv:1512.03385, section 4.2), 6 · `blocks` + 2 layers and `first`
/// channels in the first stage;
/// shortcuts that change shape are projections (option B).
fn resnet(blocks: usize, first: usize, channels: usize, classes: usize) -> Vec<LayerSpec> {
    let mut layers = conv_norm("conv1", channels, first, 3, 1, 1);
    layers.push(Relu {}.into());
    let mut before = first;
    for (stage, width) in [1, 2, 4].map(|n: usize| first.saturating_mul(n)).into_iter().enumerate() {
        for block in 0..blocks {
            let name = format!("stage{}.{block}", stage + 1);
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            let mut body = conv_norm(&format!("{name}.conv1"), before, width, 3, stride, 1);
            body.push(Relu {}.into());
            body.extend(conv_norm(&format!("{name}.conv2"), width, width, 3, 1, 1));
            let same = before == width && stride == 1;
            let shortcut =
                if same { Vec::new() } else { conv_norm(&format!("{name}.shortcut"), before, width, 1, stride, 1) };
            layers.extend([Residual { name, body, shortcut }.into(), Relu {}.into()]);
            before = width;
        }
    }
    layers.extend([GlobalAvgPool {}.into(), Linear::new("fc", before, classes).into()]);
    layers
}

/// Alternating depthwise and pointwise convolutions (Howard et al. 2017, arXiv:1704.04861), for small images.
fn mobilenet(channels: usize, classes: usize) -> Vec<LayerSpec> {
    let relu6 = || Activation { function: Function::Relu6 }.into();
    let mut layers = conv_norm("conv1", channels, 16, 3, 1, 1);
    layers.push(relu6());
    let mut before = 16;
    for (i, (width, stride)) in [(32, 1), (64, 2), (64, 1), (128, 2), (128, 1)].into_iter().enumerate() {
        layers.extend(conv_norm(&format!("block{}.depthwise", i + 1), before, before, 3, stride, before));
        layers.push(relu6());
        layers.extend(conv_norm(&format!("block{}.pointwise", i + 1), before, width, 1, 1, 1));
        layers.push(relu6());
        before = width;
    }
    layers.extend([GlobalAvgPool {}.into(), Linear::new("fc", before, classes).into()]);
    layers
}

/// A transformer block with normalization before each part and four times as many hidden units.
fn block(name: &str, width: usize, heads: usize, causal: bool) -> [LayerSpec; 2] {
    let norm = |part: &str| LayerNorm { name: format!("{name}.{part}"), width }.into();
    let hidden = width.saturating_mul(4);
    let linear = |role: LayerRole, inputs, outputs| {
        Linear { init: Init::Lecun, role, ..Linear::new(&format!("{name}.{role}"), inputs, outputs) }.into()
    };
    let attention = Attention { name: format!("{name}.attention"), width, heads, groups: None, causal, rotary: causal };
    let mixing = vec![norm("norm1"), attention.into()];
    let gelu = Activation { function: Function::Gelu }.into();
    let thinking =
        vec![norm("norm2"), linear(LayerRole::Up, width, hidden), gelu, linear(LayerRole::Down, hidden, width)];
    [("mix", mixing), ("think", thinking)]
        .map(|(part, body)| Residual { name: format!("{name}.{part}"), body, shortcut: Vec::new() }.into())
}

/// Images cut into square patches with learned positions, then blocks without mask and the mean over positions
/// (Dosovitskiy et al. 2020, arXiv:2010.11929, without their class token).
fn picture_transformer(
    [channels, h, w]: [usize; 3],
    classes: usize,
    width: usize,
    depth: usize,
    heads: usize,
    patch: usize,
) -> Result<Vec<LayerSpec>, String> {
    if patch > h || patch > w {
        return Err(format!("a patch of {patch}x{patch} does not fit into pictures of {h}x{w}"));
    }
    let cut = Conv2d { stride: patch, init: Init::Lecun, ..Conv2d::new("patch", channels, width, patch, 0) };
    let positions = Positions { name: "positions".into(), length: (h / patch) * (w / patch), width };
    let mut layers = vec![cut.into(), Tokens {}.into(), positions.into()];
    (0..depth).for_each(|i| layers.extend(block(&format!("block{}", i + 1), width, heads, false)));
    layers.push(LayerNorm { name: "norm".into(), width }.into());
    layers.extend([GlobalAvgPool {}.into(), Linear::new("head", width, classes).into()]);
    Ok(layers)
}

/// Tokens `[1, 1, length]` with rotary positions, then causal blocks; the last position predicts the next token.
/// Without the `last` layer every position makes a prediction.
fn causal_transformer(
    [channels, h, length]: [usize; 3],
    classes: usize,
    vocabulary: usize,
    width: usize,
    depth: usize,
    heads: usize,
) -> Result<Vec<LayerSpec>, String> {
    if channels != 1 || h != 1 {
        return Err(format!("tokens come as [1, 1, length], not as [{channels}, {h}, {length}]"));
    }
    let mut layers = vec![Flatten {}.into(), Embedding { name: "embedding".into(), vocabulary, width }.into()];
    (0..depth).for_each(|i| layers.extend(block(&format!("block{}", i + 1), width, heads, true)));
    layers.push(LayerNorm { name: "norm".into(), width }.into());
    layers.extend([Last {}.into(), Linear::new("head", width, classes).into()]);
    Ok(layers)
}
