//! The operators. Each is a function from inputs to outputs; [`find`] looks them up by name.

mod attention;
mod bits;
mod conv;
mod einsum;
mod flow;
mod lists;
mod loss;
mod math;
mod matmul;
mod norm;
mod pick;
mod pool;
mod quantized;
mod recurrent;
mod reduce;
mod resize;
mod scatter;
mod shape;
mod signal;
pub(crate) mod told;
pub(crate) mod types;
mod vision;

pub(crate) use conv::{Window as Frame, fold_norm, packed, parts, patches, run as convolve};
pub(crate) use matmul::{Linear, flat, linear_shape};
pub(crate) use resize::resizing;

use crate::graph::{Attribute, DType, Node};
use crate::session::Session;
use crate::value::{Array, Floats, Value};
use nnz_engine::Tensor;
use std::sync::atomic::AtomicUsize;

/// A result, or why an operator cannot do what the node asks for.
pub(crate) type Done<T = Vec<Value>> = Result<T, String>;

/// An operator: from its inputs, of which optional ones may be missing, to its outputs.
pub(crate) type Op = fn(&Cx, Given) -> Done;

/// Context of a running node.
#[derive(Clone, Copy)]
pub(crate) struct Cx<'a> {
    pub node: &'a Node,
    pub opset: i64,
    /// Largest number of elements of one value.
    pub most: usize,
    /// The node's graphs, ready to run.
    pub bodies: &'a [Inside],
    /// Steps that may still run inside nodes.
    pub fuel: &'a AtomicUsize,
}

/// A graph inside a node, ready to run, and the inputs of the node that it reads after its own.
pub(crate) struct Inside {
    pub session: Session,
    pub captured: std::ops::Range<usize>,
}

/// Runs an operator: its outputs get the types that the inputs ask for.
pub(crate) fn run(op: Op, cx: &Cx, given: Given) -> Done {
    let kinds: Vec<Option<DType>> = given.0.iter().map(|v| v.as_ref().map(Value::dtype)).collect();
    Ok(types::told(&cx.node.op, &kinds, op(cx, given)?))
}

impl<'a> Cx<'a> {
    fn get(&self, name: &str) -> Option<&'a Attribute> {
        self.node.attributes.get(name)
    }

    pub fn int(&self, name: &str, default: i64) -> Done<i64> {
        match self.get(name) {
            None => Ok(default),
            Some(Attribute::Int(i)) => Ok(*i),
            Some(_) => Err(format!("attribute `{name}` is no whole number")),
        }
    }

    pub fn float(&self, name: &str, default: f32) -> Done<f32> {
        match self.get(name) {
            None => Ok(default),
            Some(Attribute::Float(f)) => Ok(*f),
            Some(_) => Err(format!("attribute `{name}` is no float")),
        }
    }

    pub fn text(&self, name: &str, default: &'a str) -> Done<&'a str> {
        match self.get(name) {
            None => Ok(default),
            Some(Attribute::Text(s)) => Ok(s),
            Some(_) => Err(format!("attribute `{name}` is no text")),
        }
    }

    pub fn ints(&self, name: &str) -> Done<Option<&'a [i64]>> {
        match self.get(name) {
            None => Ok(None),
            Some(Attribute::Ints(v)) => Ok(Some(v)),
            Some(_) => Err(format!("attribute `{name}` is no list of whole numbers")),
        }
    }

    /// Reads the requested number of extents.
    pub fn sizes(&self, name: &str, n: usize, default: usize) -> Done<Vec<usize>> {
        let Some(list) = self.ints(name)? else { return Ok(vec![default; n]) };
        if list.len() != n {
            return Err(format!("attribute `{name}` has {} numbers, but {n} are needed", list.len()));
        }
        let size = |&i: &i64| usize::try_from(i).ok().filter(|&i| i <= 1 << 20);
        list.iter().map(size).collect::<Option<_>>().ok_or(format!("attribute `{name}` is {list:?}"))
    }

    /// Number of elements of a shape, if a value may have that many.
    pub fn room(&self, shape: &[usize]) -> Done<usize> {
        match crate::graph::count(shape) {
            Ok(n) if n <= self.most => Ok(n),
            _ => Err(format!("its output of shape {shape:?} has more than the {} numbers that are allowed", self.most)),
        }
    }
}

/// Inputs of a node.
pub(crate) struct Given(pub Vec<Option<Value>>);

