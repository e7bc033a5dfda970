//! BERT (Devlin et al. 2019): sentence encoders of its kind, masked language models with SPLADE's pooling (Formal et al. 2021),
//! classifiers.

use super::*;

pub(super) fn build(archive: &Archive) -> Result<Built> {
    let c = config(archive);
    let (width, heads) = c.width()?;
    let (layers, hidden) = (c.size("num_hidden_layers")?, c.size("intermediate_size")?);
    let (vocabulary, mut context) = (c.size("vocab_size")?, c.size("max_position_embeddings")?);
    let kinds = c.size_or("type_vocab_size", 2)?;
    let (epsilon, act) = (c.epsilon(1e-12), c.text("hidden_act", "gelu"));
    if c.text("position_embedding_type", "absolute") != "absolute" || c.json["is_decoder"] == true {
        return Err(c.fail("relative positions or a decoder, which are not built here".into()));
    }
    let mut net = Net::new(archive, "bert");
    let prefix = if net.has("bert.embeddings.word_embeddings.weight") { "bert." } else { "" };
    let any = [None, None];
    let ids = net.input("input_ids", DType::I64, &any);
    let mask = net.input("attention_mask", DType::I64, &any);
    let types = net.input("token_type_ids", DType::I64, &any);
    let table = |part: &str| format!("{prefix}embeddings.{part}.weight");
    let words = net.weight(&table("word_embeddings"), &[vocabulary, width])?;
    let places = net.weight(&table("position_embeddings"), &[context, width])?;
    let segments = net.weight(&table("token_type_embeddings"), &[kinds, width])?;
    let x = net.node("Gather", &[&words, &ids], &[("axis", int(0))]);
    let s = net.node("Gather", &[&segments, &types], &[("axis", int(0))]);
    let x = net.node("Add", &[&x, &s], &[]);
    let (from, length) = (net.list(&[0]), net.node("Shape", &[&ids], &[("start", int(1)), ("end", int(2))]));
    let p = net.node("Slice", &[&places, &from, &length], &[]);
    let x = net.node("Add", &[&x, &p], &[]);
    let mut x = net.layer_norm(&x, &format!("{prefix}embeddings.LayerNorm"), width, epsilon)?;
    let far = net.hidden(&mask);
    for layer in 0..layers {
        let name = |part: &str| format!("{prefix}encoder.layer.{layer}.{part}");
        let q = net.linear(&x, &name("attention.self.query"), width, width)?;
        let k = net.linear(&x, &name("attention.self.key"), width, width)?;
        let v = net.linear(&x, &name("attention.self.value"), width, width)?;
        let y = net.attention([&q, &k, &v], heads, width, Some(&far));
        let y = net.linear(&y, &name("attention.output.dense"), width, width)?;
        let y = net.node("Add", &[&y, &x], &[]);
        x = net.layer_norm(&y, &name("attention.output.LayerNorm"), width, epsilon)?;
        let y = net.linear(&x, &name("intermediate.dense"), hidden, width)?;
        let y = net.activation(&y, act)?;
        let y = net.linear(&y, &name("output.dense"), width, hidden)?;
        let y = net.node("Add", &[&y, &x], &[]);
        x = net.layer_norm(&y, &name("output.LayerNorm"), width, epsilon)?;
    }
    let (mut family, mut classes) = ("BERT", Vec::new());
    if net.has("cls.predictions.transform.dense.weight") {
        family = "BERT with a masked-language head";
        let y = net.linear(&x, "cls.predictions.transform.dense", width, width)?;
        let y = net.activation(&y, act)?;
        let y = net.layer_norm(&y, "cls.predictions.transform.LayerNorm", width, epsilon)?;
        let bias = net.weight("cls.predictions.bias", &[vocabulary])?;
        let decoder = "cls.predictions.decoder.weight";
        let decoder = if net.has(decoder) { net.weight(decoder, &[vocabulary, width])? } else { words };
        let transposed = net.node("Transpose", &[&decoder], &[("perm", ints(&[1, 0]))]);
        let y = net.node("MatMul", &[&y, &transposed], &[]);
        let logits = net.node("Add", &[&y, &bias], &[]);
        // SPLADE: max over tokens of ln(1 + relu(logit)).
        let y = net.node("Relu", &[&logits], &[]);
        let one = net.scalar(1.0);
        let y = net.node("Add", &[&y, &one], &[]);
        let y = net.node("Log", &[&y], &[]);
        let m = net.node("Cast", &[&mask], &[("to", int(1))]);
        let last = net.list(&[-1]);
        let m = net.node("Unsqueeze", &[&m, &last], &[]);
        let y = net.node("Mul", &[&y, &m], &[]);
        let first = net.list(&[1]);
        let y = net.node("ReduceMax", &[&y, &first], &[("keepdims", int(0))]);
        net.output(&logits, "logits", &[None, None, Some(vocabulary)]);
        net.output(&y, "sparse_embedding", &[None, Some(vocabulary)]);
    } else if net.has("classifier.weight") {
        family = "BERT with a classifier";
        let zero = net.constant("place", Constant::ints(&[], vec![0]));
        let first = net.node("Gather", &[&x, &zero], &[("axis", int(1))]);
        let y = net.linear(&first, &format!("{prefix}pooler.dense"), width, width)?;
        let y = net.node("Tanh", &[&y], &[]);
        net.head(&y, "classifier")?;
        classes = c.classes();
    } else {
        let pooling = pooling::Pooling::of(archive)?;
        context = pooling.most.map_or(context, |most| most.min(context));
        let (vector, all) = pooling.build(&mut net, &x, &mask, width);
        net.output(&x, "last_hidden_state", &[None, None, Some(width)]);
        net.output(&vector, "sentence_embedding", &[None, Some(all)]);
    }
    Ok(Built { graph: net.graph, family, reads: Reads::Tokens { vocabulary, context }, classes, notes: Vec::new() })
}
