//! Residual networks (He et al. 2016) as torchvision names them: basic blocks and bottlenecks, of any width and depth.

use super::*;

pub(super) fn build(archive: &Archive) -> Result<Built> {
    let mut net = Net::new(archive, "resnet");
    let first = net.shape("conv1.weight")?;
    let &[_, channels, 7, 7] = first.as_slice() else {
        return Err(net.fail(format!(
            "`conv1.weight` is {first:?}; ResNets that begin with 7x7 at stride 2 are built, others can come as ONNX"
        )));
    };
    let size = 224;
    let x = net.input("pixel_values", DType::F32, &[None, Some(channels), None, None]);
    let (x, n) = net.conv(&x, "conv1", Step { stride: 2, ..Step::ONE })?;
    let x = net.batch_norm(&x, "bn1", n, 1e-5)?;
    let x = net.node("Relu", &[&x], &[]);
    let mut x = net.max_pool(&x, 3, 2, 1);
    let mut depth = 2;
    for stage in 1..=4 {
        let mut block = 0;
        while net.has(&format!("layer{stage}.{block}.conv1.weight")) {
            let name = |part: &str| format!("layer{stage}.{block}.{part}");
            let stride = if stage > 1 && block == 0 { 2 } else { 1 };
            let bottleneck = net.has(&name("conv3.weight"));
            // Bottlenecks have their stride in the 3x3 convolution.
            let strides = if bottleneck { [1, stride, 1] } else { [stride, 1, 0] };
            let last = if bottleneck { 3 } else { 2 };
            let mut y = x.clone();
            for i in 1..=last {
                let (z, n) = net.conv(&y, &name(&format!("conv{i}")), Step { stride: strides[i - 1], ..Step::ONE })?;
                y = net.batch_norm(&z, &name(&format!("bn{i}")), n, 1e-5)?;
                if i < last {
                    y = net.node("Relu", &[&y], &[]);
                }
            }
            if net.has(&name("downsample.0.weight")) {
                let (z, n) = net.conv(&x, &name("downsample.0"), Step { stride, ..Step::ONE })?;
                x = net.batch_norm(&z, &name("downsample.1"), n, 1e-5)?;
            }
            let y = net.node("Add", &[&y, &x], &[]);
            x = net.node("Relu", &[&y], &[]);
            (block, depth) = (block + 1, depth + last);
        }
    }
    let x = net.pooled(&x);
    net.head(&x, "fc")?;
    net.graph.name = format!("resnet{depth}");
    let mut pictures = Pictures::image_net(size);
    if channels != 3 {
        pictures = Pictures::even(channels, size, 0.0, 1.0);
    }
    Ok(Built {
        graph: net.graph,
        family: "ResNet",
        reads: Reads::Pictures(pictures),
        classes: Vec::new(),
        notes: Vec::new(),
    })
}
