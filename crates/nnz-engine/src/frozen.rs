use crate::Real;
use crate::layers::LayerSpec;
use crate::{Layout, Model, Result, Tensor, Var};
use nnz_kernels::threads::filled;
use nnz_kernels::{Blocked, Csr, Dense, Operator, Single, Start, TILE, Tiled, gemm};
use std::sync::OnceLock;

/// Most rows for which processing single samples is faster than tiles of eight.
const FEW: usize = 2;

/// A network for inference. A perceptron computes up to 64 rows from layouts made for one or two and for eight
/// at once, several times faster than [`Model::infer`]; all other cases use that.
#[derive(Debug)]
pub struct Frozen<T: Real> {
    model: Model<T>,
    steps: Option<Vec<Step<T>>>,
}

/// A layer and the function after it.
#[derive(Debug)]
struct Step<T: Real> {
    /// Index of its weight.
    weight: usize,
    bias: Option<usize>,
    then: Then<T>,
    one: OnceLock<One<T>>,
    many: OnceLock<Many<T>>,
}

#[derive(Debug)]
enum Then<T> {
    Linear,
    Relu,
    Map(fn(&Var<T>) -> Var<T>),
}

#[derive(Debug)]
enum One<T> {
    Sparse(Single<T>),
    Dense,
}

#[derive(Debug)]
enum Many<T> {
    Sparse(Blocked<T>),
    Dense(Dense<T>),
}

impl<T: Real> Frozen<T> {
    /// O(layers); layouts are made when a batch of their size first arrives.
    pub fn new(model: Model<T>) -> Self {
        let steps = steps(&model);
        Self { model, steps }
    }

    /// The network.
    pub fn model(&self) -> &Model<T> {
        &self.model
    }

    pub(crate) fn infer_generic(&self, input: Tensor<T>) -> Result<Tensor<T>> {
        let (batch, features) = input.rows_cols();
        let fits = features == self.model.spec.input.iter().product::<usize>();
        match &self.steps {
            Some(steps) if fits && (1..=FEW).contains(&batch) => Ok(self.one(steps, batch, input)),
            Some(steps) if fits && (1..=TILE).contains(&batch) => Ok(self.many(steps, batch, &input)),
            _ => self.model.infer_generic(input),
        }
    }

    fn bias(&self, step: &Step<T>) -> Option<&[T]> {
        step.bias.map(|i| self.model.params[i].value.data())
    }

    /// Computes sample by sample.
    fn one(&self, steps: &[Step<T>], batch: usize, mut x: Tensor<T>) -> Tensor<T> {
        for step in steps {
            let (weight, bias) = (&self.model.params[step.weight], self.bias(step));
            let (out, inputs) = (weight.shape.rows, weight.shape.cols);
            let kernel = filled(&step.one, || match &weight.layout {
                Layout::Sparse(_) => One::Sparse(self.sparse(step, Single::new)),
                _ => One::Dense,
            });
            x = Tensor::written(&[batch, out], |y| match kernel {
                One::Sparse(w) => w.apply(batch, x.data(), bias, y),
                One::Dense => {
                    let (w, start) = (weight.value.data(), bias.map_or(Start::Zero, Start::Bias));
                    gemm(batch, out, inputs, x.data(), (inputs, 1), w, (1, inputs), start, y, out);
                }
            });
            match step.then {
                Then::Linear => {}
                Then::Relu => x.data_mut().iter_mut().for_each(|v| *v = v.max(T::ZERO)),
                Then::Map(f) => x = f(&Var::constant(x)).value().clone(),
            }
        }
        x
    }

    /// Computes all samples in one tile.
    fn many(&self, steps: &[Step<T>], batch: usize, x: &Tensor<T>) -> Tensor<T> {
        let mut x = Tiled::from_rows(batch, x.rows_cols().1, x.data());
        for step in steps {
            let (weight, bias) = (&self.model.params[step.weight], self.bias(step));
            let kernel = filled(&step.many, || match &weight.layout {
                Layout::Sparse(_) => Many::Sparse(self.sparse(step, Blocked::new)),
                _ => Many::Dense(Dense::whole(weight.shape.rows, weight.shape.cols, weight.value.data())),
            });
            let relu = matches!(step.then, Then::Relu);
            let mut y = Tiled::any(batch, weight.shape.rows);
            match kernel {
                Many::Sparse(w) => w.forward(&x, bias, relu, &mut y),
                Many::Dense(w) => {
                    w.forward(&x, bias, &mut y);
                    if relu {
                        y.as_mut_slice().iter_mut().for_each(|v| *v = v.max(T::ZERO));
                    }
                }
            }
            if let Then::Map(f) = step.then {
                let all = Tensor::written(&[y.as_slice().len()], |to| to.copy_from_slice(y.as_slice()));
                y.as_mut_slice().copy_from_slice(f(&Var::constant(all)).value().data());
            }
            x = y;
        }
        Tensor::written(&[batch, x.features()], |rows| x.to_rows(rows))
    }

    /// Converts a layer's connections and values to another layout.
    fn sparse<L>(&self, step: &Step<T>, make: impl Fn(Csr, &[T]) -> L) -> L {
        let weight = &self.model.params[step.weight];
        let rows = weight.by_rows();
        let t = &rows.topology;
        let csr = Csr { rows: t.rows(), cols: t.cols(), starts: t.starts(), columns: t.columns() };
        make(csr, &rows.of(&weight.value))
    }
}

/// The layers of a perceptron; `None` if there is any other layer.
fn steps<T: Real>(model: &Model<T>) -> Option<Vec<Step<T>>> {
    let mut next = 0..model.params.len();
    let mut steps: Vec<Step<T>> = Vec::new();
    for layer in &model.spec.layers {
        let then = match layer {
            LayerSpec::Linear(linear) => {
                let weight = next.next()?;
                let bias = if linear.bias { Some(next.next()?) } else { None };
                let (one, many) = (OnceLock::new(), OnceLock::new());
                steps.push(Step { weight, bias, then: Then::Linear, one, many });
                continue;
            }
            LayerSpec::Relu(_) => Then::Relu,
            LayerSpec::Activation(a) => Then::Map(a.function.op()),
            // These matter only in training.
            LayerSpec::Flatten(_) | LayerSpec::Dropout(_) => continue,
            _ => return None,
        };
        let last = steps.last_mut()?;
        if !matches!(last.then, Then::Linear) {
            return None;
        }
        last.then = then;
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
        for batch in [1, 2, 3, 8, 20, 70] {
            let x = Tensor::new(&[batch, 16], (0..batch * 16).map(|i| (i * 37 % 19) as f64 - 9.0).collect());
            let (got, want) = (frozen.infer(x.clone()).unwrap(), model.infer(x).unwrap());
            assert_eq!(got.shape(), want.shape());
            got.data().iter().zip(want.data()).for_each(|(a, b)| assert!((a - b).abs() < 1e-12, "{a} for {b}"));
        }
        assert!(frozen.infer(Tensor::zeros(&[1, 15])).is_err());
    }
}
