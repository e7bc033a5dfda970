//! Operators with a gradient: functions of numbers, sums, products and norms. Those on images are in `spatial`, recurrent layers in
//! `recurrent`, and those that only move numbers in `moves`.

use super::pass::{Live, Run, Val, constant};
use super::plan::Step;
use super::{moves, recurrent, spatial};
use crate::ops::{self, Cx, Done, Given};
use crate::value::Value;
use nnz_engine::ops as tape;
use nnz_engine::{Real, Role, Tensor, Var};

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

/// Whether each number of the result is a function of the same number of the first input.
pub(super) fn unary(op: &str) -> bool {
    matches!(
        op,
        "Abs"
            | "Cast"
            | "CastLike"
            | "Celu"
            | "Clip"
            | "Dropout"
            | "Elu"
            | "Erf"
            | "Exp"
            | "Gelu"
            | "HardSigmoid"
            | "HardSwish"
            | "LeakyRelu"
            | "Log"
            | "Mish"
            | "Neg"
            | "Reciprocal"
            | "Relu"
            | "Selu"
            | "Sigmoid"
            | "Softplus"
            | "Softsign"
            | "Sqrt"
            | "Swish"
            | "Tanh"
    )
}

/// Whether an operator has a gradient here.
pub(super) fn known(op: &str) -> bool {
    SLOPES.contains(&op) || moves::MOVES.contains(&op)
}

impl<T: Real> Run<'_, '_, T> {
    /// The values of a step.
    pub fn step(&mut self, step: &Step) -> Done<Vec<Val<T>>> {
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
                x.like(self.one_by_one(step, &cx, &x.x)?)
            }
        };
        Ok(vec![Val::Live(value)])
    }

    fn one_by_one(&self, step: &Step, cx: &Cx, x: &Var<T>) -> Done<Var<T>> {
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
