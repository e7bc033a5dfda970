use super::{Context, Fit, Layer, LayerSpec, describe};
use crate::Real;
use crate::ops::{self, Window};
use crate::{Result, Var};
use serde::{Deserialize, Serialize};

fn pooled(window: Window, input: &[usize]) -> Fit<Vec<usize>> {
    let size = window.kernel[0];
    match *input {
        // Then every window covers a pixel, and a header cannot ask for more pixels than there are.
        [h, w, c] if (1..=h.min(w)).contains(&size) && window.padding[0] <= size / 2 && window.fits([h, w]) => {
            let [oh, ow] = window.output([h, w]);
            Ok(vec![oh, ow, c])
        }
        _ => Err(format!("a window of {size} with padding {} cannot take {}", window.padding[0], describe(input))),
    }
}

fn window(size: usize, stride: Option<usize>, padding: usize) -> Window {
    Window::new([size; 2]).stride([stride.unwrap_or(size); 2]).padding([padding; 2])
}

/// Largest value in every window; a remainder at the right and lower edge is dropped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MaxPool {
    /// Window height and width.
    pub size: usize,
    /// Step; by default the window's size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stride: Option<usize>,
    /// Pixels around the image that never win.
    #[serde(default)]
    pub padding: usize,
}

/// Mean of every window, padding counted as zeros.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AvgPool {
    /// Window height and width.
    pub size: usize,
    /// Step; by default the window's size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stride: Option<usize>,
    /// Zeros around the image.
    #[serde(default)]
    pub padding: usize,
}

impl Layer for MaxPool {
    fn output(&self, input: &[usize]) -> Fit<Vec<usize>> {
        pooled(window(self.size, self.stride, self.padding), input)
    }

    fn forward<T: Real>(&self, x: &Var<T>, _: &mut Context<'_, T>) -> Result<Var<T>> {
        Ok(ops::max_pool(x, window(self.size, self.stride, self.padding)))
    }

    fn resized(&self, _: &[usize], _: &dyn Fn(usize) -> usize, _: bool) -> LayerSpec {
        self.clone().into()
    }
}

impl Layer for AvgPool {
    fn output(&self, input: &[usize]) -> Fit<Vec<usize>> {
        pooled(window(self.size, self.stride, self.padding), input)
    }

    fn forward<T: Real>(&self, x: &Var<T>, _: &mut Context<'_, T>) -> Result<Var<T>> {
        Ok(ops::avg_pool(x, window(self.size, self.stride, self.padding)))
    }

    fn resized(&self, _: &[usize], _: &dyn Fn(usize) -> usize, _: bool) -> LayerSpec {
        self.clone().into()
    }
}

/// Mean over all pixels of an image, or all positions of a sequence.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GlobalAvgPool {}

impl Layer for GlobalAvgPool {
    fn output(&self, input: &[usize]) -> Fit<Vec<usize>> {
        match *input {
            [.., c] if input.len() > 1 => Ok(vec![c]),
            _ => Err(format!("no pixels or positions in {}", describe(input))),
        }
    }

    fn forward<T: Real>(&self, x: &Var<T>, _: &mut Context<'_, T>) -> Result<Var<T>> {
        Ok(ops::global_avg_pool(x))
    }

    fn resized(&self, _: &[usize], _: &dyn Fn(usize) -> usize, _: bool) -> LayerSpec {
        self.clone().into()
    }
}
