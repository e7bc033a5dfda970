use crate::layers::LayerSpec;
use crate::{Layout, Model, Result, Tensor, Var};
use nnz_kernels::{Csr, Real, Sliced, Start, gemm};

/// Most rows for which single samples are faster than tiles of sixteen.
const FEW: usize = 2;

/// A network whose values no longer change. A perceptron answers one or two rows from a layout made for them, several times
/// faster than [`Model::infer`]; everything else goes there.
#[derive(Clone, Debug)]
pub struct Frozen<T> {
    model: Model<T>,
    steps: Option<Vec<Step<T>>>,
}

#[derive(Clone, Debug)]
enum Step<T> {
    Sparse(Sliced<T>, Option<Tensor<T>>),
    /// Row-major `[out, in]`.
    Dense(Tensor<T>, Option<Tensor<T>>),
    Relu,
    Map(fn(&Var<T>) -> Var<T>),
}

impl<T: Real> Frozen<T> {
    /// Compiles `model`; O(its values).
    pub fn new(model: Model<T>) -> Self {
        let steps = steps(&model);
        Self { model, steps }
    }

    /// The network.
    pub fn model(&self) -> &Model<T> {
        &self.model
    }

    /// Output of inputs `[batch, ..]`. Refuses what [`Model::infer`] refuses.
    pub fn infer(&self, input: Tensor<T>) -> Result<Tensor<T>> {
        let (batch, features) = input.rows_cols();
        let fits = features == self.model.spec.input.iter().product::<usize>();
        let Some(steps) = self.steps.as_ref().filter(|_| fits && (1..=FEW).contains(&batch)) else {
            return self.model.infer(input);
        };
        let mut x = input;
        for step in steps {
            x = match step {
                Step::Sparse(w, b) => Tensor::written(&[batch, w.rows()], |y| {
                    w.apply(batch, x.data(), b.as_ref().map(Tensor::data), y);
                }),
                Step::Dense(w, b) => {
                    let (out, inputs) = w.rows_cols();
                    let start = b.as_ref().map_or(Start::Zero, |b| Start::Bias(b.data()));
                    Tensor::written(&[batch, out], |y| {
                        gemm(batch, out, inputs, x.data(), (inputs, 1), w.data(), (1, inputs), start, y, out);
                    })
                }
                Step::Relu => {
                    x.data_mut().iter_mut().for_each(|v| *v = if *v > T::ZERO { *v } else { T::ZERO });
                    x
                }
                Step::Map(f) => f(&Var::constant(x)).value().clone(),
            };
        }
        Ok(x)
    }
}

/// The layers of a perceptron; none when another layer is among them.
fn steps<T: Real>(model: &Model<T>) -> Option<Vec<Step<T>>> {
    let mut params = model.params.iter();
    let mut steps = Vec::new();
    for layer in &model.spec.layers {
        match layer {
            LayerSpec::Linear(linear) => {
                let weight = params.next()?;
                let bias = if linear.bias { Some(params.next()?.value.clone()) } else { None };
                steps.push(match &weight.layout {
                    Layout::Sparse(_) => {
                        let rows = weight.by_rows();
                        let (t, values) = (&rows.topology, rows.of(&weight.value));
                        let csr = Csr { rows: t.rows(), cols: t.cols(), starts: t.starts(), columns: t.columns() };
                        Step::Sparse(Sliced::new(csr, &values), bias)
                    }
                    _ => Step::Dense(weight.value.clone(), bias),
                });
            }
            LayerSpec::Relu(_) => steps.push(Step::Relu),
            LayerSpec::Activation(a) => steps.push(Step::Map(a.function.op())),
            // Nothing but training sees these.
            LayerSpec::Flatten(_) | LayerSpec::Dropout(_) => {}
            _ => return None,
        }
    }
    Some(steps)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ModelSpec, Storage};
    use nnz_core::Topology;

    #[test]
    fn one_sample_and_many_get_the_answers_of_the_model() {
        let spec = ModelSpec::parse("mlp:16-12-6-3", [1, 4, 4], 3).unwrap();
        let births = vec![
            Topology::from_positions(12, 16, (0..192).filter(|p| p % 5 == 0)),
            Topology::from_positions(6, 12, (0..72).filter(|p| p % 7 == 0)),
        ];
        let model: Model<f64> = Model::born(&spec, Some(births), Storage::Sparse, false, 0).unwrap();
        let frozen = Frozen::new(model.clone());
        assert!(frozen.steps.is_some());
        for batch in [1, 2, 3, 70] {
            let x = Tensor::new(&[batch, 16], (0..batch * 16).map(|i| (i * 37 % 19) as f64 - 9.0).collect());
            let (got, want) = (frozen.infer(x.clone()).unwrap(), model.infer(x).unwrap());
            assert_eq!(got.shape(), want.shape());
            got.data().iter().zip(want.data()).for_each(|(a, b)| assert!((a - b).abs() < 1e-12, "{a} for {b}"));
        }
        assert!(frozen.infer(Tensor::zeros(&[1, 15])).is_err());
    }
}
