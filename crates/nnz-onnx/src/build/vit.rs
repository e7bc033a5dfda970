//! Vision transformers (Dosovitskiy et al. 2021) as Hugging Face names them.

use super::*;

pub(super) fn build(archive: &Archive) -> Result<Built> {
    let c = config(archive);
    let (width, heads) = c.width()?;
    let (layers, hidden) = (c.size("num_hidden_layers")?, c.size("intermediate_size")?);
    let (size, patch, channels) = (c.size("image_size")?, c.size("patch_size")?, c.size_or("num_channels", 3)?);
    let (epsilon, act) = (c.epsilon(1e-12), c.text("hidden_act", "gelu"));
    if size > 1 << 12 || patch > size {
        return Err(c.fail(format!("patches of {patch} on pictures of {size}")));
    }
    let mut net = Net::new(archive, "vit");
    let prefix = if net.has("vit.embeddings.cls_token") { "vit." } else { "" };
    let x = net.input("pixel_values", DType::F32, &[None, Some(channels), Some(size), Some(size)]);
    let side = size / patch;
    let x = patches(&mut net, &x, &format!("{prefix}embeddings.patch_embeddings.projection"), patch)?;
    let first = net.weight(&format!("{prefix}embeddings.cls_token"), &[1, 1, width])?;
    let x = preceded(&mut net, &x, &first, width);
    let places = net.weight(&format!("{prefix}embeddings.position_embeddings"), &[1, side * side + 1, width])?;
    let mut x = net.node("Add", &[&x, &places], &[]);
    for layer in 0..layers {
        let name = |part: &str| format!("{prefix}encoder.layer.{layer}.{part}");
        let y = net.layer_norm(&x, &name("layernorm_before"), width, epsilon)?;
        let q = net.linear(&y, &name("attention.attention.query"), width, width)?;
        let k = net.linear(&y, &name("attention.attention.key"), width, width)?;
        let v = net.linear(&y, &name("attention.attention.value"), width, width)?;
        let y = net.attention([&q, &k, &v], heads, width, None);
        let y = net.linear(&y, &name("attention.output.dense"), width, width)?;
        x = net.node("Add", &[&y, &x], &[]);
        let y = net.layer_norm(&x, &name("layernorm_after"), width, epsilon)?;
        let y = net.linear(&y, &name("intermediate.dense"), hidden, width)?;
        let y = net.activation(&y, act)?;
        let y = net.linear(&y, &name("output.dense"), width, hidden)?;
        x = net.node("Add", &[&y, &x], &[]);
    }
    let x = net.layer_norm(&x, &format!("{prefix}layernorm"), width, epsilon)?;
    if net.has("classifier.weight") {
        let zero = net.constant("place", Constant::ints(&[], vec![0]));
        let x = net.node("Gather", &[&x, &zero], &[("axis", int(1))]);
        net.head(&x, "classifier")?;
    } else {
        net.output(&x, "last_hidden_state", &[None, Some(side * side + 1), Some(width)]);
    }
    let pictures = Pictures::even(channels, size, 0.5, 0.5).prepared(archive)?;
    let (classes, notes) = (c.classes(), Vec::new());
    Ok(Built { graph: net.graph, family: "ViT", reads: Reads::Pictures(pictures), classes, notes })
}

/// Embeds the patches of an image, `[batch, patches, width]`.
pub(super) fn patches(net: &mut Net, x: &str, prefix: &str, patch: usize) -> Result<String> {
    let shape = net.shape(&format!("{prefix}.weight"))?;
    if shape.len() != 4 || shape[2..] != [patch, patch] {
        return Err(net.fail(format!("`{prefix}.weight` is {shape:?}, but patches have {patch} pixels a side")));
    }
    let (x, width) = net.conv(x, prefix, super::Step { stride: patch, padded: false, ..super::Step::ONE })?;
    let flat = net.list(&[0, width as i64, -1]);
    let x = net.node("Reshape", &[&x, &flat], &[]);
    Ok(net.node("Transpose", &[&x], &[("perm", ints(&[0, 2, 1]))]))
}

/// Prepends a vector `[1, 1, width]` to those of every image.
pub(super) fn preceded(net: &mut Net, x: &str, first: &str, width: usize) -> String {
    let batch = net.node("Shape", &[x], &[("start", int(0)), ("end", int(1))]);
    let rest = net.list(&[1, width as i64]);
    let shape = net.node("Concat", &[&batch, &rest], &[("axis", int(0))]);
    let first = net.node("Expand", &[first, &shape], &[]);
    net.node("Concat", &[&first, x], &[("axis", int(1))])
}
