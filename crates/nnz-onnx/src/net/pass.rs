//! A pass of a graph on the tape. Values keep the layout that the engine's operators want: images have channels last in memory
//! under ONNX's shape, which has them second.

use super::plan::{Plan, Source, Step};
use super::{moves, recurrent, spatial};
use crate::graph::Attribute;
use crate::ops::{self, Cx, Done, Given};
use crate::value::Value;
use crate::{Error, Result};
use nnz_engine::layers::{Context, Repeated};
use nnz_engine::ops as tape;
use nnz_engine::{Real, Role, Tensor, Var};

/// A value on the tape.
#[derive(Clone)]
pub(super) struct Live<T> {
    pub x: Var<T>,
    /// Whether axis 1 is stored last.
    pub last: bool,
}

/// Any value of a pass.
#[derive(Clone)]
pub(super) enum Val<T> {
    Plain(Value),
    Live(Live<T>),
}

/// From channels second to channels last.
fn to_last(rank: usize) -> Vec<usize> {
    [&[0], &(2..rank).collect::<Vec<_>>()[..], &[1]].concat()
}

/// And back.
fn to_rows(rank: usize) -> Vec<usize> {
    [&[0, rank - 1], &(1..rank - 1).collect::<Vec<_>>()[..]].concat()
}

impl<T: Real> Live<T> {
    pub fn rows(x: Var<T>) -> Self {
        Self { x, last: false }
    }

    pub fn channels_last(x: Var<T>) -> Self {
        Self { x, last: true }
    }

    /// Extents in ONNX's order.
    pub fn shape(&self) -> Vec<usize> {
        let mut shape = self.x.shape().to_vec();
        if self.last {
            shape[1..].rotate_right(1);
        }
        shape
    }

    /// Row-major.
    pub fn by_rows(&self) -> Var<T> {
        let shape = self.shape();
        match self.last {
            false => self.x.clone(),
            // With one channel or one place both layouts are the same.
            true if shape[1] == 1 || shape[2..].iter().product::<usize>() == 1 => tape::reshape(&self.x, &shape),
            true => tape::permute(&self.x, &to_rows(shape.len())),
        }
    }

    /// With channels last; at least three axes.
    pub fn by_places(&self) -> Var<T> {
        match self.last {
            true => self.x.clone(),
            false => tape::permute(&self.x, &to_last(self.x.shape().len())),
        }
    }

    /// Another value in the same layout.
    pub fn like(&self, x: Var<T>) -> Self {
        Self { x, last: self.last }
    }

    /// The axis in memory.
    pub fn axis(&self, axis: usize) -> usize {
        match (self.last, axis) {
            (true, 1) => self.x.shape().len() - 1,
            (true, a) if a > 1 => a - 1,
            (_, a) => a,
        }
    }
}

/// A constant as a value on the tape.
pub(super) fn constant<T: Real>(value: &Value) -> Var<T> {
    Var::constant(Tensor::new(&value.shape(), value.numbers().into_iter().map(T::of).collect()))
}

/// A pass in progress.
pub(super) struct Run<'r, 'a, T: Real> {
    pub plan: &'r Plan,
    pub cx: &'r mut Context<'a, T>,
    /// Place of its first parameter.
    base: usize,
    pub batch: usize,
    values: Vec<Option<Val<T>>>,
    whole: Vec<Option<Var<T>>>,
    again: Vec<Option<Repeated<'a, T>>>,
    /// Rows that went through each weight.
    counts: Vec<usize>,
}