impl Given {
    pub fn has(&self, i: usize) -> bool {
        self.0.get(i).is_some_and(Option::is_some)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn maybe(&mut self, i: usize) -> Option<Value> {
        self.0.get_mut(i).and_then(Option::take)
    }

    pub fn take(&mut self, i: usize) -> Done<Value> {
        self.maybe(i).ok_or(format!("input {i} is missing"))
    }

    /// As `take`, with integers of 8 bits widened.
    pub fn wide(&mut self, i: usize) -> Done<Value> {
        self.take(i).map(Value::widened)
    }

    pub fn floats(&mut self, i: usize) -> Done<Floats> {
        match self.take(i)? {
            Value::Float(f) => Ok(f),
            other => Err(format!("input {i} has {}, but floats are needed", other.kind())),
        }
    }

    /// Floats, row-major.
    pub fn tensor(&mut self, i: usize) -> Done<Tensor<f32>> {
        Ok(self.floats(i)?.rows())
    }

    pub fn ints(&mut self, i: usize) -> Done<Array<i64>> {
        match self.take(i)? {
            Value::Int(a) => Ok(a),
            other => Err(format!("input {i} has {}, but whole numbers are needed", other.kind())),
        }
    }

    /// A single float.
    pub fn scalar(&mut self, i: usize) -> Done<f32> {
        let t = self.tensor(i)?;
        match t.data() {
            [v] => Ok(*v),
            all => Err(format!("input {i} has {} numbers, but one is needed", all.len())),
        }
    }
}

/// One value.
pub(crate) fn one(value: Value) -> Done {
    Ok(vec![value])
}

pub(crate) fn tensor(t: Tensor<f32>) -> Done {
    one(Value::Float(Floats::new(t)))
}

/// Resolves an axis, counted from the end if negative.
pub(crate) fn axis(axis: i64, rank: usize) -> Done<usize> {
    let at = if axis < 0 { axis + rank as i64 } else { axis };
    usize::try_from(at).ok().filter(|&a| a < rank).ok_or(format!("axis {axis} of a value with {rank} axes"))
}

/// Strides of a row-major shape.
pub(crate) fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i] * shape[i];
    }
    strides
}

/// Calls `f(offset, n)` for every run of the innermost axis of a strided view, in row-major order of `shape`.
pub(crate) fn runs<const N: usize>(shape: &[usize], strides: [&[usize]; N], mut f: impl FnMut([usize; N], usize)) {
    let Some((&n, outer)) = shape.split_last() else { return f([0; N], 1) };
    if shape.contains(&0) {
        return;
    }
    let mut at = vec![0; outer.len()];
    let mut offsets = [0; N];
    loop {
        f(offsets, n);
        let mut axis = outer.len();
        loop {
            if axis == 0 {
                return;
            }
            axis -= 1;
            at[axis] += 1;
            (0..N).for_each(|k| offsets[k] += strides[k][axis]);
            if at[axis] < outer[axis] {
                break;
            }
            (0..N).for_each(|k| offsets[k] -= strides[k][axis] * outer[axis]);
            at[axis] = 0;
        }
    }
}

