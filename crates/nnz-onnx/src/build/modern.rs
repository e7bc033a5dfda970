//! ModernBERT (Warner et al. 2024, arXiv:2412.13663): norms before, rotary positions, layers that see the whole text and layers that
//! see a window, gated perceptrons.

use super::*;

pub(super) fn build(archive: &Archive) -> Result<Built> {
    let c = config(archive);
    let (width, heads) = c.width()?;
    let each = width / heads;
    let (layers, hidden) = (c.size("num_hidden_layers")?, c.size("intermediate_size")?);
    let (vocabulary, context) = (c.size("vocab_size")?, c.size("max_position_embeddings")?);
    let epsilon = c.json["norm_eps"].as_f64().filter(|e| e.is_finite() && *e > 0.0).unwrap_or(1e-5);
    let act = c.text("hidden_activation", "gelu");
    if !each.is_multiple_of(2) {
        return Err(c.fail(format!("{each} numbers of a head, which do not turn in pairs")));
    }
    let rope = &c.json["rope_parameters"];
    let scaled = |r: &serde_json::Value| r["rope_type"].as_str().or(r["type"].as_str()).is_some_and(|t| t != "default");
    if !c.json["rope_scaling"].is_null() || scaled(&rope["full_attention"]) || scaled(&rope["sliding_attention"]) {
        return Err(c.fail("scaled rotary positions, which are not built here".into()));
    }
    let base = |kind: &str, old: &str, silent: f64| {
        let base = rope[kind]["rope_theta"].as_f64().or(c.json[old].as_f64()).unwrap_or(silent);
        match base.is_finite() && base > 1.0 {
            true => Ok(base),
            false => Err(c.fail(format!("rotary positions of base {base}"))),
        }
    };
    let bases = [
        base("full_attention", "global_rope_theta", 160_000.0)?,
        base("sliding_attention", "local_rope_theta", 10_000.0)?,
    ];
    let every = c.size_or("global_attn_every_n_layers", 3)?;
    let window = c.size_or("local_attention", 128)? / 2;
    let kinds: Vec<bool> = match c.json["layer_types"].as_array() {
        None => (0..layers).map(|l| !l.is_multiple_of(every)).collect(),
        Some(list) if list.len() == layers => {
            let kind = |v: &serde_json::Value| match v.as_str() {
                Some("full_attention") => Ok(false),
                Some("sliding_attention") => Ok(true),
                _ => Err(c.fail(format!("layers of type {v}, which are not built here"))),
            };
            list.iter().map(kind).collect::<Result<_>>()?
        }
        Some(list) => return Err(c.fail(format!("layer_types of {} layers for {layers}", list.len()))),
    };
    let mut net = Net::new(archive, "modernbert");
    let prefix = if net.has("model.embeddings.tok_embeddings.weight") { "model." } else { "" };
    let pooling = match prefix {
        "" => Some(pooling::Pooling::of(archive)?),
        _ => None,
    };
    let context = pooling.as_ref().and_then(|p| p.most).map_or(context, |most| most.min(context));
    let any = [None, None];
    let ids = net.input("input_ids", DType::I64, &any);
    let mask = net.input("attention_mask", DType::I64, &any);
    let words = net.weight(&format!("{prefix}embeddings.tok_embeddings.weight"), &[vocabulary, width])?;
    let x = net.node("Gather", &[&words, &ids], &[("axis", int(0))]);
    let mut x = net.norm(&x, &format!("{prefix}embeddings.norm"), width, epsilon)?;
    let far = net.hidden(&mask);
    let length = net.node("Shape", &[&ids], &[("start", int(1)), ("end", int(2))]);
    let positions = net.positions(&length);
    let tables = bases.map(|base| net.turns(&positions, each, base));
    let near = match kinds.contains(&true) {
        false => far.clone(),
        true => {
            let band = net.window(&positions, window);
            net.node("Add", &[&far, &band], &[])
        }
    };
    for (layer, slides) in kinds.into_iter().enumerate() {
        let name = |part: &str| format!("{prefix}layers.{layer}.{part}");
        let read = match layer {
            0 => x.clone(),
            _ => net.norm(&x, &name("attn_norm"), width, epsilon)?,
        };
        let qkv = net.linear(&read, &name("attn.Wqkv"), 3 * width, width)?;
        let parts = [0, 1, 2].map(|i| {
            let (from, to) = (net.list(&[i * width as i64]), net.list(&[(i + 1) * width as i64]));
            let last = net.list(&[2]);
            net.node("Slice", &[&qkv, &from, &to, &last], &[])
        });
        let [cos, sin] = &tables[usize::from(slides)];
        let q = net.turned(&parts[0], [cos, sin], heads, each);
        let k = net.turned(&parts[1], [cos, sin], heads, each);
        let y = net.attention([&q, &k, &parts[2]], heads, width, Some(if slides { &near } else { &far }));
        let y = net.linear(&y, &name("attn.Wo"), width, width)?;
        x = net.node("Add", &[&x, &y], &[]);
        let read = net.norm(&x, &name("mlp_norm"), width, epsilon)?;
        let both = net.linear(&read, &name("mlp.Wi"), 2 * hidden, width)?;
        let halves = [0, 1].map(|i| {
            let (from, to) = (net.list(&[i * hidden as i64]), net.list(&[(i + 1) * hidden as i64]));
            let last = net.list(&[2]);
            net.node("Slice", &[&both, &from, &to, &last], &[])
        });
        let gate = net.activation(&halves[0], act)?;
        let y = net.node("Mul", &[&gate, &halves[1]], &[]);
        let y = net.linear(&y, &name("mlp.Wo"), width, hidden)?;
        x = net.node("Add", &[&x, &y], &[]);
    }
    let x = net.norm(&x, &format!("{prefix}final_norm"), width, epsilon)?;
    let reads = Reads::Tokens { vocabulary, context };
    let family = match pooling {
        Some(pooling) => {
            let (vector, all) = pooling.build(&mut net, &x, &mask, width);
            net.output(&x, "last_hidden_state", &[None, None, Some(width)]);
            net.output(&vector, "sentence_embedding", &[None, Some(all)]);
            "ModernBERT"
        }
        None if net.has("decoder.bias") || net.has("decoder.weight") => {
            let y = net.linear(&x, "head.dense", width, width)?;
            let y = net.activation(&y, c.text("classifier_activation", "gelu"))?;
            let y = net.norm(&y, "head.norm", width, epsilon)?;
            let decoder = "decoder.weight";
            let decoder = if net.has(decoder) { net.weight(decoder, &[vocabulary, width])? } else { words };
            let transposed = net.node("Transpose", &[&decoder], &[("perm", ints(&[1, 0]))]);
            let mut logits = net.node("MatMul", &[&y, &transposed], &[]);
            if net.has("decoder.bias") {
                let bias = net.weight("decoder.bias", &[vocabulary])?;
                logits = net.node("Add", &[&logits, &bias], &[]);
            }
            let sparse = net.sparse(&logits, &mask);
            net.output(&logits, "logits", &[None, None, Some(vocabulary)]);
            net.output(&sparse, "sparse_embedding", &[None, Some(vocabulary)]);
            "ModernBERT with a masked-language head"
        }
        None => return Err(c.fail("a head that is not built here; bring the network as ONNX".into())),
    };
    Ok(Built { graph: net.graph, family, reads, classes: Vec::new(), notes: Vec::new() })
}

