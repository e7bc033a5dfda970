use super::{Context, Fit, Init, Layer, LayerSpec, ParamSpec, describe};
use crate::Real;
use crate::{Result, Tensor, Var, ops};
use nnz_core::LayerRole;
use serde::{Deserialize, Serialize};

/// The step of a recurrent layer; see [`crate::ops`] for their equations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cell {
    /// tanh of input and state.
    Rnn,
    /// Gated recurrent unit.
    Gru,
    /// Long short-term memory.
    Lstm,
    /// Closed-form continuous-time cell.
    Cfc,
}

/// A state carried along a sequence: `[length, inputs]` to the states `[length, outputs]`. Its matrices are
/// `NAME.input.weight`, `[gates · outputs, inputs]`, for all positions at once, and `NAME.state.weight`,
/// `[gates · outputs, outputs]`. The state starts at zero, or where a [`crate::Cache`] left off.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recurrent {
    /// Name of its parameters.
    pub name: String,
    /// Its step.
    pub cell: Cell,
    /// Inputs per position.
    pub inputs: usize,
    /// Extent of the state.
    pub outputs: usize,
    /// For `cfc`: whether each position has one more number, the time since the previous position; it is 1 otherwise.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub elapsed: bool,
}

impl Recurrent {
    /// A cell without times.
    pub fn new(name: &str, cell: Cell, inputs: usize, outputs: usize) -> Self {
        Self { name: name.into(), cell, inputs, outputs, elapsed: false }
    }

    fn gates(&self) -> usize {
        match self.cell {
            Cell::Rnn => 1,
            Cell::Gru => 3,
            Cell::Lstm | Cell::Cfc => 4,
        }
    }

    fn width(&self) -> usize {
        self.inputs.saturating_add(self.elapsed.into())
    }
}

impl Layer for Recurrent {
    fn name(&self) -> Option<&str> {
        Some(&self.name)
    }

    fn params(&self) -> Vec<ParamSpec> {
        let rows = self.outputs.saturating_mul(self.gates());
        let (input, state) = (format!("{}.input", self.name), format!("{}.state", self.name));
        let mut params = vec![
            ParamSpec::weight(&input, rows, self.inputs, [1, 1], Init::Lecun).acting(LayerRole::Recurrent),
            ParamSpec::vector(&input, "bias", rows, Init::Zero),
            ParamSpec::weight(&state, rows, self.outputs, [1, 1], Init::Lecun).acting(LayerRole::Recurrent),
        ];
        // Only here does it differ from the other bias: it lies inside a product.
        params.extend((self.cell == Cell::Gru).then(|| ParamSpec::vector(&state, "bias", rows, Init::Zero)));
        params
    }

    fn output(&self, input: &[usize]) -> Fit<Vec<usize>> {
        if self.elapsed && self.cell != Cell::Cfc {
            return Err(format!("{} asks for times, which only a cfc cell uses", self.name));
        }
        match *input {
            [t, n] if t > 0 && n == self.width() && self.outputs > 0 => Ok(vec![t, self.outputs]),
            _ => Err(format!("{} takes positions of {} numbers but gets {}", self.name, self.width(), describe(input))),
        }
    }

    fn forward<T: Real>(&self, x: &Var<T>, cx: &mut Context<'_, T>) -> Result<Var<T>> {
        let (batch, t, hidden) = (x.shape()[0], x.shape()[1], self.outputs);
        let positions = |x: &Var<T>, axis: usize| ops::split(x, axis, &vec![1; t]);
        let (features, times) = match self.elapsed {
            true => {
                let times = ops::reshape(&ops::slice(x, 2, self.inputs..self.inputs + 1), &[batch, t]);
                (ops::slice(x, 2, 0..self.inputs), positions(&times, 1))
            }
            false => (x.clone(), vec![Var::constant(Tensor::full(&[batch, 1], T::ONE)); t]),
        };
        let first = cx.position();
        let from_input = positions(&cx.linear(&features, true), 1);
        let weight = cx.repeated(self.cell == Cell::Gru);
        let rest = || Var::constant(Tensor::zeros(&[batch, hidden]));
        let mut kept = cx.state(first).unwrap_or_default().into_iter().map(Var::constant);
        let (mut h, mut c) = (kept.next().unwrap_or_else(rest), kept.next().unwrap_or_else(rest));
        let mut states = Vec::with_capacity(t);
        for (pre, time) in from_input.iter().zip(&times) {
            let pre = ops::reshape(pre, &[batch, hidden * self.gates()]);
            let from_state = cx.again(&weight, &h);
            match self.cell {
                Cell::Rnn => h = ops::rnn_cell(&ops::add(&pre, &from_state)),
                Cell::Gru => h = ops::gru_cell(&pre, &from_state, &h),
                Cell::Lstm => (h, c) = ops::lstm_cell(&ops::add(&pre, &from_state), &c),
                Cell::Cfc => h = ops::cfc_cell(&ops::add(&pre, &from_state), time),
            }
            states.push(h.clone());
        }
        cx.keep(first, || vec![h.value().clone(), c.value().clone()]);
        Ok(ops::stack(&states.iter().collect::<Vec<_>>(), 1))
    }

