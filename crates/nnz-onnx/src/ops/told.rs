//! Attributes of operators. An attribute that an operator does not use is refused by name, unless it has no effect.

use super::Done;
use crate::graph::{Attribute, Node};

/// Attributes that an operator uses.
fn acted(op: &str) -> &'static [&'static str] {
    match op {
        "ArgMax" | "ArgMin" => &["axis", "keepdims", "select_last_index"],
        "AveragePool" => {
            &["auto_pad", "ceil_mode", "count_include_pad", "dilations", "kernel_shape", "pads", "strides"]
        }
        "BatchNormalization" => &["epsilon", "momentum", "training_mode"],
        "Cast" => &["to", "saturate"],
        "CastLike" => &["saturate"],
        "BitCast" => &["to"],
        "BitShift" => &["direction"],
        "RMSNormalization" => &["axis", "epsilon"],
        "LpNormalization" => &["axis", "p"],
        "MeanVarianceNormalization" => &["axes"],
        "LRN" => &["alpha", "beta", "bias", "size"],
        "Celu" | "Swish" => &["alpha"],
        "Shrink" => &["bias", "lambd"],
        "Attention" => &[
            "is_causal",
            "kv_num_heads",
            "left_window_size",
            "q_num_heads",
            "qk_matmul_output_mode",
            "right_window_size",
            "scale",
            "softcap",
            "softmax_precision",
        ],
        "RotaryEmbedding" => &["interleaved", "num_heads", "rotary_embedding_dim"],
        "LinearAttention" => &["kv_num_heads", "q_num_heads", "scale", "update_rule"],
        "CausalConvWithState" => &["activation"],
        "SwiGLU" => &["alpha"],
        "NegativeLogLikelihoodLoss" | "SoftmaxCrossEntropyLoss" => &["ignore_index", "reduction"],
        "SpaceToDepth" => &["blocksize", "mode"],
        "If" => &["else_branch", "then_branch"],
        "Loop" | "SequenceMap" => &["body"],
        "Scan" => &[
            "body",
            "num_scan_inputs",
            "scan_input_axes",
            "scan_input_directions",
            "scan_output_axes",
            "scan_output_directions",
        ],
        "ConcatFromSequence" => &["axis", "new_axis"],
        "SplitToSequence" => &["axis", "keepdims"],
        "Clip" => &["min", "max"],
        "Concat" | "Gather" | "GatherElements" | "LogSoftmax" | "Softmax" | "Flatten" | "Hardmax" => &["axis"],
        "Constant" => &["value", "value_float", "value_floats", "value_int", "value_ints"],
        "ConstantOfShape" => &["value"],
        "GridSample" => &["align_corners", "mode", "padding_mode"],
        "AffineGrid" => &["align_corners"],
        "RoiAlign" => &[
            "coordinate_transformation_mode",
            "mode",
            "output_height",
            "output_width",
            "sampling_ratio",
            "spatial_scale",
        ],
        "NonMaxSuppression" => &["center_point_box"],
        "Col2Im" => &["dilations", "pads", "strides"],
        "CenterCropPad" => &["axes"],
        "MaxUnpool" => &["kernel_shape", "pads", "strides"],
        "DeformConv" => &["dilations", "group", "kernel_shape", "offset_group", "pads", "strides"],
        "DFT" => &["axis", "inverse", "onesided"],
        "STFT" => &["onesided"],
        "HannWindow" | "HammingWindow" | "BlackmanWindow" => &["output_datatype", "periodic"],
        "MelWeightMatrix" => &["output_datatype"],
        "Conv" | "ConvInteger" | "QLinearConv" => {
            &["auto_pad", "dilations", "group", "kernel_shape", "pads", "strides"]
        }
        "ConvTranspose" => &["auto_pad", "dilations", "group", "output_padding", "output_shape", "pads", "strides"],
        "CumSum" | "CumProd" => &["exclusive", "reverse"],
        "DepthToSpace" => &["blocksize", "mode"],
        "DequantizeLinear" => &["axis", "block_size", "output_dtype"],
        "Split" => &["axis", "split"],
        "QuantizeLinear" => &["axis", "block_size", "output_dtype", "saturate"],
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
        "LSTM" | "RNN" => &["activations", "direction", "hidden_size", "layout"],
        "GRU" => &["activations", "direction", "hidden_size", "layout", "linear_before_reset"],
        "TopK" => &["axis", "k", "largest", "sorted"],
        "Scatter" | "OneHot" | "Compress" => &["axis"],
        "ScatterElements" => &["axis", "reduction"],
        "TensorScatter" => &["axis", "mode"],
        "Unique" => &["axis", "sorted"],
        "ReverseSequence" => &["batch_axis", "time_axis"],
        "EyeLike" => &["dtype", "k"],
        "Einsum" => &["equation"],

        "ScatterND" => &["reduction"],
        "MaxPool" => &["auto_pad", "ceil_mode", "dilations", "kernel_shape", "pads", "storage_order", "strides"],
        "LpPool" => &["auto_pad", "ceil_mode", "dilations", "kernel_shape", "p", "pads", "strides"],
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
        (_, "consumed_inputs") | ("Dropout", "ratio" | "seed") => true,
        ("BatchNormalization", "spatial") => is(1),
        ("Dropout" | "BatchNormalization", "is_test") => is(1),
        // The precision of sums: 32 bits.
        ("LayerNormalization" | "GroupNormalization" | "RMSNormalization" | "Range", "stash_type") => is(1),
        // How many steps are computed at once.
        ("LinearAttention", "chunk_size") => true,
        // The type of an empty sequence.
        ("SequenceEmpty", "dtype") => true,
        // Only powers of two are rounded otherwise, and those are refused.
        ("Cast" | "CastLike", "round_mode") => true,
        ("QuantizeLinear", "precision") => is(0) || is(1),
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
