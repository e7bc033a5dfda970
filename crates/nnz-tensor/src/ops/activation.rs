//! Elementwise functions. At a kink the derivative is that of the flat or left side, zero for |x|.

use super::*;
use crate::tape::{Backward, Quick};

/// An op `f(x)` with derivative `df(x)`; `composite` is the same function built from ops.
fn unary<T: Real>(
    op: &'static str,
    x: &Var<T>,
    f: impl Fn(T) -> T + Copy + Sync + Send,
    df: impl Fn(T) -> T + Copy + Send + Sync + 'static,
    composite: impl Fn(&Var<T>) -> Var<T> + Send + Sync + 'static,
) -> Var<T> {
    let at = x.value().clone();
    Var::fast(
        op,
        x.value().map(f),
        &[x],
        move |x| composite(&x[0]),
        || {
            Box::new(move |g| {
                vec![Some(g.combine(
                    &at,
                    #[inline(always)]
                    |g, x| g * df(x),
                ))]
            })
        },
    )
}

/// An op `f(x)` whose derivative `slope(x)` is constant between kinks.
fn piecewise<T: Real>(
    op: &'static str,
    x: &Var<T>,
    f: impl Fn(T) -> T + Copy + Sync + Send,
    slope: impl Fn(T) -> T + Copy + Sync + Send,
) -> Var<T> {
    let at = x.value().clone();
    Var::op(op, x.value().map(f), &[x], || {
        let slope = Var::constant(at.map(slope));
        Box::new(move |g| vec![Some(mul(g, &slope))])
    })
}

/// max(x, 0), and NaN of NaN; the derivative at zero is zero.
pub fn relu<T: Real>(a: &Var<T>) -> Var<T> {
    let value = a.value().map(move |x| if x <= T::ZERO { T::ZERO } else { x });
    let at = value.clone();
    Var::either("relu", value, &[a], || masked_by(at))
}

/// `a` where `at` is positive, zero elsewhere.
fn where_positive<T: Real>(a: &Var<T>, at: &Tensor<T>) -> Var<T> {
    let value = a.value().clone().reshape(at.shape()).combine(at, positive);
    Var::either("where_positive", value, &[a], || masked_by(at.clone()))
}

#[inline(always)]
fn positive<T: Real>(x: T, at: T) -> T {
    if at > T::ZERO { x } else { T::ZERO }
}

/// Backward of both.
fn masked_by<T: Real>(at: Tensor<T>) -> (Quick<T>, Backward<T>) {
    let same = at.clone();
    (
        Box::new(move |g| vec![Some(g.reshape(at.shape()).combine(&at, positive))]),
        Box::new(move |g| vec![Some(where_positive(g, &same))]),
    )
}

/// eˣ
pub fn exp<T: Real>(x: &Var<T>) -> Var<T> {
    let at = x.clone();
    Var::op(
        "exp",
        x.value().map(
            #[inline(always)]
            |x| x.quick_exp(),
        ),
        &[x],
        || Box::new(move |g| vec![Some(mul(g, &exp(&at)))]),
    )
}

/// ln x
pub fn log<T: Real>(x: &Var<T>) -> Var<T> {
    let at = x.clone();
    Var::op("log", x.value().map(move |x| x.ln()), &[x], || Box::new(move |g| vec![Some(div(g, &at))]))
}

/// √x
pub fn sqrt<T: Real>(x: &Var<T>) -> Var<T> {
    let at = x.clone();
    Var::op("sqrt", x.value().map(move |x| x.sqrt()), &[x], || {
        Box::new(move |g| vec![Some(scale(&div(g, &sqrt(&at)), 0.5))])
    })
}