/// Finds an operator by name.
pub(crate) fn find(op: &str) -> Option<Op> {
    Some(match op {
        "Abs" | "Acos" | "Acosh" | "Asin" | "Asinh" | "Atan" | "Atanh" | "Ceil" | "Celu" | "Cos" | "Cosh"
        | "Shrink" | "Sinh" | "Swish" | "Elu" | "Erf" | "Exp" | "Floor" | "Gelu" | "HardSigmoid" | "HardSwish"
        | "LeakyRelu" | "Log" | "Mish" | "Neg" | "Reciprocal" | "Relu" | "Round" | "Selu" | "Sigmoid" | "Sign"
        | "Sin" | "Softplus" | "Softsign" | "Sqrt" | "Tan" | "Tanh" | "ThresholdedRelu" => math::unary,
        "Clip" => math::clip,
        "Add" | "Sub" | "Mul" | "Div" | "Pow" | "PRelu" | "Mod" => math::binary,
        "Min" | "Max" | "Sum" | "Mean" => math::many,
        "And" | "Or" | "Xor" | "Equal" | "Greater" | "GreaterOrEqual" | "Less" | "LessOrEqual" => math::compare,
        "Not" => math::not,
        "IsNaN" | "IsInf" => math::odd,
        "Where" => math::choose,
        "Softmax" | "LogSoftmax" => math::softmax,
        "LayerNormalization" => norm::layer_norm,
        "InstanceNormalization" | "GroupNormalization" => norm::group_norm,
        "BatchNormalization" => conv::batch_norm,
        "Conv" => conv::conv,
        "ConvTranspose" => conv::transposed,
        "MaxPool" | "AveragePool" | "LpPool" => pool::pool,
        "GlobalAveragePool" | "GlobalMaxPool" => pool::global_pool,
        "Resize" | "Upsample" => resize::resize,
        "MatMul" => matmul::matmul,
        "Gemm" => matmul::gemm,
        "ReduceMean" | "ReduceSum" | "ReduceMax" | "ReduceMin" | "ReduceProd" | "ReduceL1" | "ReduceL2"
        | "ReduceSumSquare" | "ReduceLogSumExp" | "ReduceLogSum" => reduce::reduce,
        "ArgMax" | "ArgMin" => reduce::arg,
        "CumSum" => reduce::cumulate,
        "Reshape" => shape::reshape,
        "Flatten" => shape::flatten,
        "Squeeze" => shape::squeeze,
        "Unsqueeze" => shape::unsqueeze,
        "Identity" | "Dropout" => shape::identity,
        "Transpose" => shape::transpose,
        "Expand" => shape::expand,
        "Tile" => shape::tile,
        "Concat" => shape::concat,
        "Split" => shape::split,
        "Shape" => shape::shape,
        "Size" => shape::size,
        "Constant" => shape::constant,
        "ConstantOfShape" => shape::constant_of_shape,
        "Cast" | "CastLike" => types::cast,
        "Range" => shape::range,
        "Pad" => shape::pad,
        "DepthToSpace" => shape::depth_to_space,
        "Trilu" => shape::trilu,
        "Slice" => pick::slice,
        "Gather" => pick::gather,
        "GatherElements" => pick::gather_elements,
        "GatherND" => pick::gather_nd,
        "NonZero" => pick::nonzero,
        "QuantizeLinear" => quantized::quantize,
        "DequantizeLinear" => quantized::dequantize,
        "DynamicQuantizeLinear" => quantized::dynamic,
        "MatMulInteger" => quantized::matmul,
        "QLinearMatMul" => quantized::linear_matmul,
        "ConvInteger" => quantized::conv,
        "QLinearConv" => quantized::linear_conv,
        "GridSample" => vision::grid_sample,
        "AffineGrid" => vision::affine_grid,
        "RoiAlign" => vision::roi_align,
        "NonMaxSuppression" => vision::suppress,
        "Col2Im" => vision::col2im,
        "CenterCropPad" => vision::center,
        "MaxUnpool" => vision::unpool,
        "DeformConv" => vision::deformed,
        "DFT" => signal::dft,
        "STFT" => signal::stft,
        "HannWindow" | "HammingWindow" | "BlackmanWindow" => signal::window,
        "MelWeightMatrix" => signal::mel,
        "LSTM" | "GRU" | "RNN" => recurrent::recurrent,
        "TopK" => scatter::top,
        "Scatter" | "ScatterElements" => scatter::scatter_elements,
        "ScatterND" => scatter::scatter_nd,
        "RMSNormalization" => norm::rms_norm,
        "LpNormalization" => norm::lp_norm,
        "Hardmax" => norm::hardmax,
        "MeanVarianceNormalization" => norm::mean_variance,
        "LRN" => norm::local_response,
        "Det" => norm::determinant,
        "TensorScatter" => scatter::scatter_rows,
        "OneHot" => scatter::one_hot,
        "Compress" => scatter::compress,
        "Unique" => scatter::unique,
        "ReverseSequence" => scatter::reverse,
        "EyeLike" => scatter::eye,
        "CumProd" => reduce::cumulate,
        "Einsum" => einsum::einsum,
        "Attention" => attention::attention,
        "RotaryEmbedding" => attention::rotary,
        "LinearAttention" => attention::linear,
        "CausalConvWithState" => attention::causal,
        "SwiGLU" => attention::swiglu,
        "NegativeLogLikelihoodLoss" => loss::negative,
        "SoftmaxCrossEntropyLoss" => loss::cross_entropy,
        "SpaceToDepth" => shape::space_to_depth,
        "If" => flow::branch,
        "Loop" => flow::repeat,
        "Scan" => flow::scan,
        "SequenceMap" => flow::map,
        "BitShift" | "BitwiseAnd" | "BitwiseOr" | "BitwiseXor" => bits::bitwise,
        "BitwiseNot" => bits::not,
        "BitCast" => bits::cast,
        "SequenceAt" => lists::at,
        "SequenceConstruct" => lists::construct,
        "SequenceEmpty" => lists::empty,
        "SequenceErase" => lists::erase,
        "SequenceInsert" => lists::insert,
        "SequenceLength" => lists::length,
        "SplitToSequence" => lists::split,
        "ConcatFromSequence" => lists::join,
        "Optional" => lists::optional,
        "OptionalGetElement" => lists::element,
        "OptionalHasElement" => lists::has,
        _ => return None,
    })
}