/// Runs a graph on `[batch, height, width, channels]`; returns its output, row-major.
pub(super) fn run<T: Real>(plan: &Plan, x: &Var<T>, cx: &mut Context<'_, T>) -> Result<Var<T>> {
    let fail = |why: String| Error::file(&plan.path, why);
    let &[batch, h, w, c] = x.shape() else { return Err(fail(format!("an input of shape {:?}", x.shape()))) };
    plan.takes(&[h, w, c]).map_err(fail)?;
    let image = Live::channels_last(x.clone());
    let row: Vec<usize> = match plan.input.len() {
        1 => vec![c * h * w],
        2 if c == 1 && plan.input.iter().zip([h, w]).all(|(a, b)| a.is_none_or(|a| a == b)) => vec![h, w],
        2 => vec![h * w, c],
        _ => vec![c, h, w],
    };
    // Positions of a sequence hold their channels together, all else begins with the channels.
    let input = match plan.input.len() {
        3 => image,
        2 => Live::rows(tape::reshape(x, &[&[batch], &row[..]].concat())),
        _ => Live::rows(tape::reshape(&image.by_rows(), &[&[batch], &row[..]].concat())),
    };
    let input = match plan.tokens {
        false => Val::Live(input),
        true => {
            let ids = input.x.value().data().iter().map(|v| v.f64().round() as i64).collect();
            Val::Plain(Value::ints(input.x.shape(), ids))
        }
    };
    let count = plan.weights.len();
    let base = cx.position();
    let again = (0..count).map(|_| None).collect();
    let values = vec![None; plan.sources.len()];
    let mut run = Run { plan, cx, base, batch, values, whole: vec![None; count], again, counts: vec![0; count] };
    run.values[plan.from] = Some(input);
    for step in &plan.steps {
        let values = run.step(step).map_err(|why| Error::node(&plan.path, &step.node, why))?;
        let mut values = values.into_iter();
        for slot in &step.outputs {
            match (slot, values.next()) {
                (Some(_), Some(Val::Live(l))) if l.x.value().is_empty() => {
                    let why = format!("it gives a value of shape {:?}, which has no numbers", l.shape());
                    return Err(Error::node(&plan.path, &step.node, why));
                }
                (Some(slot), Some(value)) => run.values[*slot] = Some(value),
                (Some(_), None) => {
                    let why = "it does not compute all outputs that are asked of it";
                    return Err(Error::node(&plan.path, &step.node, why));
                }
                (None, _) => {}
            }
        }
        step.dies.iter().for_each(|&s| run.values[s] = None);
    }
    let output = run.values[plan.to].take();
    run.cx.seek(base + count);
    plan.counted.get_or_init(|| run.counts.iter().map(|n| (n / batch.max(1)).max(1)).collect());
    match output {
        Some(Val::Live(y)) => Ok(y.by_rows()),
        _ => Err(fail("its output was not computed".into())),
    }
}

/// Operators with a gradient here, besides those that only move numbers.
pub(super) const SLOPES: &[&str] = &[
    "Abs",
    "Add",
    "AveragePool",
    "BatchNormalization",
    "Cast",
    "CastLike",
    "Celu",
    "Clip",
    "Conv",
    "ConvTranspose",
    "Div",
    "Dropout",
    "Elu",
    "Erf",
    "Exp",
    "GRU",
    "Gelu",
    "Gemm",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "GroupNormalization",
    "HardSigmoid",
    "HardSwish",
    "InstanceNormalization",
    "LSTM",
    "LayerNormalization",
    "LeakyRelu",
    "Log",
    "LogSoftmax",
    "MatMul",
    "Max",
    "MaxPool",
    "Mean",
    "Min",
    "Mish",
    "Mul",
    "Neg",
    "PRelu",
    "Pow",
    "RMSNormalization",
    "RNN",
    "Reciprocal",
    "ReduceL2",
    "ReduceMax",
    "ReduceMean",
    "ReduceSum",
    "ReduceSumSquare",
    "Relu",
    "Resize",
    "Selu",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "Softsign",
    "Sqrt",
    "Sub",
    "Sum",
    "Swish",
    "Tanh",
    "Upsample",
    "Where",
];

/// Whether an operator has a gradient here.
pub(super) fn known(op: &str) -> bool {
    SLOPES.contains(&op) || moves::MOVES.contains(&op)
}