/// xᵖ
pub fn pow<T: Real>(x: &Var<T>, p: f64) -> Var<T> {
    let at = x.clone();
    let whole = p.fract() == 0.0 && p.abs() < 1024.0;
    let power = move |x: T| if whole { x.powi(p as i32) } else { x.powf(T::of(p)) };
    // The derivative of x⁰ and x¹ must not meet 0 · ∞ at zero.
    let slope = move |x: &Var<T>| match p {
        0.0 => Var::constant(Tensor::zeros(x.shape())),
        1.0 => Var::constant(Tensor::full(x.shape(), T::ONE)),
        _ => scale(&pow(x, p - 1.0), p),
    };
    Var::op("pow", x.value().map(power), &[x], || Box::new(move |g| vec![Some(mul(g, &slope(&at)))]))
}

/// |x|, with derivative zero at zero.
pub fn abs<T: Real>(x: &Var<T>) -> Var<T> {
    piecewise("abs", x, |x| x.abs(), |x| if x == T::ZERO { x } else { x.signum() })
}

/// tanh x
pub fn tanh<T: Real>(x: &Var<T>) -> Var<T> {
    let at = x.clone();
    let value = x.value().map(
        #[inline(always)]
        |x| x.quick_tanh(),
    );
    Var::op("tanh", value, &[x], || Box::new(move |g| vec![Some(mul(g, &shift(&neg(&square(&tanh(&at))), 1.0)))]))
}

#[inline(always)]
fn logistic<T: Real>(x: T) -> T {
    // The exponential of a negative number never overflows.
    let e = (-x.abs()).quick_exp();
    (if x >= T::ZERO { T::ONE } else { e }) / (T::ONE + e)
}

/// 1 / (1 + e⁻ˣ)
pub fn sigmoid<T: Real>(x: &Var<T>) -> Var<T> {
    let at = x.clone();
    Var::op("sigmoid", x.value().map(logistic), &[x], || {
        Box::new(move |g| {
            let s = sigmoid(&at);
            vec![Some(mul(g, &sub(&s, &square(&s))))]
        })
    })
}

/// ln(1 + eˣ)
pub fn softplus<T: Real>(x: &Var<T>) -> Var<T> {
    let at = x.clone();
    let f = move |x: T| (if x > T::ZERO { x } else { T::ZERO }) + (-x.abs()).exp().ln_1p();
    Var::op("softplus", x.value().map(f), &[x], || Box::new(move |g| vec![Some(mul(g, &sigmoid(&at)))]))
}

#[inline(always)]
fn normal_cdf<T: Real>(x: T) -> T {
    T::of(0.5) + T::of(0.5) * (x * T::of(std::f64::consts::FRAC_1_SQRT_2)).quick_erf()
}

const NORMAL: f64 = 0.398_942_280_401_432_7; // 1 / √(2π)

#[inline(always)]
fn normal_pdf<T: Real>(x: T) -> T {
    T::of(NORMAL) * (-(x * x) * T::of(0.5)).quick_exp()
}

/// The distribution function of a standard normal number.
pub fn cdf<T: Real>(x: &Var<T>) -> Var<T> {
    let at = x.clone();
    Var::op("cdf", x.value().map(normal_cdf), &[x], || {
        Box::new(move |g| vec![Some(mul(g, &scale(&exp(&scale(&square(&at), -0.5)), NORMAL)))])
    })
}

/// x Φ(x), the exact GELU (Hendrycks & Gimpel 2016, arXiv:1606.08415).
pub fn gelu<T: Real>(x: &Var<T>) -> Var<T> {
    unary(
        "gelu",
        x,
        #[inline(always)]
        |x| x * normal_cdf(x),
        #[inline(always)]
        |x| normal_cdf(x) + x * normal_pdf(x),
        |x| mul(x, &cdf(x)),
    )
}