/// Supported operators, for messages and documents.
pub const KNOWN: &[&str] = &[
    "Abs",
    "Acos",
    "Acosh",
    "Add",
    "AffineGrid",
    "And",
    "ArgMax",
    "ArgMin",
    "Asin",
    "Asinh",
    "Atan",
    "Atanh",
    "Attention",
    "AveragePool",
    "BatchNormalization",
    "BitCast",
    "BitShift",
    "BitwiseAnd",
    "BitwiseNot",
    "BitwiseOr",
    "BitwiseXor",
    "BlackmanWindow",
    "Cast",
    "CastLike",
    "CausalConvWithState",
    "Ceil",
    "Celu",
    "CenterCropPad",
    "Clip",
    "Col2Im",
    "Compress",
    "Concat",
    "ConcatFromSequence",
    "Constant",
    "ConstantOfShape",
    "Conv",
    "ConvInteger",
    "ConvTranspose",
    "Cos",
    "Cosh",
    "CumProd",
    "CumSum",
    "DFT",
    "DeformConv",
    "DepthToSpace",
    "DequantizeLinear",
    "Det",
    "Div",
    "Dropout",
    "DynamicQuantizeLinear",
    "Einsum",
    "Elu",
    "Equal",
    "Erf",
    "Exp",
    "Expand",
    "EyeLike",
    "Flatten",
    "Floor",
    "GRU",
    "Gather",
    "GatherElements",
    "GatherND",
    "Gelu",
    "Gemm",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "Greater",
    "GreaterOrEqual",
    "GridSample",
    "GroupNormalization",
    "HammingWindow",
    "HannWindow",
    "HardSigmoid",
    "HardSwish",
    "Hardmax",
    "Identity",
    "If",
    "InstanceNormalization",
    "IsInf",
    "IsNaN",
    "LRN",
    "LSTM",
    "LayerNormalization",
    "LeakyRelu",
    "Less",
    "LessOrEqual",
    "LinearAttention",
    "Log",
    "LogSoftmax",
    "Loop",
    "LpNormalization",
    "LpPool",
    "MatMul",
    "MatMulInteger",
    "Max",
    "MaxPool",
    "MaxUnpool",
    "Mean",
    "MeanVarianceNormalization",
    "MelWeightMatrix",
    "Min",
    "Mish",
    "Mod",
    "Mul",
    "Neg",
    "NegativeLogLikelihoodLoss",
    "NonMaxSuppression",
    "NonZero",
    "Not",
    "OneHot",
    "Optional",
    "OptionalGetElement",
    "OptionalHasElement",
    "Or",
    "PRelu",
    "Pad",
    "Pow",
    "QLinearConv",
    "QLinearMatMul",
    "QuantizeLinear",
    "RMSNormalization",
    "RNN",
    "Range",
    "Reciprocal",
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
    "Relu",
    "Reshape",
    "Resize",
    "ReverseSequence",
    "RoiAlign",
    "RotaryEmbedding",
    "Round",
    "STFT",
    "Scan",
    "Scatter",
    "ScatterElements",
    "ScatterND",
    "Selu",
    "SequenceAt",
    "SequenceConstruct",
    "SequenceEmpty",
    "SequenceErase",
    "SequenceInsert",
    "SequenceLength",
    "SequenceMap",
    "Shape",
    "Shrink",
    "Sigmoid",
    "Sign",
    "Sin",
    "Sinh",
    "Size",
    "Slice",
    "Softmax",
    "SoftmaxCrossEntropyLoss",
    "Softplus",
    "Softsign",
    "SpaceToDepth",
    "Split",
    "SplitToSequence",
    "Sqrt",
    "Squeeze",
    "Sub",
    "Sum",
    "SwiGLU",
    "Swish",
    "Tan",
    "Tanh",
    "TensorScatter",
    "ThresholdedRelu",
    "Tile",
    "TopK",
    "Transpose",
    "Trilu",
    "Unique",
    "Unsqueeze",
    "Upsample",
    "Where",
    "Xor",
];
