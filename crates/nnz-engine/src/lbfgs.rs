//! Limited-memory BFGS over flat vectors.

/// Options of [`lbfgs`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LbfgsOptions {
    /// Pairs of steps and gradient changes remembered.
    pub memory: usize,
    /// Most iterations.
    pub iterations: usize,
    /// Stops when no entry of the gradient is larger.
    pub tolerance: f64,
}

impl Default for LbfgsOptions {
    fn default() -> Self {
        Self { memory: 10, iterations: 200, tolerance: 1e-6 }
    }
}

/// A step and the change of the gradient over it.
pub(crate) struct Pair {
    step: Vec<f64>,
    change: Vec<f64>,
    /// Inverse of their inner product.
    rho: f64,
}

impl Pair {
    /// `None` unless the curvature along the step is positive.
    pub fn new(step: Vec<f64>, change: Vec<f64>) -> Option<Self> {
        let curvature = dot(&step, &change);
        (curvature > 0.0 && curvature.is_finite()).then(|| Self { step, change, rho: 1.0 / curvature })
    }
}

/// Where an iteration arrived.
pub(crate) struct Point {
    pub x: Vec<f64>,
    pub value: f64,
    pub gradient: Vec<f64>,
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn along(x: &[f64], t: f64, d: &[f64]) -> Vec<f64> {
    x.iter().zip(d).map(|(x, d)| x + t * d).collect()
}

/// One iteration from `x`: the two-loop recursion over `pairs`, oldest first, and a bisection for a step that meets the
/// weak Wolfe conditions. `None` when no step lowers the value.
pub(crate) fn iterate(
    x: &[f64],
    value: f64,
    gradient: &[f64],
    pairs: &[Pair],
    mut f: impl FnMut(&[f64]) -> (f64, Vec<f64>),
) -> Option<Point> {
    let mut d: Vec<f64> = gradient.iter().map(|g| -g).collect();
    let mut shares = Vec::with_capacity(pairs.len());
    for Pair { step, change, rho } in pairs.iter().rev() {
        let a = rho * dot(step, &d);
        d = along(&d, -a, change);
        shares.push(a);
    }
    if let Some(Pair { step, change, .. }) = pairs.last() {
        let scale = dot(step, change) / dot(change, change);
        d.iter_mut().for_each(|d| *d *= scale);
    }
    for (Pair { step, change, rho }, a) in pairs.iter().zip(shares.into_iter().rev()) {
        d = along(&d, a - rho * dot(change, &d), step);
    }
    let slope = dot(gradient, &d);
    let first = if pairs.is_empty() { 1.0 / dot(gradient, gradient).sqrt().max(1.0) } else { 1.0 };
    let (mut low, mut high, mut t) = (0.0, f64::INFINITY, first);
    let mut taken = None;
    for _ in 0..50 {
        let next = along(x, t, &d);
        let (v, g) = f(&next);
        // A value that is no number shortens the step too.
        let lower = v <= value + 1e-4 * t * slope;
        if !lower {
            high = t;
        } else {
            let steep = dot(&g, &d) < 0.9 * slope;
            taken = Some(Point { x: next, value: v, gradient: g });
            if !steep {
                break;
            }
            low = t;
        }
        t = if high.is_finite() { (low + high) / 2.0 } else { 2.0 * low };
    }
    taken
}

/// Minimizes a smooth `f` (its value and gradient) from `x` by limited-memory BFGS (Liu & Nocedal 1989). Returns the last
/// value and whether the tolerance was met.
pub fn lbfgs(x: &mut Vec<f64>, options: LbfgsOptions, mut f: impl FnMut(&[f64]) -> (f64, Vec<f64>)) -> (f64, bool) {
    let (mut value, mut gradient) = f(x);
    let mut pairs: Vec<Pair> = Vec::new();
    let flat = |g: &[f64]| g.iter().all(|g| g.abs() <= options.tolerance);
    for _ in 0..options.iterations {
        if flat(&gradient) {
            return (value, true);
        }
        let Some(next) = iterate(x, value, &gradient, &pairs, &mut f) else { return (value, false) };
        if let Some(pair) = Pair::new(along(&next.x, -1.0, x), along(&next.gradient, -1.0, &gradient)) {
            if pairs.len() == options.memory {
                pairs.remove(0);
            }
            pairs.push(pair);
        }
        (*x, value, gradient) = (next.x, next.value, next.gradient);
    }
    (value, flat(&gradient))
}