/// GELU's approximation x/2 (1 + tanh(√(2/π) (x + 0.044715 x³))).
pub fn gelu_tanh<T: Real>(x: &Var<T>) -> Var<T> {
    let c = (2.0 / std::f64::consts::PI).sqrt();
    let (half, c1, c3) = (T::of(0.5), T::of(c), T::of(0.044715));
    unary(
        "gelu_tanh",
        x,
        #[inline(always)]
        move |x| half * x * (T::ONE + (c1 * (x + c3 * x * x * x)).quick_tanh()),
        #[inline(always)]
        move |x| {
            let t = (c1 * (x + c3 * x * x * x)).quick_tanh();
            half * (T::ONE + t) + half * x * (T::ONE - t * t) * c1 * (T::ONE + T::of(3.0) * c3 * x * x)
        },
        move |x| {
            let u = scale(&add(x, &scale(&pow(x, 3.0), 0.044715)), c);
            scale(&mul(x, &shift(&tanh(&u), 1.0)), 0.5)
        },
    )
}

/// x σ(x)
pub fn silu<T: Real>(x: &Var<T>) -> Var<T> {
    unary(
        "silu",
        x,
        #[inline(always)]
        |x| x * logistic(x),
        #[inline(always)]
        |x| {
            let s = logistic(x);
            s * (T::ONE + x * (T::ONE - s))
        },
        |x| mul(x, &sigmoid(x)),
    )
}

/// x, or `slope` x below zero.
pub fn leaky_relu<T: Real>(x: &Var<T>, slope: f64) -> Var<T> {
    let factor = move |x: T| if x > T::ZERO { T::ONE } else { T::of(slope) };
    piecewise("leaky_relu", x, |x| x * factor(x), factor)
}

/// x, or `alpha` (eˣ - 1) below zero.
pub fn elu<T: Real>(x: &Var<T>, alpha: f64) -> Var<T> {
    let a = T::of(alpha);
    let f = move |x: T| if x > T::ZERO { x } else { a * x.exp_m1() };
    let slope = move |x: T| if x > T::ZERO { T::ONE } else { a * x.quick_exp() };
    unary("elu", x, f, slope, move |x| {
        let below = clamp(x, f64::NEG_INFINITY, 0.0);
        add(&relu(x), &scale(&shift(&exp(&below), -1.0), alpha))
    })
}

/// x clamped to `[low, high]`; the derivative outside is zero, on the border one.
pub fn clamp<T: Real>(x: &Var<T>, low: f64, high: f64) -> Var<T> {
    let (low, high) = (T::of(low), T::of(high));
    let inside = move |x: T| if x < low || x > high { T::ZERO } else { T::ONE };
    piecewise(
        "clamp",
        x,
        |x| {
            if x < low {
                low
            } else if x > high {
                high
            } else {
                x
            }
        },
        inside,
    )
}

/// x clamped to `[0, 6]`, flat on the border.
pub fn relu6<T: Real>(x: &Var<T>) -> Var<T> {
    let six = T::of(6.0);
    let inside = move |x: T| if x > T::ZERO && x < six { T::ONE } else { T::ZERO };
    piecewise(
        "relu6",
        x,
        |x| {
            if x < T::ZERO {
                T::ZERO
            } else if x > six {
                six
            } else {
                x
            }
        },
        inside,
    )
}

/// x relu6(x + 3) / 6 (Howard et al. 2019, arXiv:1905.02244).
pub fn hardswish<T: Real>(x: &Var<T>) -> Var<T> {
    scale(&mul(x, &relu6(&shift(x, 3.0))), 1.0 / 6.0)
}

/// Zeroes each entry with probability `p`, divides the rest by 1 - p. The same `rng` gives the same zeros.
///
/// # Panics
/// When `p` is not in `[0, 1)`.
pub fn dropout<T: Real>(x: &Var<T>, p: f64, mut rng: nnz_core::Rng) -> Var<T> {
    assert!((0.0..1.0).contains(&p), "a share {p} to drop");
    let keep = T::of(1.0 / (1.0 - p));
    let mask = (0..x.value().len()).map(|_| if rng.unit64() < p { T::ZERO } else { keep }).collect();
    mul(x, &Var::constant(Tensor::new(x.shape(), mask)))
}
