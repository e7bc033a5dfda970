//! Attributes of operators. An attribute that an operator does not use is refused by name, unless it has no effect.

use super::Done;
use crate::graph::{Attribute, Graph, Node};

/// Attributes that an operator uses.
fn acted(op: &str) -> &'static [&'static str] {
    match op {
        "ArgMax" | "ArgMin" => &["axis", "keepdims", "select_last_index"],
        "AveragePool" => {
            &["auto_pad", "ceil_mode", "count_include_pad", "dilations", "kernel_shape", "pads", "strides"]
        }
        "BatchNormalization" => &["epsilon", "training_mode"],
        "Cast" => &["to"],
        "Clip" => &["min", "max"],
        "Concat" | "Gather" | "GatherElements" | "LogSoftmax" | "Softmax" | "Flatten" => &["axis"],
        "Constant" => &["value", "value_float", "value_floats", "value_int", "value_ints"],
        "ConstantOfShape" => &["value"],
        "Conv" => &["auto_pad", "dilations", "group", "kernel_shape", "pads", "strides"],
        "ConvTranspose" => &["auto_pad", "dilations", "group", "output_padding", "output_shape", "pads", "strides"],
        "CumSum" => &["exclusive", "reverse"],
        "DepthToSpace" => &["blocksize", "mode"],
        "DequantizeLinear" => &["axis"],
        "Split" => &["axis", "split"],
        "QuantizeLinear" => &["axis", "output_dtype"],
        "Dropout" => &[],
        "Elu" | "LeakyRelu" | "ThresholdedRelu" => &["alpha"],
        "GatherND" => &["batch_dims"],
        "Gelu" => &["approximate"],
        "Gemm" => &["alpha", "beta", "transA", "transB"],
        "GroupNormalization" => &["epsilon", "num_groups"],
        "HardSigmoid" => &["alpha", "beta"],
        "InstanceNormalization" => &["epsilon"],
        "IsInf" => &["detect_negative", "detect_positive"],
        "LayerNormalization" => &["axis", "epsilon"],
        "LSTM" => &["activations", "direction", "hidden_size", "layout"],
        "GRU" => &["activations", "direction", "hidden_size", "layout", "linear_before_reset"],
        "TopK" => &["axis", "largest", "sorted"],
        "ScatterElements" => &["axis", "reduction"],
        "ScatterND" => &["reduction"],
        "MaxPool" => &["auto_pad", "ceil_mode", "dilations", "kernel_shape", "pads", "strides"],
        "Mod" => &["fmod"],
        "Pad" => &["mode", "pads", "value"],
        "Selu" => &["alpha", "gamma"],
        "Shape" => &["start", "end"],
        "Slice" => &["axes", "ends", "starts"],
        "Squeeze" | "Unsqueeze" => &["axes"],
        "Transpose" => &["perm"],
        "Trilu" => &["upper"],
        "Reshape" => &["allowzero", "shape"],
        "Upsample" => &["mode"],
        "Resize" => &[
            "antialias",
            "axes",
            "coordinate_transformation_mode",
            "cubic_coeff_a",
            "exclude_outside",
            "extrapolation_value",
            "keep_aspect_ratio_policy",
            "mode",
            "nearest_mode",
        ],
        op if op.starts_with("Reduce") => &["axes", "keepdims", "noop_with_empty_axes"],
        _ => &[],
    }
}

/// Whether an attribute that an operator does not use has no effect.
fn idle(node: &Node, name: &str, value: &Attribute) -> bool {
    let is = |v: i64| matches!(value, Attribute::Int(i) if *i == v);
    match (&*node.op, name) {
        // Attributes of old versions, of training, and of memory use.
        (_, "consumed_inputs") | ("BatchNormalization", "momentum") | ("Dropout", "ratio" | "seed") => true,
        ("BatchNormalization", "spatial") => is(1),
        ("Dropout" | "BatchNormalization", "is_test") => is(1),
        // The precision of sums: 32 bits.
        ("LayerNormalization" | "GroupNormalization" | "Range", "stash_type") => is(1),
        // Only 8-bit floats can overflow otherwise, and those are refused.
        ("Cast" | "CastLike" | "QuantizeLinear", "saturate") | ("Cast" | "CastLike", "round_mode") => true,
        ("QuantizeLinear" | "DequantizeLinear", "block_size") => is(0),
        ("QuantizeLinear", "precision") => is(0) || is(1),
        ("DequantizeLinear", "output_dtype") => is(0) || is(1),
        // Indices are not returned.
        ("MaxPool", "storage_order") => node.outputs.len() < 2 || is(0),
        // The weight determines it, too.
        ("ConvTranspose", "kernel_shape") => true,
        ("LSTM", "input_forget") => is(0),
        ("Split", "num_outputs") => is(node.outputs.len() as i64),
        _ => false,
    }
}

/// Checks that a node has only attributes that are used.
pub(crate) fn check(node: &Node) -> Done<()> {
    let acted = acted(&node.op);
    let other =
        node.attributes.iter().find(|(name, value)| !acted.contains(&name.as_str()) && !idle(node, name, value));
    match other {
        Some((name, _)) => Err(format!("attribute `{name}`, which is not computed with here")),
        None => Ok(()),
    }
}

/// Adds to a node what only the types of its constants show: values do not say whether integers have 16 bits.
pub(crate) fn typed(node: &Node, graph: &Graph) -> Node {
    let mut node = node.clone();
    let zero = node.inputs.get(2).and_then(|z| graph.constants.get(z));
    if node.op == "QuantizeLinear"
        && let Some(zero) = zero
    {
        node.attributes.entry("output_dtype".into()).or_insert(Attribute::Int(zero.kind.number().into()));
    }
    node
}