impl Net<'_> {
    /// Adds a layer norm, whose offset may be missing.
    fn norm(&mut self, x: &str, prefix: &str, width: usize, epsilon: f64) -> Result<String> {
        if self.has(&format!("{prefix}.bias")) {
            return self.layer_norm(x, prefix, width, epsilon);
        }
        let gain = self.weight(&format!("{prefix}.weight"), &[width])?;
        let attributes = [("axis", int(-1)), ("epsilon", Attribute::Float(epsilon as f32))];
        Ok(self.node("LayerNormalization", &[x, &gain], &attributes))
    }

    /// Cosine and sine of rotary positions (Su et al. 2021, arXiv:2104.09864), `[positions, 1, each]`.
    fn turns(&mut self, positions: &str, each: usize, base: f64) -> [String; 2] {
        let one = |i: usize| base.powf(-2.0 * (i % (each / 2)) as f64 / each as f64) as f32;
        let speeds = self.constant("speeds", Constant::floats(&[each], (0..each).map(one).collect()));
        let axes = self.list(&[1, 2]);
        let positions = self.node("Cast", &[positions], &[("to", int(1))]);
        let positions = self.node("Unsqueeze", &[&positions, &axes], &[]);
        let angles = self.node("Mul", &[&positions, &speeds], &[]);
        ["Cos", "Sin"].map(|op| self.node(op, &[&angles], &[]))
    }

    /// Computes the term added to scores by which a position sees at most `window` positions to either side, `[positions, positions]`.
    fn window(&mut self, positions: &str, window: usize) -> String {
        let most = self.constant("place", Constant::ints(&[], vec![window as i64]));
        let down = self.list(&[1]);
        let queries = self.node("Unsqueeze", &[positions, &down], &[]);
        let distance = self.node("Sub", &[positions, &queries], &[]);
        let distance = self.node("Abs", &[&distance], &[]);
        let gone = self.node("Greater", &[&distance, &most], &[]);
        let gone = self.node("Cast", &[&gone], &[("to", int(1))]);
        let far = self.scalar(-1e9);
        self.node("Mul", &[&gone, &far], &[])
    }

    /// Turns the heads of queries or keys `[batch, positions, heads * each]`.
    fn turned(&mut self, x: &str, [cos, sin]: [&String; 2], heads: usize, each: usize) -> String {
        let apart = self.list(&[0, 0, heads as i64, each as i64]);
        let together = self.list(&[0, 0, (heads * each) as i64]);
        let x = self.node("Reshape", &[x, &apart], &[]);
        let half = each as i64 / 2;
        let halves = [[0, half], [half, each as i64]].map(|[from, to]| {
            let (from, to, last) = (self.list(&[from]), self.list(&[to]), self.list(&[3]));
            self.node("Slice", &[&x, &from, &to, &last], &[])
        });
        let back = self.node("Neg", &[&halves[1]], &[]);
        let swapped = self.node("Concat", &[&back, &halves[0]], &[("axis", int(-1))]);
        let a = self.node("Mul", &[&x, cos], &[]);
        let b = self.node("Mul", &[&swapped, sin], &[]);
        let y = self.node("Add", &[&a, &b], &[]);
        self.node("Reshape", &[&y, &together], &[])
    }
}