impl<'a, T: Real> Run<'_, 'a, T> {
    /// A value known without the tape; nothing flows back through it.
    pub fn plain(&self, step: &Step, input: usize) -> Option<Value> {
        let slot = (*step.inputs.get(input)?)?;
        match (&self.plan.sources[slot], self.values[slot].as_ref()) {
            (Source::Constant(v), _) => Some(v.clone()),
            (_, Some(Val::Plain(v))) => Some(v.clone()),
            (_, Some(Val::Live(l))) => {
                let x = l.by_rows();
                Some(Value::floats(x.shape(), x.value().data().iter().map(|v| v.f64() as f32).collect()))
            }
            _ => None,
        }
    }

    /// Whether an input is given.
    pub fn has(&self, step: &Step, input: usize) -> bool {
        step.inputs.get(input).is_some_and(Option::is_some)
    }

    /// Whether something may flow back through an input.
    pub fn flows(&self, step: &Step, input: usize) -> bool {
        let source = step.inputs.get(input).copied().flatten().map(|s| &self.plan.sources[s]);
        matches!(source, Some(Source::Live | Source::Weight(..)))
    }

    /// An input on the tape.
    pub fn live(&mut self, step: &Step, input: usize) -> Done<Live<T>> {
        let missing = || format!("input {input} is missing");
        let slot = step.inputs.get(input).copied().flatten().ok_or_else(missing)?;
        if let Source::Weight(w, flipped) = self.plan.sources[slot] {
            let x = self.weight(w);
            return Ok(Live::rows(if flipped { tape::transpose(&x) } else { x }));
        }
        match &self.values[slot] {
            Some(Val::Live(l)) => Ok(l.clone()),
            _ => match self.plain(step, input).ok_or_else(missing)? {
                v @ Value::Float(_) => Ok(Live::rows(constant(&v))),
                other => Err(format!("input {input} has {}, but floats are needed", other.kind())),
            },
        }
    }

    /// A vector, if an input is one of `n` numbers.
    pub fn vector(&mut self, step: &Step, input: usize, n: usize) -> Done<Var<T>> {
        let x = self.live(step, input)?.by_rows();
        match x.value().len() == n {
            true => Ok(tape::reshape(&x, &[n])),
            false => Err(format!("input {input} of shape {:?} where {n} numbers are needed", x.shape())),
        }
    }

    /// Makes a weight the next parameter.
    pub fn seek(&mut self, weight: usize) {
        self.cx.seek(self.base + weight);
    }

    /// Place of a weight among the parameters of the network.
    pub fn place(&self, weight: usize) -> usize {
        self.base + weight
    }

    /// All entries of a parameter as it lies, `[rows, cols]` or `[rows]`.
    pub fn whole(&mut self, weight: usize) -> Var<T> {
        if let Some(x) = &self.whole[weight] {
            return x.clone();
        }
        self.seek(weight);
        let x = match self.plan.weights[weight].spec.role {
            Role::Weight => self.cx.whole(),
            _ => self.cx.take().1.clone(),
        };
        self.whole[weight] = Some(x.clone());
        x
    }

    /// A weight as ONNX has it.
    pub fn weight(&mut self, weight: usize) -> Var<T> {
        let x = self.whole(weight);
        let w = &self.plan.weights[weight];
        let dims: Vec<usize> = w.order.iter().map(|&a| w.dims[a]).collect();
        tape::permute(&tape::reshape(&x, &dims), &w.back())
    }

    /// x Wᵀ (+ b) with a matrix, whose bias is the parameter after it.
    pub fn linear(&mut self, x: &Var<T>, weight: usize, bias: bool) -> Var<T> {
        if self.plan.weights[weight].uses == 1 {
            self.count(weight, x.value().rows_cols().0);
            self.seek(weight);
            return self.cx.linear(x, bias);
        }
        self.multiply(x, weight)
    }

    /// x Wᵀ with a matrix that is multiplied several times in a pass.
    pub fn multiply(&mut self, x: &Var<T>, weight: usize) -> Var<T> {
        self.count(weight, x.value().rows_cols().0);
        if self.again[weight].is_none() {
            self.seek(weight);
            self.again[weight] = Some(self.cx.repeated(false));
        }
        match &self.again[weight] {
            Some(repeated) => self.cx.again(repeated, x),
            None => unreachable!("it was made"),
        }
    }

    /// Counts rows that go through a weight.
    pub fn count(&mut self, weight: usize, rows: usize) {
        self.counts[weight] += rows;
    }

    fn step(&mut self, step: &Step) -> Done<Vec<Val<T>>> {
        let cx = self.plan.cx(step);
        if !step.live {
            let given = (0..step.inputs.len()).map(|i| self.plain(step, i)).collect();
            return Ok(ops::run(step.op, &cx, Given(given))?.into_iter().map(Val::Plain).collect());
        }
        let value = match &*step.node.op {
            "Add" | "Sub" | "Mul" | "Div" | "Max" | "Min" | "Sum" | "Mean" => self.binary(step)?,
            "Pow" => self.power(step)?,
            "PRelu" => {
                let (x, slope) = (self.live(step, 0)?, self.live(step, 1)?);
                let below = x.like(tape::neg(&tape::relu(&tape::neg(&x.x))));
                let (slope, below, last) = aligned(&slope, &below)?;
                let below = Live { x: tape::mul(&slope, &below), last };
                let (a, b, last) = aligned(&x.like(tape::relu(&x.x)), &below)?;
                Live { x: tape::add(&a, &b), last }
            }
            "Where" => self.choose(step, &cx)?,
            "Cast" | "CastLike" | "Dropout" => self.live(step, 0)?,
            "Softmax" | "LogSoftmax" => self.softmax(step, &cx)?,
            "MatMul" => self.matmul(step)?,
            "Gemm" => self.gemm(step, &cx)?,
            "LayerNormalization" | "RMSNormalization" => self.layer_norm(step, &cx)?,
            "ReduceMean" | "ReduceSum" | "ReduceMax" | "ReduceL2" | "ReduceSumSquare" => self.reduce(step, &cx)?,
            "LSTM" | "GRU" | "RNN" => {
                return Ok(recurrent::recurrent(self, step, &cx)?
                    .into_iter()
                    .map(|x| Val::Live(Live::rows(x)))
                    .collect());
            }
            "Conv" => spatial::conv(self, step, &cx)?,
            "ConvTranspose" => spatial::transposed(self, step, &cx)?,
            "MaxPool" | "AveragePool" => spatial::pool(self, step, &cx)?,
            "GlobalAveragePool" | "GlobalMaxPool" => spatial::global_pool(self, step)?,
            "BatchNormalization" => spatial::batch_norm(self, step, &cx)?,
            "InstanceNormalization" | "GroupNormalization" => spatial::group_norm(self, step, &cx)?,
            "Resize" | "Upsample" => spatial::resize(self, step, &cx)?,
            op if moves::MOVES.contains(&op) => {
                return Ok(moves::moved(self, step, &cx)?.into_iter().map(Val::Live).collect());
            }
            _ => {
                let x = self.live(step, 0)?;
                x.like(self.unary(step, &cx, &x.x)?)
            }
        };
        Ok(vec![Val::Live(value)])
    }

    fn unary(&self, step: &Step, cx: &Cx, x: &Var<T>) -> Done<Var<T>> {
        let alpha = |default: f32| cx.float("alpha", default).map(f64::from);
        Ok(match &*step.node.op {
            "Abs" => tape::abs(x),
            "Celu" => {
                let a = alpha(1.0)?;
                tape::scale(&tape::elu(&tape::scale(x, 1.0 / a), 1.0), a)
            }
            "Clip" => {
                let bound = |i: usize, name: &str, default: f32| match self.plain(step, i) {
                    None if self.has(step, i) => Err(format!("bound {i} is not known before the input")),
                    None => cx.float(name, default).map(f64::from),
                    Some(v) if v.len() == 1 => Ok(v.numbers()[0]),
                    Some(v) => Err(format!("bound {i} has {} numbers", v.len())),
                };
                tape::clamp(x, bound(1, "min", f32::NEG_INFINITY)?, bound(2, "max", f32::INFINITY)?)
            }
            "Elu" => tape::elu(x, alpha(1.0)?),
            "Erf" => tape::shift(&tape::scale(&tape::cdf(&tape::scale(x, std::f64::consts::SQRT_2)), 2.0), -1.0),
            "Exp" => tape::exp(x),
            "Gelu" if cx.text("approximate", "none")? == "tanh" => tape::gelu_tanh(x),
            "Gelu" => tape::gelu(x),
            "HardSigmoid" => {
                let (a, b) = (alpha(0.2)?, f64::from(cx.float("beta", 0.5)?));
                tape::clamp(&tape::shift(&tape::scale(x, a), b), 0.0, 1.0)
            }
            "HardSwish" => tape::hardswish(x),
            "LeakyRelu" => tape::leaky_relu(x, alpha(0.01)?),
            "Log" => tape::log(x),
            "Mish" => tape::mul(x, &tape::tanh(&tape::softplus(x))),
            "Neg" => tape::neg(x),
            "Reciprocal" => tape::pow(x, -1.0),
            "Relu" => tape::relu(x),
            "Selu" => {
                let (a, g) = (alpha(1.673_263_2)?, f64::from(cx.float("gamma", 1.050_701)?));
                tape::scale(&tape::elu(x, a), g)
            }
            "Sigmoid" => tape::sigmoid(x),
            "Softplus" => tape::softplus(x),
            "Softsign" => tape::div(x, &tape::shift(&tape::abs(x), 1.0)),
            "Sqrt" => tape::sqrt(x),
            "Swish" if alpha(1.0)? == 1.0 => tape::silu(x),
            "Swish" => tape::mul(x, &tape::sigmoid(&tape::scale(x, alpha(1.0)?))),
            "Tanh" => tape::tanh(x),
            _ => return Err("this operator has no gradient here".into()),
        })
    }

    /// Sums, differences and the like of two values or more.
    fn binary(&mut self, step: &Step) -> Done<Live<T>> {
        let op = &*step.node.op;
        // A constant number needs no broadcasting.
        if let [Some(_), Some(_)] = step.inputs[..]
            && let (0, Some(v)) = (usize::from(self.flows(step, 1)), self.plain(step, 1))
            && v.len() == 1
        {
            let (x, c) = (self.live(step, 0)?, v.numbers()[0]);
            let small = v.shape().len() <= x.shape().len();
            let y = match op {
                "Add" => Some(tape::shift(&x.x, c)),
                "Sub" => Some(tape::shift(&x.x, -c)),
                "Mul" => Some(tape::scale(&x.x, c)),
                "Div" => Some(tape::scale(&x.x, 1.0 / c)),
                _ => None,
            };
            if let Some(y) = y.filter(|_| small) {
                return Ok(x.like(y));
            }
        }
        let mut sum = self.live(step, 0)?;
        for i in 1..step.inputs.len() {
            let other = self.live(step, i)?;
            let (a, b, last) = aligned(&sum, &other)?;
            let x = match op {
                "Add" | "Sum" | "Mean" => tape::add(&a, &b),
                "Sub" => tape::sub(&a, &b),
                "Mul" => tape::mul(&a, &b),
                "Div" => tape::div(&a, &b),
                "Max" => tape::add(&b, &tape::relu(&tape::sub(&a, &b))),
                _ => tape::sub(&a, &tape::relu(&tape::sub(&a, &b))),
            };
            sum = Live { x, last };
        }
        match op {
            "Mean" => Ok(sum.like(tape::scale(&sum.x, 1.0 / step.inputs.len() as f64))),
            _ => Ok(sum),
        }
    }

    fn power(&mut self, step: &Step) -> Done<Live<T>> {
        let x = self.live(step, 0)?;
        match self.plain(step, 1).filter(|v| v.len() == 1 && !self.flows(step, 1)).map(|v| v.numbers()[0]) {
            Some(2.0) => Ok(x.like(tape::square(&x.x))),
            Some(0.5) => Ok(x.like(tape::sqrt(&x.x))),
            Some(p) => Ok(x.like(tape::pow(&x.x, p))),
            None => Err("a power that is not one constant number has no gradient here".into()),
        }
    }

    /// Values where a condition holds, others elsewhere. Of constants only what is taken is used, which may be infinite elsewhere.
    fn choose(&mut self, step: &Step, cx: &Cx) -> Done<Live<T>> {
        let Some(condition @ Value::Bool(_)) = self.plain(step, 0) else {
            return Err("a condition that is no truth values".into());
        };
        let zero = Value::floats(&[], vec![0.0]);
        let flags: Vec<T> = condition.numbers().into_iter().map(T::of).collect();
        let flags = Var::constant(Tensor::new(&condition.shape(), flags));
        let mut part = |i: usize| -> Done<Live<T>> {
            if self.flows(step, i) {
                let x = self.live(step, i)?;
                let flags = if i == 1 { flags.clone() } else { tape::shift(&tape::neg(&flags), 1.0) };
                let (x, flags, last) = aligned(&x, &Live::rows(flags))?;
                return Ok(Live { x: tape::mul(&x, &flags), last });
            }
            let value = self.plain(step, i).ok_or("a value is missing")?;
            let pair = if i == 1 { [value, zero.clone()] } else { [zero.clone(), value] };
            let given = std::iter::once(condition.clone()).chain(pair).map(Some).collect();
            let taken = ops::run(step.op, cx, Given(given))?;
            Ok(Live::rows(constant(taken.first().ok_or("nothing was taken")?)))
        };
        let (a, b) = (part(1)?, part(2)?);
        let (a, b, last) = aligned(&a, &b)?;
        Ok(Live { x: tape::add(&a, &b), last })
    }

    fn softmax(&mut self, step: &Step, cx: &Cx) -> Done<Live<T>> {
        let x = self.live(step, 0)?;
        let shape = x.shape();
        let old = self.plan.opset < 13;
        let at = ops::axis(cx.int("axis", if old { 1 } else { -1 })?, shape.len())?;
        let f = if step.node.op == "Softmax" { tape::softmax } else { tape::log_softmax };
        if x.last && at == 1 && !old {
            return Ok(x.like(f(&x.x)));
        }
        let rows = x.by_rows();
        if old {
            let cols = shape[at..].iter().product::<usize>();
            let flat = tape::reshape(&rows, &[rows.value().len() / cols.max(1), cols]);
            return Ok(Live::rows(tape::reshape(&f(&flat), &shape)));
        }
        let mut order: Vec<usize> = (0..shape.len()).collect();
        order.swap(at, shape.len() - 1);
        Ok(Live::rows(tape::permute(&f(&tape::permute(&rows, &order)), &order)))
    }

    /// A matrix among the weights that lies as products want it: `[outputs, inputs]`.
    fn matrix(&self, step: &Step, turned: bool) -> Option<usize> {
        let (w, flipped) = self.plan.weight(step, 1)?;
        let weight = &self.plan.weights[w];
        let fits = weight.spec.role == Role::Weight && weight.dims.len() == 2;
        (fits && weight.turned() != (flipped != turned)).then_some(w)
    }

    fn matmul(&mut self, step: &Step) -> Done<Live<T>> {
        let a = self.live(step, 0)?.by_rows();
        if let Some(w) = self.matrix(step, false) {
            let cols = self.plan.weights[w].spec.shape.cols;
            if a.shape().len() < 2 || a.shape().last() != Some(&cols) {
                return Err(format!("an input of shape {:?} for a matrix of {cols} inputs", a.shape()));
            }
            return Ok(Live::rows(self.linear(&a, w, step.bias.is_some())));
        }
        let b = self.live(step, 1)?.by_rows();
        let (sa, sb) = (a.shape().to_vec(), b.shape().to_vec());
        let misfit = || format!("shapes {sa:?} and {sb:?} do not multiply");
        let ([lead_a @ .., m, k], [lead_b @ .., l, n]) = (&sa[..], &sb[..]) else { return Err(misfit()) };
        if k != l {
            return Err(misfit());
        }
        if lead_b.is_empty() {
            let y = tape::matmul(&a, false, &b, false);
            return Ok(Live::rows(tape::reshape(&y, &[lead_a, &[*m, *n]].concat())));
        }
        let lead = broadcast(lead_a, lead_b).ok_or_else(misfit)?;
        self.room(&[&lead[..], &[(*m).max(*k), (*n).max(*k)]].concat())?;
        let wide = |x: &Var<T>, own: &[usize]| tape::expand(x, &[&lead[..], own].concat());
        Ok(Live::rows(tape::batch_matmul(&wide(&a, &[*m, *k]), false, &wide(&b, &[*l, *n]), false)))
    }

    fn gemm(&mut self, step: &Step, cx: &Cx) -> Done<Live<T>> {
        let (alpha, beta) = (f64::from(cx.float("alpha", 1.0)?), f64::from(cx.float("beta", 1.0)?));
        let (ta, tb) = (cx.int("transA", 0)? != 0, cx.int("transB", 0)? != 0);
        let a = self.live(step, 0)?.by_rows();
        let two = |x: &Var<T>| match x.shape() {
            &[r, c] => Ok((r, c)),
            other => Err(format!("an input of shape {other:?}, which is no matrix")),
        };
        let (r, c) = two(&a)?;
        let a = if ta { tape::transpose(&a) } else { a };
        let k = if ta { r } else { c };
        let mut added = false;
        let y = match self.matrix(step, tb) {
            Some(w) => {
                let shape = &self.plan.weights[w].spec.shape;
                if k != shape.cols {
                    return Err(format!("an input of shape {:?} for a matrix of {} inputs", a.shape(), shape.cols));
                }
                let bias = self.plan.weight(step, 2).map(|(b, _)| b);
                added = alpha == 1.0
                    && beta == 1.0
                    && self.plan.weights[w].uses == 1
                    && bias == Some(w + 1)
                    && self.plan.weights[w + 1].dims == [shape.rows];
                self.linear(&a, w, added)
            }
            None => {
                let b = self.live(step, 1)?.by_rows();
                let (r, c) = two(&b)?;
                if k != if tb { c } else { r } {
                    return Err(format!("shapes {:?} and {:?} do not multiply", a.shape(), b.shape()));
                }
                tape::matmul(&a, false, &b, tb)
            }
        };
        let y = if alpha == 1.0 { y } else { tape::scale(&y, alpha) };
        if added || !self.has(step, 2) || beta == 0.0 {
            return Ok(Live::rows(y));
        }
        let b = self.live(step, 2)?.by_rows();
        if broadcast(b.shape(), y.shape()).as_deref() != Some(y.shape()) {
            return Err(format!("C of shape {:?} for a product {:?}", b.shape(), y.shape()));
        }
        Ok(Live::rows(tape::add(&y, &if beta == 1.0 { b } else { tape::scale(&b, beta) })))
    }

    fn layer_norm(&mut self, step: &Step, cx: &Cx) -> Done<Live<T>> {
        let x = self.live(step, 0)?;
        let shape = x.shape();
        let at = ops::axis(cx.int("axis", -1)?, shape.len())?;
        let (x, cols) = (x.by_rows(), shape[at..].iter().product::<usize>());
        if step.outputs.len() > 1 {
            return Err("means and rates as outputs have no gradient here".into());
        }
        if x.value().is_empty() {
            return Err(format!("an input of shape {shape:?}"));
        }
        let gain = self.vector(step, 1, cols)?;
        let epsilon = f64::from(cx.float("epsilon", 1e-5)?);
        let flat = tape::reshape(&x, &[x.value().len() / cols, cols]);
        let y = match &*step.node.op {
            "RMSNormalization" => tape::rms_norm(&flat, &gain, epsilon),
            _ => {
                let offset = match self.has(step, 2) {
                    true => self.vector(step, 2, cols)?,
                    false => Var::constant(Tensor::zeros(&[cols])),
                };
                tape::layer_norm(&flat, &gain, &offset, epsilon)
            }
        };
        Ok(Live::rows(tape::reshape(&y, &shape)))
    }

    fn reduce(&mut self, step: &Step, cx: &Cx) -> Done<Live<T>> {
        let x = self.live(step, 0)?;
        let shape = x.shape();
        let told = match self.plain(step, 1) {
            Some(Value::Int(a)) => Some(a.data().to_vec()),
            Some(_) => return Err("axes that are no whole numbers".into()),
            None => cx.ints("axes")?.map(<[i64]>::to_vec),
        };
        let axes = match told.filter(|a| !a.is_empty()) {
            Some(axes) => axes.iter().map(|&a| ops::axis(a, shape.len())).collect::<Done<Vec<usize>>>()?,
            None if cx.int("noop_with_empty_axes", 0)? != 0 => return Ok(x),
            None => (0..shape.len()).collect(),
        };
        let keep = cx.int("keepdims", 1)? != 0;
        if shape.contains(&0) || (1..axes.len()).any(|i| axes[..i].contains(&axes[i])) {
            return Err(format!("axes {axes:?} of shape {shape:?}"));
        }
        // Over all places the channels that are left lie as they should.
        let places = x.last && (2..shape.len()).eq(axes.iter().copied());
        let (x, own): (Var<T>, Vec<usize>) = match places {
            true => (x.x.clone(), axes.iter().map(|&a| x.axis(a)).collect()),
            false => (x.by_rows(), axes.clone()),
        };
        let y = match &*step.node.op {
            "ReduceMean" => tape::mean_over(&x, &own),
            "ReduceSum" => tape::sum_over(&x, &own),
            "ReduceMax" => tape::max_over(&x, &own),
            "ReduceSumSquare" => tape::sum_over(&tape::square(&x), &own),
            _ => tape::sqrt(&tape::sum_over(&tape::square(&x), &own)),
        };
        let extents = shape.iter().enumerate().filter(|(i, _)| keep || !axes.contains(i));
        let to: Vec<usize> = extents.map(|(i, &d)| if axes.contains(&i) { 1 } else { d }).collect();
        Ok(Live::rows(tape::reshape(&y, &to)))
    }

    /// Refuses values of too many numbers.
    pub fn room(&self, shape: &[usize]) -> Done<()> {
        match crate::graph::count(shape) {
            Ok(n) if n <= super::MOST => Ok(()),
            _ => Err(format!(
                "a value of shape {shape:?} would have more than the {} numbers that are allowed",
                super::MOST
            )),
        }
    }
}