    fn causal(&self, _: &[usize]) -> bool {
        true
    }

    fn resized(&self, input: &[usize], width: &dyn Fn(usize) -> usize, _: bool) -> LayerSpec {
        let inputs = input.last().map_or(self.inputs, |n| n.saturating_sub(self.elapsed.into()));
        Self { inputs, outputs: width(self.outputs), ..self.clone() }.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Model, ModelSpec, Storage};

    /// One unit, one input, weights set by hand: every cell against its equations, written out again on numbers.
    #[test]
    fn cells_follow_their_formulas_along_a_sequence() {
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let (xs, times) = ([0.5, -1.0, 2.0], [0.3, 1.0, 2.5]);
        for cell in [Cell::Rnn, Cell::Gru, Cell::Lstm, Cell::Cfc] {
            let layer = Recurrent { elapsed: cell == Cell::Cfc, ..Recurrent::new("r", cell, 1, 1) };
            let channels = layer.width();
            let layers = vec![crate::layers::Tokens {}.into(), layer.clone().into()];
            let spec = ModelSpec { name: "x".into(), input: [channels, 1, 3], layers };
            assert_eq!(spec.output().unwrap(), [3, 1]);
            let mut model: Model<f64> = Model::born(&spec, None, Storage::Auto, false, 0).unwrap();
            for (p, param) in model.params.iter_mut().enumerate() {
                let values = param.value.data_mut().iter_mut().enumerate();
                values.for_each(|(i, v)| *v = 0.3 * (p as f64 + 1.0) - 0.25 * i as f64);
            }
            let at = |p: usize, i: usize| 0.3 * (p as f64 + 1.0) - 0.25 * i as f64;
            let (mut h, mut c, mut want) = (0.0, 0.0, Vec::new());
            for (x, time) in xs.into_iter().zip(times) {
                let (a, s) = (|i| at(0, i) * x + at(1, i), |i| at(2, i) * h);
                let pre = |i| a(i) + s(i);
                match cell {
                    Cell::Rnn => h = f64::tanh(pre(0)),
                    Cell::Gru => {
                        let (r, z) = (sigmoid(pre(0) + at(3, 0)), sigmoid(pre(1) + at(3, 1)));
                        let n = f64::tanh(a(2) + r * (s(2) + at(3, 2)));
                        h = (1.0 - z) * n + z * h;
                    }
                    Cell::Lstm => {
                        c = sigmoid(pre(1)) * c + sigmoid(pre(0)) * f64::tanh(pre(2));
                        h = sigmoid(pre(3)) * f64::tanh(c);
                    }
                    Cell::Cfc => {
                        let s = sigmoid(pre(2) * time + pre(3));
                        h = (1.0 - s) * f64::tanh(pre(0)) + s * f64::tanh(pre(1));
                    }
                }
                want.push(h);
            }
            let input: Vec<f64> = match layer.elapsed {
                true => xs.into_iter().zip(times).flat_map(|(x, t)| [x, t]).collect(),
                false => xs.to_vec(),
            };
            let got = model.infer(Tensor::new(&[1, 3 * channels], input)).unwrap();
            let off = got.data().iter().zip(&want).map(|(g, w)| (g - w).abs()).fold(0.0, f64::max);
            assert!(off < 1e-14, "{cell:?}: {:?} is not {want:?}", got.data());
        }
        let late = Recurrent { elapsed: true, ..Recurrent::new("r", Cell::Gru, 1, 1) };
        assert!(late.output(&[3, 2]).unwrap_err().contains("cfc"));
        assert!(Recurrent::new("r", Cell::Gru, 2, 1).output(&[3, 3]).unwrap_err().contains("2 numbers"));
    }
}
