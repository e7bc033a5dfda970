//! Resizing, axis by axis, with coordinates in 32 bits as in ONNX Runtime: they decide how ties are rounded.

use super::{Cx, Done, Given, axis, one};
use crate::value::Value;

/// Input positions for one output position, and their weights; `None` for one that lies outside.
pub(crate) type Taps = Option<Vec<(usize, f32)>>;

/// The new shape, the axes that change with the taps of their positions, and what lies outside.
pub(crate) type Resizing = (Vec<usize>, Vec<(usize, Vec<Taps>)>, f32);

/// Keys' cubic.
pub(super) fn cubic(a: f32, x: f32) -> f32 {
    match x.abs() {
        x if x <= 1.0 => ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0,
        x if x < 2.0 => ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a,
        _ => 0.0,
    }
}

/// Mapping of output positions to an axis.
struct Axis<'a> {
    from: usize,
    to: usize,
    scale: f32,
    /// Extent of the output before it was cut to a whole number.
    full: f32,
    mode: &'a str,
    /// Visible part of the axis, for `tf_crop_and_resize`.
    part: [f32; 2],
}

impl Axis<'_> {
    fn at(&self, i: usize) -> Done<f32> {
        let (i, n, m) = (i as f32, self.from as f32, self.to as f32);
        Ok(match self.mode {
            "asymmetric" => i / self.scale,
            "half_pixel" => (i + 0.5) / self.scale - 0.5,
            "half_pixel_symmetric" => {
                let share = m / (self.scale * n);
                n / 2.0 * (1.0 - share) + (i + 0.5) / self.scale - 0.5
            }
            "pytorch_half_pixel" if self.to <= 1 => 0.0,
            "pytorch_half_pixel" => (i + 0.5) / self.scale - 0.5,
            "align_corners" if self.to <= 1 => 0.0,
            "align_corners" => i * (n - 1.0) / (self.full - 1.0),
            "tf_crop_and_resize" => {
                let [start, end] = self.part;
                match self.to {
                    0 | 1 => 0.5 * (start + end) * (n - 1.0),
                    _ => start * (n - 1.0) + i * (end - start) * (n - 1.0) / (m - 1.0),
                }
            }
            other => return Err(format!("coordinates of kind `{other}`")),
        })
    }
}