/// The shape that two shapes broadcast to.
pub(super) fn broadcast(a: &[usize], b: &[usize]) -> Option<Vec<usize>> {
    let rank = a.len().max(b.len());
    let at = |s: &[usize], i: usize| (i + s.len()).checked_sub(rank).map_or(1, |i| s[i]);
    (0..rank)
        .map(|i| match (at(a, i), at(b, i)) {
            (x, y) if x == y => Some(x),
            (1, y) => Some(y),
            (x, 1) => Some(x),
            _ => None,
        })
        .collect()
}

/// Brings two operands into one layout, if they broadcast.
pub(super) fn aligned<T: Real>(a: &Live<T>, b: &Live<T>) -> Done<(Var<T>, Var<T>, bool)> {
    let (sa, sb) = (a.shape(), b.shape());
    let misfit = || format!("shapes {sa:?} and {sb:?} do not broadcast");
    let shape = broadcast(&sa, &sb).ok_or_else(misfit)?;
    if crate::graph::count(&shape).is_ok_and(|n| n > super::MOST) {
        return Err(misfit());
    }
    let rank = shape.len();
    let last = |l: &Live<T>| l.last && l.x.shape().len() == rank;
    if !last(a) && !last(b) {
        return Ok((a.by_rows(), b.by_rows(), false));
    }
    let one = |l: &Live<T>| {
        let mut full = vec![1; rank - l.shape().len()];
        full.extend(l.shape());
        match last(l) {
            true => l.x.clone(),
            false => Live::rows(tape::reshape(&l.by_rows(), &full)).by_places(),
        }
    };
    Ok((one(a), one(b), true))
}

/// An attribute that is a text.
pub(super) fn texts(step: &Step, name: &str) -> Option<Vec<String>> {
    match step.node.attributes.get(name) {
        Some(Attribute::Texts(t)) => Some(t.clone()),
        _ => None,
    }
}
