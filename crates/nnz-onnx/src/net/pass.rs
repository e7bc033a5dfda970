//! A pass of a graph on the tape. Values keep the layout that the engine's operators want: images have channels last in memory
//! under ONNX's shape, which has them second.

use super::plan::{Plan, ROWS, Source, Step};
use crate::graph::Attribute;
use crate::ops::Done;
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
    let shape = |v: &Val<T>| match v {
        Val::Plain(v) => v.shape(),
        Val::Live(l) => l.shape(),
    };
    let mut shapes = vec![None; plan.sources.len()];
    shapes[plan.from] = Some(shape(&input));
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
                (Some(slot), Some(value)) => {
                    shapes[*slot] = Some(shape(&value));
                    run.values[*slot] = Some(value);
                }
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
    if batch == ROWS {
        plan.shapes.get_or_init(|| shapes);
    }
    plan.counted.get_or_init(|| run.counts.iter().map(|n| (n / batch.max(1)).max(1)).collect());
    match output {
        Some(Val::Live(y)) => Ok(y.by_rows()),
        _ => Err(fail("its output was not computed".into())),
    }
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

/// An attribute that is a text.
pub(super) fn texts(step: &Step, name: &str) -> Option<Vec<String>> {
    match step.node.attributes.get(name) {
        Some(Attribute::Texts(t)) => Some(t.clone()),
        _ => None,
    }
}
