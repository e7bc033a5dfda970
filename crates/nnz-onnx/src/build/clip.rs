//! CLIP (Radford et al. 2021): a tower for texts and one for images, compared by the angle between their vectors.

use super::vit::{patches, preceded};
use super::*;

/// Sizes of a tower, which a configuration may omit if they are those of the first models.
const KEYS: [&str; 4] = ["hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"];
const TEXT: [usize; 4] = [512, 12, 8, 2048];
const VISION: [usize; 4] = [768, 12, 12, 3072];

pub(super) fn build(archive: &Archive) -> Result<Built> {
    let whole = config(archive);
    let [text, vision] = [("text_config", TEXT), ("vision_config", VISION)].map(|(key, sizes)| {
        let mut json: serde_json::Map<_, _> = KEYS.iter().zip(sizes).map(|(k, n)| ((*k).into(), n.into())).collect();
        json.extend(whole.json[key].as_object().cloned().unwrap_or_default());
        serde_json::Value::Object(json)
    });
    let [text, vision] = [&text, &vision].map(|json| Config { archive, json });
    let common = whole.size_or("projection_dim", 512)?;
    let mut net = Net::new(archive, "clip");

    let (vocabulary, context) = (text.size_or("vocab_size", 49408)?, text.size_or("max_position_embeddings", 77)?);
    let (width, _) = text.width()?;
    let ids = net.input("input_ids", DType::I64, &[None, None]);
    let mask = net.input("attention_mask", DType::I64, &[None, None]);
    let words = net.weight("text_model.embeddings.token_embedding.weight", &[vocabulary, width])?;
    let places = net.weight("text_model.embeddings.position_embedding.weight", &[context, width])?;
    let x = net.node("Gather", &[&words, &ids], &[("axis", int(0))]);
    let (from, length) = (net.list(&[0]), net.node("Shape", &[&ids], &[("start", int(1)), ("end", int(2))]));
    let p = net.node("Slice", &[&places, &from, &length], &[]);
    let x = net.node("Add", &[&x, &p], &[]);
    // A position attends to itself and those before it.
    let square = net.node("Concat", &[&length, &length], &[("axis", int(0))]);
    let far = Attribute::Tensor(Constant::floats(&[1], vec![-1e9]));
    let later = net.node("ConstantOfShape", &[&square], &[("value", far)]);
    let next = net.constant("place", Constant::ints(&[], vec![1]));
    let later = net.node("Trilu", &[&later, &next], &[("upper", int(1))]);
    let hidden = net.hidden(&mask);
    let hidden = net.node("Add", &[&hidden, &later], &[]);
    let x = blocks(&mut net, &text, "text_model", x, Some(&hidden))?;
    let x = net.layer_norm(&x, "text_model.final_layer_norm", width, text.epsilon(1e-5))?;
    // The position of the token that ends a text: the largest id in the first models, whose configuration says 2.
    let end = text.json["eos_token_id"].as_i64().unwrap_or(49407);
    let at = match end {
        2 => ids,
        end => {
            let end = net.constant("token", Constant::ints(&[], vec![end]));
            let same = net.node("Equal", &[&ids, &end], &[]);
            net.node("Cast", &[&same], &[("to", int(7))])
        }
    };
    let at = net.node("ArgMax", &[&at], &[("axis", int(1)), ("keepdims", int(1))]);
    let x = net.node("GatherND", &[&x, &at], &[("batch_dims", int(1))]);
    let x = net.linear(&x, "text_projection", common, width)?;
    let texts = net.unit(&x);

    let (size, patch) = (vision.size_or("image_size", 224)?, vision.size_or("patch_size", 32)?);
    let channels = vision.size_or("num_channels", 3)?;
    let (width, _) = vision.width()?;
    if size > 1 << 12 || patch > size {
        return Err(whole.fail(format!("patches of {patch} on pictures of {size}")));
    }
    let side = size / patch;
    let x = net.input("pixel_values", DType::F32, &[None, Some(channels), Some(size), Some(size)]);
    let x = patches(&mut net, &x, "vision_model.embeddings.patch_embedding", patch)?;
    let first = net.weight("vision_model.embeddings.class_embedding", &[width])?;
    let shape = net.list(&[1, 1, width as i64]);
    let first = net.node("Reshape", &[&first, &shape], &[]);
    let x = preceded(&mut net, &x, &first, width);
    let places = net.weight("vision_model.embeddings.position_embedding.weight", &[side * side + 1, width])?;
    let x = net.node("Add", &[&x, &places], &[]);
    let epsilon = vision.epsilon(1e-5);
    // The name is misspelled in every checkpoint.
    let x = net.layer_norm(&x, "vision_model.pre_layrnorm", width, epsilon)?;
    let x = blocks(&mut net, &vision, "vision_model", x, None)?;
    let zero = net.constant("place", Constant::ints(&[], vec![0]));
    let x = net.node("Gather", &[&x, &zero], &[("axis", int(1))]);
    let x = net.layer_norm(&x, "vision_model.post_layernorm", width, epsilon)?;
    let x = net.linear(&x, "visual_projection", common, width)?;
    let pictures = net.unit(&x);

    let scale = net.weight("logit_scale", &[])?;
    let scale = net.node("Exp", &[&scale], &[]);
    let transposed = net.node("Transpose", &[&texts], &[("perm", ints(&[1, 0]))]);
    let logits = net.node("MatMul", &[&pictures, &transposed], &[]);
    let logits = net.node("Mul", &[&logits, &scale], &[]);
    net.output(&logits, "logits_per_image", &[None, None]);
    net.output(&texts, "text_embeds", &[None, Some(common)]);
    net.output(&pictures, "image_embeds", &[None, Some(common)]);
    let mut pictures = Pictures { cubic: true, ..Pictures::even(channels, size, 0.5, 0.5) };
    if channels == 3 {
        pictures.mean = vec![0.481_454_66, 0.457_827_5, 0.408_210_73];
        pictures.deviation = vec![0.268_629_54, 0.261_302_6, 0.275_777_1];
    }
    let pictures = pictures.prepared(archive)?;
    let reads = Reads::Both { vocabulary, context, pictures };
    Ok(Built { graph: net.graph, family: "CLIP", reads, classes: Vec::new(), notes: Vec::new() })
}

