//! MobileNetV2 (Sandler et al. 2018) as torchvision names it, and EfficientNet-Lite, which is EfficientNet (Tan and Le 2019)
//! without squeezing and with ReLU6. Both are inverted residuals; strides are the papers', since no tensor shows them.

use super::*;

/// Blocks of MobileNetV2 that halve the image, counted from one.
const HALVES: [usize; 4] = [2, 4, 7, 14];
/// The same for EfficientNet-Lite0, counted from zero.
const LITE_HALVES: [usize; 4] = [1, 3, 5, 11];

pub(super) fn build_v2(archive: &Archive) -> Result<Built> {
    let mut net = Net::new(archive, "mobilenet_v2");
    if net.has("features.19.0.weight") || !net.has("features.17.conv.3.weight") {
        return Err(net.fail("a MobileNetV2 of another depth than the paper's, whose strides are not known".into()));
    }
    let epsilon = 1e-5;
    let x = net.input("pixel_values", DType::F32, &[None, Some(3), None, None]);
    let (x, mut channels) = net.conv(&x, "features.0.0", Step { stride: 2, ..Step::ONE })?;
    let x = net.batch_norm(&x, "features.0.1", channels, epsilon)?;
    let mut x = net.relu6(&x);
    for block in 1..=17 {
        let stride = if HALVES.contains(&block) { 2 } else { 1 };
        let name = |part: &str| format!("features.{block}.conv.{part}");
        // The first block does not widen.
        let widens = net.has(&name("2.weight")) && net.has(&name("3.weight"));
        let (mut y, mut n) = (x.clone(), channels);
        if widens {
            (y, n) = net.conv(&y, &name("0.0"), Step::ONE)?;
            y = net.batch_norm(&y, &name("0.1"), n, epsilon)?;
            y = net.relu6(&y);
        }
        let (deep, out) = if widens { ("1", ["2", "3"]) } else { ("0", ["1", "2"]) };
        (y, n) = net.conv(&y, &name(&format!("{deep}.0")), Step { stride, groups: n, ..Step::ONE })?;
        y = net.batch_norm(&y, &name(&format!("{deep}.1")), n, epsilon)?;
        y = net.relu6(&y);
        (y, n) = net.conv(&y, &name(out[0]), Step::ONE)?;
        y = net.batch_norm(&y, &name(out[1]), n, epsilon)?;
        x = if stride == 1 && n == channels { net.node("Add", &[&x, &y], &[]) } else { y };
        channels = n;
    }
    let (x, n) = net.conv(&x, "features.18.0", Step::ONE)?;
    let x = net.batch_norm(&x, "features.18.1", n, epsilon)?;
    let x = net.relu6(&x);
    let x = net.pooled(&x);
    net.head(&x, "classifier.1")?;
    Ok(Built {
        graph: net.graph,
        family: "MobileNetV2",
        reads: Reads::Pictures(Pictures::image_net(224)),
        classes: Vec::new(),
        notes: Vec::new(),
    })
}

pub(super) fn build_lite(archive: &Archive) -> Result<Built> {
    let mut net = Net::new(archive, "efficientnet_lite0");
    if net.has("_blocks.16._bn1.weight") || !net.has("_blocks.15._bn1.weight") || net.has("_blocks.0._se_reduce.weight")
    {
        return Err(net.fail(
            "an EfficientNet that is not Lite0: another depth, whose strides are not known, or squeezing; it can come as ONNX"
                .into(),
        ));
    }
    let epsilon = 1e-3;
    let same = Step { same: true, ..Step::ONE };
    let x = net.input("pixel_values", DType::F32, &[None, Some(3), None, None]);
    let (x, mut channels) = net.conv(&x, "_conv_stem", Step { stride: 2, ..same })?;
    let x = net.batch_norm(&x, "_bn0", channels, epsilon)?;
    let mut x = net.relu6(&x);
    for block in 0..16 {
        let stride = if LITE_HALVES.contains(&block) { 2 } else { 1 };
        let name = |part: &str| format!("_blocks.{block}.{part}");
        let (mut y, mut n) = (x.clone(), channels);
        if net.has(&name("_expand_conv.weight")) {
            (y, n) = net.conv(&y, &name("_expand_conv"), same)?;
            y = net.batch_norm(&y, &name("_bn0"), n, epsilon)?;
            y = net.relu6(&y);
        }
        (y, n) = net.conv(&y, &name("_depthwise_conv"), Step { stride, groups: n, ..same })?;
        y = net.batch_norm(&y, &name("_bn1"), n, epsilon)?;
        y = net.relu6(&y);
        (y, n) = net.conv(&y, &name("_project_conv"), same)?;
        y = net.batch_norm(&y, &name("_bn2"), n, epsilon)?;
        x = if stride == 1 && n == channels { net.node("Add", &[&x, &y], &[]) } else { y };
        channels = n;
    }
    let (x, n) = net.conv(&x, "_conv_head", same)?;
    let x = net.batch_norm(&x, "_bn1", n, epsilon)?;
    let x = net.relu6(&x);
    let x = net.pooled(&x);
    net.head(&x, "_fc")?;
    Ok(Built {
        graph: net.graph,
        family: "EfficientNet-Lite0",
        reads: Reads::Pictures(Pictures::image_net(224)),
        classes: Vec::new(),
        notes: Vec::new(),
    })
}
