//! BERT (Devlin et al. 2019) and its relatives: sentence encoders, masked language models with SPLADE's pooling (Formal et al. 2021),
//! classifiers. RoBERTa (Liu et al. 2019), DistilBERT (Sanh et al. 2019), ELECTRA (Clark et al. 2020) and MPNet (Song et al. 2020)
//! differ in names, positions and heads.

use super::*;

/// What a relative of BERT calls its parts, and where it differs.
struct Relative {
    /// Names of the network: as an encoder, with a masked-language head, with a classifier.
    titles: [&'static str; 3],
    /// Prefix of the encoder under a head.
    prefix: &'static str,
    /// Settings: width, heads, layers, hidden width, activation.
    keys: [&'static str; 5],
    /// Prefix of the layers.
    layers: &'static str,
    /// Queries, keys, values, output, its norm, up, down, its norm.
    parts: [&'static str; 8],
    /// Whether positions are counted from the one after `pad_token_id`, over tokens that are not it.
    padded: bool,
    /// Kinds of tokens: whether the network has a table of them, and whether they are an input.
    kinds: [bool; 2],
    /// Whether the number of positions between query and key adds to their score.
    relative: bool,
    /// Masked-language head: dense, norm, decoder without `.weight`, bias; and its activation, if it is not that of the layers.
    masked: [&'static str; 4],
    masked_activation: Option<&'static str>,
    /// Classifier of the first token: dense, its activation, and the last matrix. The dense one may be in the encoder.
    judge: [&'static str; 3],
    /// Whether the dense one is in the encoder.
    inside: bool,
}

const BERT: Relative = Relative {
    titles: ["BERT", "BERT with a masked-language head", "BERT with a classifier"],
    prefix: "bert.",
    keys: ["hidden_size", "num_attention_heads", "num_hidden_layers", "intermediate_size", "hidden_act"],
    layers: "encoder.layer",
    parts: [
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
        "attention.output.dense",
        "attention.output.LayerNorm",
        "intermediate.dense",
        "output.dense",
        "output.LayerNorm",
    ],
    padded: false,
    kinds: [true, true],
    relative: false,
    masked: [
        "cls.predictions.transform.dense",
        "cls.predictions.transform.LayerNorm",
        "cls.predictions.decoder",
        "cls.predictions.bias",
    ],
    masked_activation: None,
    judge: ["pooler.dense", "tanh", "classifier"],
    inside: true,
};

const ROBERTA: Relative = Relative {
    titles: ["RoBERTa", "RoBERTa with a masked-language head", "RoBERTa with a classifier"],
    prefix: "roberta.",
    padded: true,
    kinds: [true, false],
    masked: ["lm_head.dense", "lm_head.layer_norm", "lm_head.decoder", "lm_head.bias"],
    masked_activation: Some("gelu"),
    judge: ["classifier.dense", "tanh", "classifier.out_proj"],
    inside: false,
    ..BERT
};

const MPNET: Relative = Relative {
    titles: ["MPNet", "MPNet with a masked-language head", "MPNet with a classifier"],
    prefix: "mpnet.",
    parts: [
        "attention.attn.q",
        "attention.attn.k",
        "attention.attn.v",
        "attention.attn.o",
        "attention.LayerNorm",
        "intermediate.dense",
        "output.dense",
        "output.LayerNorm",
    ],
    kinds: [false, false],
    relative: true,
    ..ROBERTA
};

const DISTILBERT: Relative = Relative {
    titles: ["DistilBERT", "DistilBERT with a masked-language head", "DistilBERT with a classifier"],
    prefix: "distilbert.",
    keys: ["dim", "n_heads", "n_layers", "hidden_dim", "activation"],
    layers: "transformer.layer",
    parts: [
        "attention.q_lin",
        "attention.k_lin",
        "attention.v_lin",
        "attention.out_lin",
        "sa_layer_norm",
        "ffn.lin1",
        "ffn.lin2",
        "output_layer_norm",
    ],
    kinds: [false, false],
    masked: ["vocab_transform", "vocab_layer_norm", "vocab_projector", "vocab_projector.bias"],
    judge: ["pre_classifier", "relu", "classifier"],
    inside: false,
    ..BERT
};

const ELECTRA: Relative = Relative {
    titles: ["ELECTRA", "ELECTRA with a discriminator", "ELECTRA with a classifier"],
    prefix: "electra.",
    judge: ["classifier.dense", "gelu", "classifier.out_proj"],
    inside: false,
    ..BERT
};

/// The builder of a relative by its `model_type`.
pub(super) fn builder(kind: &str) -> Option<Builder> {
    Some(match kind {
        "bert" => |a| build(a, &BERT),
        "roberta" | "xlm-roberta" | "camembert" => |a| build(a, &ROBERTA),
        "mpnet" => |a| build(a, &MPNET),
        "distilbert" => |a| build(a, &DISTILBERT),
        "electra" => |a| build(a, &ELECTRA),
        _ => return None,
    })
}

fn build(archive: &Archive, of: &Relative) -> Result<Built> {
    let c = config(archive);
    let [width, heads, layers, hidden, act] = of.keys;
    let (width, heads, layers, hidden) = (c.size(width)?, c.size(heads)?, c.size(layers)?, c.size(hidden)?);
    let act = c.text(act, "gelu");
    if !width.is_multiple_of(heads) {
        return Err(c.fail(format!("a width of {width} for {heads} heads")));
    }
    let (vocabulary, places) = (c.size("vocab_size")?, c.size("max_position_embeddings")?);
    let epsilon = c.epsilon(1e-12);
    if c.text("position_embedding_type", "absolute") != "absolute" || c.json["is_decoder"] == true {
        return Err(c.fail("relative positions or a decoder, which are not built here".into()));
    }
    let first = match of.padded {
        false => 0,
        true => c.json["pad_token_id"].as_u64().map_or(1, |p| p as usize) + 1,
    };
    if first >= places {
        return Err(c.fail(format!("{places} positions, of which the first {first} are not used")));
    }
    let mut context = places - first;
    let mut net = Net::new(archive, "bert");
    let prefixed = net.has(&format!("{}embeddings.word_embeddings.weight", of.prefix));
    let prefix = if prefixed { of.prefix } else { "" };
    let any = [None, None];
    let ids = net.input("input_ids", DType::I64, &any);
    let mask = net.input("attention_mask", DType::I64, &any);
    // The embedding of ELECTRA may be narrower than its layers.
    let narrow = if of.prefix == ELECTRA.prefix { c.size_or("embedding_size", width)? } else { width };
    let table = |part: &str| format!("{prefix}embeddings.{part}.weight");
    let words = net.weight(&table("word_embeddings"), &[vocabulary, narrow])?;
    let positions = net.weight(&table("position_embeddings"), &[places, narrow])?;
    let mut x = net.node("Gather", &[&words, &ids], &[("axis", int(0))]);
    if of.kinds[0] {
        let kinds = c.size_or("type_vocab_size", 2)?;
        let segments = net.weight(&table("token_type_embeddings"), &[kinds, narrow])?;
        let kind = match of.kinds[1] {
            true => net.input("token_type_ids", DType::I64, &any),
            false => net.constant("place", Constant::ints(&[], vec![0])),
        };
        let s = net.node("Gather", &[&segments, &kind], &[("axis", int(0))]);
        x = net.node("Add", &[&x, &s], &[]);
    }
    let p = match of.padded {
        true => {
            let number = |net: &mut Net, v: i64| net.constant("place", Constant::ints(&[], vec![v]));
            let (pad, axis) = (number(&mut net, first as i64 - 1), number(&mut net, 1));
            let none = net.node("Equal", &[&ids, &pad], &[]);
            let there = net.node("Not", &[&none], &[]);
            let there = net.node("Cast", &[&there], &[("to", int(7))]);
            let count = net.node("CumSum", &[&there, &axis], &[]);
            let count = net.node("Mul", &[&count, &there], &[]);
            let place = net.node("Add", &[&count, &pad], &[]);
            net.node("Gather", &[&positions, &place], &[("axis", int(0))])
        }
        false => {
            let (from, length) = (net.list(&[0]), net.node("Shape", &[&ids], &[("start", int(1)), ("end", int(2))]));
            net.node("Slice", &[&positions, &from, &length], &[])
        }
    };
    let x = net.node("Add", &[&x, &p], &[]);
    let mut x = net.layer_norm(&x, &format!("{prefix}embeddings.LayerNorm"), narrow, epsilon)?;
    if narrow != width {
        x = net.linear(&x, &format!("{prefix}embeddings_project"), width, narrow)?;
    }
    let mut far = net.hidden(&mask);
    if of.relative {
        let bias = between(&mut net, &c, &ids, prefix, heads, context)?;
        far = net.node("Add", &[&far, &bias], &[]);
    }
    for layer in 0..layers {
        let name = |part: usize| format!("{prefix}{}.{layer}.{}", of.layers, of.parts[part]);
        let q = net.linear(&x, &name(0), width, width)?;
        let k = net.linear(&x, &name(1), width, width)?;
        let v = net.linear(&x, &name(2), width, width)?;
        let y = net.attention([&q, &k, &v], heads, width, Some(&far));
        let y = net.linear(&y, &name(3), width, width)?;
        let y = net.node("Add", &[&y, &x], &[]);
        x = net.layer_norm(&y, &name(4), width, epsilon)?;
        let y = net.linear(&x, &name(5), hidden, width)?;
        let y = net.activation(&y, act)?;
        let y = net.linear(&y, &name(6), width, hidden)?;
        let y = net.node("Add", &[&y, &x], &[]);
        x = net.layer_norm(&y, &name(7), width, epsilon)?;
    }
    let (mut family, mut classes) = (of.titles[0], Vec::new());
    let [dense, norm, decoder, bias] = of.masked;
    if net.has(&format!("{dense}.weight")) {
        family = of.titles[1];
        let y = net.linear(&x, dense, width, width)?;
        let y = net.activation(&y, of.masked_activation.unwrap_or(act))?;
        let y = net.layer_norm(&y, norm, width, epsilon)?;
        let bias = net.weight(bias, &[vocabulary])?;
        let decoder = format!("{decoder}.weight");
        let decoder = if net.has(&decoder) { net.weight(&decoder, &[vocabulary, width])? } else { words };
        let transposed = net.node("Transpose", &[&decoder], &[("perm", ints(&[1, 0]))]);
        let y = net.node("MatMul", &[&y, &transposed], &[]);
        let logits = net.node("Add", &[&y, &bias], &[]);
        let y = net.sparse(&logits, &mask);
        net.output(&logits, "logits", &[None, None, Some(vocabulary)]);
        net.output(&y, "sparse_embedding", &[None, Some(vocabulary)]);
    } else if net.has(&format!("{}.weight", of.judge[2])) {
        family = of.titles[2];
        let zero = net.constant("place", Constant::ints(&[], vec![0]));
        let first = net.node("Gather", &[&x, &zero], &[("axis", int(1))]);
        let [dense, act, last] = of.judge;
        let dense = if of.inside { format!("{prefix}{dense}") } else { dense.into() };
        let y = net.linear(&first, &dense, width, width)?;
        let y = if act == "tanh" { net.node("Tanh", &[&y], &[]) } else { net.activation(&y, act)? };
        net.head(&y, last)?;
        classes = c.classes();
    } else if net.has("discriminator_predictions.dense.weight") && of.prefix == ELECTRA.prefix {
        family = of.titles[1];
        let y = net.linear(&x, "discriminator_predictions.dense", width, width)?;
        let y = net.activation(&y, act)?;
        let y = net.linear(&y, "discriminator_predictions.dense_prediction", 1, width)?;
        let last = net.list(&[-1]);
        let y = net.node("Squeeze", &[&y, &last], &[]);
        net.output(&y, "logits", &[None, None]);
    } else {
        let pooling = pooling::Pooling::of(archive)?;
        context = pooling.most.map_or(context, |most| most.min(context));
        let (vector, all) = pooling.build(&mut net, &x, &mask, width);
        net.output(&x, "last_hidden_state", &[None, None, Some(width)]);
        net.output(&vector, "sentence_embedding", &[None, Some(all)]);
    }
    Ok(Built { graph: net.graph, family, reads: Reads::Tokens { vocabulary, context }, classes, notes: Vec::new() })
}

/// What the places of query and key add to their score, `[1, heads, positions, positions]`: a number for each head and group of
/// distances (Raffel et al. 2020, section 2.1).
fn between(net: &mut Net, c: &Config, ids: &str, prefix: &str, heads: usize, context: usize) -> Result<String> {
    let groups = c.size_or("relative_attention_num_buckets", 32)?;
    if groups != 32 {
        return Err(c.fail(format!("{groups} groups of relative positions; 32 are computed here")));
    }
    let table = net.weight(&format!("{prefix}encoder.relative_attention_bias.weight"), &[groups, heads])?;
    let most = context as i64 - 1;
    let known = (-most..=most).map(group).collect();
    let known = net.constant("groups", Constant::ints(&[2 * context - 1], known));
    let middle = net.constant("place", Constant::ints(&[], vec![most]));
    let length = net.node("Shape", &[ids], &[("start", int(1)), ("end", int(2))]);
    let keys = net.positions(&length);
    let down = net.list(&[1]);
    let queries = net.node("Unsqueeze", &[&keys, &down], &[]);
    let distance = net.node("Sub", &[&keys, &queries], &[]);
    let at = net.node("Add", &[&distance, &middle], &[]);
    let group = net.node("Gather", &[&known, &at], &[("axis", int(0))]);
    let bias = net.node("Gather", &[&table, &group], &[("axis", int(0))]);
    let bias = net.node("Transpose", &[&bias], &[("perm", ints(&[2, 0, 1]))]);
    let first = net.list(&[0]);
    Ok(net.node("Unsqueeze", &[&bias, &first], &[]))
}

/// The group of a distance from query to key: 16 for either direction, of which 8 are single positions and the others grow to 128.
fn group(distance: i64) -> i64 {
    let (far, side) = (distance.abs(), if distance > 0 { 16 } else { 0 });
    if far < 8 {
        return side + far;
    }
    let grown = (far as f32 / 8.0).ln() / (16f64.ln() as f32) * 8.0;
    side + (8 + grown as i64).min(15)
}