/// The blocks of a tower.
fn blocks(net: &mut Net, c: &Config, tower: &str, mut x: String, mask: Option<&str>) -> Result<String> {
    let (width, heads) = c.width()?;
    let (layers, hidden) = (c.size("num_hidden_layers")?, c.size("intermediate_size")?);
    let (epsilon, act) = (c.epsilon(1e-5), c.text("hidden_act", "quick_gelu"));
    for layer in 0..layers {
        let name = |part: &str| format!("{tower}.encoder.layers.{layer}.{part}");
        let y = net.layer_norm(&x, &name("layer_norm1"), width, epsilon)?;
        let q = net.linear(&y, &name("self_attn.q_proj"), width, width)?;
        let k = net.linear(&y, &name("self_attn.k_proj"), width, width)?;
        let v = net.linear(&y, &name("self_attn.v_proj"), width, width)?;
        let y = net.attention([&q, &k, &v], heads, width, mask);
        let y = net.linear(&y, &name("self_attn.out_proj"), width, width)?;
        x = net.node("Add", &[&y, &x], &[]);
        let y = net.layer_norm(&x, &name("layer_norm2"), width, epsilon)?;
        let y = net.linear(&y, &name("mlp.fc1"), hidden, width)?;
        let y = net.activation(&y, act)?;
        let y = net.linear(&y, &name("mlp.fc2"), width, hidden)?;
        x = net.node("Add", &[&y, &x], &[]);
    }
    Ok(x)
}
