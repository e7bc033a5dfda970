use super::{Context, Fit, Layer, LayerSpec, describe};
use crate::Real;
use crate::{Result, Var, ops};
use serde::{Deserialize, Serialize};

/// Everything but the batch folded into one axis.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flatten {}

impl Layer for Flatten {
    fn output(&self, input: &[usize]) -> Fit<Vec<usize>> {
        Ok(vec![input.iter().fold(1, |n: usize, &s| n.saturating_mul(s))])
    }

    fn forward<T: Real>(&self, x: &Var<T>, _: &mut Context<'_, T>) -> Result<Var<T>> {
        let width = x.shape()[1..].iter().product();
        Ok(ops::reshape(x, &[x.shape()[0], width]))
    }

    /// Causal for single numbers along one axis.
    fn causal(&self, input: &[usize]) -> bool {
        matches!(*input, [1, _, 1])
    }

    fn resized(&self, _: &[usize], _: &dyn Fn(usize) -> usize, _: bool) -> LayerSpec {
        self.clone().into()
    }
}

/// The pixels of `[height, width, channels]` as a sequence `[height · width, channels]`, row by row.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tokens {}

impl Layer for Tokens {
    fn output(&self, input: &[usize]) -> Fit<Vec<usize>> {
        match *input {
            [h, w, c] => Ok(vec![h.saturating_mul(w), c]),
            _ => Err(format!("tokens are made of pictures, not of {}", describe(input))),
        }
    }

    fn forward<T: Real>(&self, x: &Var<T>, _: &mut Context<'_, T>) -> Result<Var<T>> {
        let s = x.shape();
        Ok(ops::reshape(x, &[s[0], s[1] * s[2], s[3]]))
    }

    /// Causal for images of one line.
    fn causal(&self, input: &[usize]) -> bool {
        matches!(*input, [1, _, _])
    }

    fn resized(&self, _: &[usize], _: &dyn Fn(usize) -> usize, _: bool) -> LayerSpec {
        self.clone().into()
    }
}

/// The last position of a sequence.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Last {}

impl Layer for Last {
    fn output(&self, input: &[usize]) -> Fit<Vec<usize>> {
        match *input {
            [t, n] if t > 0 => Ok(vec![n]),
            _ => Err(format!("no last position in {}", describe(input))),
        }
    }

    fn forward<T: Real>(&self, x: &Var<T>, _: &mut Context<'_, T>) -> Result<Var<T>> {
        let (batch, t, n) = (x.shape()[0], x.shape()[1], x.shape()[2]);
        Ok(ops::reshape(&ops::slice(x, 1, t - 1..t), &[batch, n]))
    }

    fn causal(&self, _: &[usize]) -> bool {
        true
    }

    fn resized(&self, _: &[usize], _: &dyn Fn(usize) -> usize, _: bool) -> LayerSpec {
        self.clone().into()
    }
}

/// The same numbers under another shape, without the batch: `[height, width, channels]` of an image, `[length, width]` of
/// a sequence, four extents of a volume.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reshape {
    /// Extents, outermost first.
    pub shape: Vec<usize>,
}

impl Reshape {
    /// Product of all extents but the last.
    pub(crate) fn lead(&self) -> usize {
        let lead = self.shape.len().saturating_sub(1);
        self.shape[..lead].iter().fold(1, |n: usize, &s| n.saturating_mul(s)).max(1)
    }
}

impl Layer for Reshape {
    fn output(&self, input: &[usize]) -> Fit<Vec<usize>> {
        let count = |s: &[usize]| s.iter().try_fold(1usize, |n, &s| n.checked_mul(s)).filter(|&n| n > 0);
        match count(&self.shape).is_some_and(|n| count(input) == Some(n)) {
            true => Ok(self.shape.clone()),
            false => Err(format!("{} do not fill a shape {:?}", describe(input), self.shape)),
        }
    }

    fn forward<T: Real>(&self, x: &Var<T>, _: &mut Context<'_, T>) -> Result<Var<T>> {
        Ok(ops::reshape(x, &[&x.shape()[..1], &self.shape].concat()))
    }

    /// The last extent absorbs the change.
    fn resized(&self, input: &[usize], _: &dyn Fn(usize) -> usize, _: bool) -> LayerSpec {
        let mut shape = self.shape.clone();
        let all = input.iter().fold(1, |n: usize, &s| n.saturating_mul(s));
        if let Some((last, lead)) = shape.split_last_mut() {
            *last = all / lead.iter().product::<usize>().max(1);
        }
        Self { shape }.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_that_hold_other_numbers_are_refused() {
        let shape = |shape: &[usize], input: &[usize]| Reshape { shape: shape.to_vec() }.output(input);
        assert_eq!(shape(&[2, 3, 4], &[24]).unwrap(), [2, 3, 4]);
        for bad in [&[2, 3][..], &[], &[usize::MAX, 2], &[0, 24]] {
            assert!(shape(bad, &[24]).unwrap_err().contains("24 numbers"));
        }
        let narrow = Reshape { shape: vec![2, 3, 4] }.resized(&[12], &|n| n, false);
        assert_eq!(narrow.output(&[12]).unwrap(), [2, 3, 2]);
    }
}