/// How a value of a shape is resized; the other inputs of the node say it.
pub(crate) fn resizing(cx: &Cx, shape: &[usize], given: &mut Given) -> Done<Resizing> {
    let rank = shape.len();
    // Before version 11 scales were the second input, or an attribute.
    let at = if cx.node.op == "Upsample" || cx.opset < 11 { 1 } else { 2 };
    let floats = |v: Option<Value>| match v {
        Some(Value::Float(f)) if f.shape() != [0] => Some(f.rows().data().to_vec()),
        _ => None,
    };
    let scales = floats(given.maybe(at));
    let shown = if at == 2 { floats(given.maybe(1)) } else { None };
    let sizes = if given.has(3) { Some(super::shape::extents(given.ints(3)?.data())?) } else { None };
    let axes: Vec<usize> = match cx.ints("axes")? {
        Some(list) => list.iter().map(|&a| axis(a, rank)).collect::<Done<_>>()?,
        None => (0..rank).collect(),
    };
    let count = sizes.as_ref().map(Vec::len).or(scales.as_ref().map(Vec::len)).ok_or("neither scales nor sizes")?;
    if count != axes.len() || (1..axes.len()).any(|i| axes[..i].contains(&axes[i])) {
        return Err(format!("extents for {count} of {} axes", axes.len()));
    }
    let mode = cx.text("mode", "nearest")?;
    if !["nearest", "linear", "bilinear", "cubic"].contains(&mode) {
        return Err(format!("mode `{mode}`; nearest, linear and cubic are computed"));
    }
    let coordinates =
        cx.text("coordinate_transformation_mode", if cx.opset < 11 { "asymmetric" } else { "half_pixel" })?;
    let crops = coordinates == "tf_crop_and_resize";
    let part = |i: usize| match &shown {
        _ if !crops => Ok([0.0, 1.0]),
        Some(v) if v.len() == 2 * axes.len() => Ok([v[i], v[i + axes.len()]]),
        _ => Err("coordinates of a region that is not given for every axis".to_string()),
    };
    let mut plans: Vec<Axis> = Vec::with_capacity(rank);
    for a in 0..rank {
        plans.push(Axis {
            from: shape[a],
            to: shape[a],
            scale: 1.0,
            full: shape[a] as f32,
            mode: coordinates,
            part: [0.0, 1.0],
        });
    }
    for (i, &a) in axes.iter().enumerate() {
        let (n, shown) = (shape[a] as f32, part(i)?);
        (plans[a].scale, plans[a].to, plans[a].full) = match (&sizes, &scales) {
            (Some(sizes), _) => (sizes[i] as f32 / n, sizes[i], sizes[i] as f32),
            (None, Some(scales)) => (scales[i], (n * scales[i]).max(0.0) as usize, n * scales[i]),
            _ => unreachable!("one of them has extents"),
        };
        plans[a].part = shown;
    }
    let policy = cx.text("keep_aspect_ratio_policy", "stretch")?;
    if policy != "stretch" && sizes.is_some() {
        let all = axes.iter().map(|&a| plans[a].scale);
        let scale = match policy {
            "not_larger" => all.fold(f32::INFINITY, f32::min),
            "not_smaller" => all.fold(0.0, f32::max),
            other => return Err(format!("aspect ratios kept by `{other}`")),
        };
        for &a in &axes {
            (plans[a].scale, plans[a].to) = (scale, (scale * shape[a] as f32).round() as usize);
            plans[a].full = plans[a].to as f32;
        }
    }
    let to: Vec<usize> = plans.iter().map(|p| p.to).collect();
    cx.room(&to)?;
    if shape.contains(&0) || to.contains(&0) || plans.iter().any(|p| p.scale <= 0.0 || !p.scale.is_finite()) {
        return Err(format!("from shape {shape:?} to {to:?}"));
    }
    let rounding = cx.text("nearest_mode", if cx.opset < 11 { "floor" } else { "round_prefer_floor" })?;
    let (smooth, exclude) = (cx.int("antialias", 0)? != 0, cx.int("exclude_outside", 0)? != 0);
    let a = cx.float("cubic_coeff_a", -0.75)?;
    let outside = cx.float("extrapolation_value", 0.0)?;
    let taps = |p: &Axis, i: usize| -> Done<Taps> {
        let (c, n) = (p.at(i)?, p.from);
        if crops && (c < 0.0 || c > (n - 1) as f32) {
            return Ok(None);
        }
        let clamp = |v: f32| (v.max(0.0) as usize).min(n - 1);
        if mode == "nearest" {
            let v = match rounding {
                "floor" => c.floor(),
                "ceil" => c.ceil(),
                "round_prefer_ceil" => c.round(),
                "round_prefer_floor" if c == c.trunc() + 0.5 => c.floor(),
                "round_prefer_floor" => c.round(),
                other => return Err(format!("places rounded by `{other}`")),
            };
            return Ok(Some(vec![(clamp(v), 1.0)]));
        }
        let reach = if mode == "cubic" { 2.0 } else { 1.0 };
        let slope = if smooth { p.scale.min(1.0) } else { 1.0 };
        let weight = |d: f32| if mode == "cubic" { cubic(a, d) } else { (1.0 - d.abs()).max(0.0) };
        let (first, last) = ((c - reach / slope).floor() as i64, (c + reach / slope).ceil() as i64);
        let all = (first..=last).map(|j| (j, weight((j as f32 - c) * slope))).filter(|(_, w)| *w != 0.0);
        let inside = |j: i64| (0..n as i64).contains(&j);
        // Positions outside count as the border, or not at all.
        let mut found: Vec<(usize, f32)> =
            all.filter(|(j, _)| !exclude || inside(*j)).map(|(j, w)| (j.clamp(0, n as i64 - 1) as usize, w)).collect();
        let sum: f32 = found.iter().map(|(_, w)| w).sum();
        if smooth || exclude {
            found.iter_mut().for_each(|(_, w)| *w /= sum);
        }
        Ok(Some(found))
    };
    // Unchanged axes are skipped.
    let changes = |&k: &usize| to[k] != shape[k] || plans[k].scale != 1.0 || crops && plans[k].part != [0.0, 1.0];
    let line = |k: usize| Ok((k, (0..to[k]).map(|i| taps(&plans[k], i)).collect::<Done<Vec<_>>>()?));
    let lines = (0..rank).filter(changes).map(line).collect::<Done<Vec<_>>>()?;
    Ok((to, lines, outside))
}

pub(crate) fn resize(cx: &Cx, mut given: Given) -> Done {
    let x = given.tensor(0)?;
    let (to, lines, outside) = resizing(cx, x.shape(), &mut given)?;
    let mut now = x.data().to_vec();
    let mut extents = x.shape().to_vec();
    for (k, places) in lines {
        let n = extents[k];
        let (outer, inner): (usize, usize) = (extents[..k].iter().product(), extents[k + 1..].iter().product());
        cx.room(&[outer, to[k], inner])?;
        let mut next = vec![0.0f32; outer * to[k] * inner];
        for (row, y) in next.chunks_exact_mut(inner.max(1)).enumerate() {
            let (o, i) = (row / to[k], row % to[k]);
            let line = |p: usize| &now[(o * n + p) * inner..][..inner];
            match places[i].as_deref() {
                None => y.fill(outside),
                Some([(p, share)]) if *share == 1.0 => y.copy_from_slice(line(*p)),
                Some(taps) => {
                    for (p, share) in taps {
                        y.iter_mut().zip(line(*p)).for_each(|(y, v)| *y += v * share);
                    }
                }
            }
        }
        (now, extents[k]) = (next, to[k]);
    }
    one(Value::floats(&to, now))
}
