//! The structure of a network as targets: axes of units, followed by the runs of residual blocks. Both can lose and gain
//! entries; a network that gains one computes the same as before.

use crate::Real;
use crate::axes::{Axis, axes, refit};
use crate::layers::{Layer, LayerSpec};
use crate::param::Along;
use crate::{Average, Error, Model, ModelSpec, Moved, Optimizer, Param, PolicyRef, Result, Role};
use nnz_core::{Rng, Shape, Topology};
use std::collections::BTreeSet;
use std::ops::Range;

/// Consecutive residual blocks that preserve extents: removing one removes only what the block
/// adds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Run {
    /// Common prefix of the names of its blocks.
    name: String,
    blocks: Vec<Block>,
}

#[derive(Clone, Debug, PartialEq)]
struct Block {
    /// The residual layer, and the activation after it.
    layers: Range<usize>,
    params: Range<usize>,
}

impl Run {
    pub fn shape(&self) -> Shape {
        Shape::matrix(&self.name, self.blocks.len(), 1)
    }
}

/// One target of [`nnz_core::TargetKind::Structure`].
pub(crate) enum Part {
    Axis(Axis),
    Run(Run),
}

impl Part {
    /// All of a network, axes first.
    pub fn all(spec: &ModelSpec) -> Vec<Self> {
        axes(spec).into_iter().map(Self::Axis).chain(runs(spec).into_iter().map(Self::Run)).collect()
    }

    pub fn shape(&self) -> Shape {
        match self {
            Self::Axis(axis) => axis.shape(),
            Self::Run(run) => run.shape(),
        }
    }

    pub fn len(&self) -> usize {
        match self {
            Self::Axis(axis) => axis.units,
            Self::Run(run) => run.blocks.len(),
        }
    }

    /// Calls `visit` with every parameter that carries the output of one of its parts, weights that read a unit or the end of a
    /// block, and the part of each of its entries, row by row.
    fn outlets<T: Real>(&self, model: &Model<T>, mut visit: impl FnMut(usize, &[Option<usize>])) {
        match self {
            Self::Axis(axis) => {
                for m in axis.members.iter().filter(|m| m.reads()) {
                    let topology = model.params[m.param].by_rows().topology;
                    visit(m.param, &m.units(&topology, axis.units).collect::<Vec<_>>());
                }
            }
            Self::Run(run) => {
                for (b, block) in run.blocks.iter().enumerate() {
                    let trained = |i: &usize| model.params[*i].role.trained();
                    let last: Vec<usize> = block.params.clone().filter(trained).collect();
                    // A gain with its offset, or a weight with its bias.
                    let from = last.len().saturating_sub(match last.last() {
                        Some(&i) if model.params[i].role == Role::Vector => 2,
                        _ => 1,
                    });
                    last[from..].iter().for_each(|&i| visit(i, &vec![Some(b); model.params[i].nnz()]));
                }
            }
        }
    }

    /// Computes the Euclidean norm of what carries the output of each part, and the sum of w g over it.
    pub fn strength<T: Real>(&self, model: &Model<T>, gradient: impl Fn(usize) -> Vec<T>) -> [Vec<f64>; 2] {
        let (mut squares, mut slopes) = (vec![0.0; self.len()], vec![0.0; self.len()]);
        self.outlets(model, |i, parts| {
            let p = &model.params[i];
            let (values, gradient) = (p.entries(&p.value), gradient(i));
            for (k, (part, value)) in parts.iter().zip(values).enumerate() {
                let Some(part) = *part else { continue };
                squares[part] += value.f64().powi(2);
                slopes[part] += gradient.get(k).map_or(0.0, |g| value.f64() * g.f64());
            }
        });
        [squares.into_iter().map(f64::sqrt).collect(), slopes]
    }

    /// Scales what carries the output of each part.
    pub fn scale<T: Real>(&self, model: &mut Model<T>, factors: &[f64]) {
        let mut scaled: Vec<(usize, Vec<T>)> = Vec::new();
        self.outlets(model, |i, parts| {
            let p = &model.params[i];
            let values = p.entries(&p.value).into_iter().zip(parts);
            scaled.push((i, values.map(|(v, part)| T::of(v.f64() * part.map_or(1.0, |p| factors[p]))).collect()));
        });
        for (i, values) in scaled {
            let rows = model.params[i].by_rows();
            rows.set(&mut model.params[i].value, &values);
        }
    }

    /// Multiply-adds per row in which each of its parts has a share; `each[i]` are those of parameter `i`.
    pub fn cost(&self, each: &[f64]) -> f64 {
        match self {
            Self::Axis(axis) => {
                let members = axis.members.iter().filter(|m| m.along != Along::Entries);
                members.map(|m| each[m.param]).sum::<f64>() / axis.units.max(1) as f64
            }
            Self::Run(run) => {
                let all = run.blocks.iter().flat_map(|b| b.params.clone());
                all.map(|i| each[i]).sum::<f64>() / run.blocks.len().max(1) as f64
            }
        }
    }
}

/// Counts how often one row of the input goes through every parameter: once per position or pixel that a weight makes.
fn uses(layers: &[LayerSpec], input: &[usize], out: &mut Vec<usize>) -> Option<Vec<usize>> {
    layers.iter().try_fold(input.to_vec(), |shape, layer| {
        let after = layer.output(&shape).ok()?;
        let places = |shape: &[usize]| shape.iter().rev().skip(1).product::<usize>();
        if let LayerSpec::Open(open) = layer
            && let Some(own) = open.uses(&shape)
        {
            out.extend(own);
            return Some(after);
        }
        let uses_of = match layer {
            LayerSpec::Residual(r) => {
                uses(&r.body, &shape, out)?;
                uses(&r.shortcut, &shape, out)?;
                return Some(after);
            }
            // Each input is spread; a state runs along the whole sequence, whatever the output.
            LayerSpec::ConvTransposed1d(_)
            | LayerSpec::ConvTransposed2d(_)
            | LayerSpec::ConvTransposed3d(_)
            | LayerSpec::Recurrent(_) => places(&shape),
            _ => places(&after),
        };
        out.extend(layer.params().iter().map(|_| uses_of));
        Some(after)
    })
}

impl<T: Real> Model<T> {
    /// Multiply-adds of one forward pass of one row through every parameter; zero for all but weights. Counts the
    /// connections that exist, times the positions or pixels they are used at. Products of activations with each other, as in
    /// attention, are not counted.
    pub(crate) fn costs(&self) -> Vec<f64> {
        let ([c, h, w], mut uses_of) = (self.spec.input, Vec::new());
        uses(&self.spec.layers, &[h, w, c], &mut uses_of);
        let uses_of = uses_of.into_iter().chain(std::iter::repeat(1));
        let cost = |(p, uses): (&Param<T>, usize)| if p.weight() { p.nnz() as f64 * uses as f64 } else { 0.0 };
        self.params.iter().zip(uses_of).map(cost).collect()
    }

    /// Multiply-adds of one forward pass of one row: for every weight its connections times the positions or pixels they are
    /// used at. Products of activations with each other, as in attention, are not counted.
    pub fn multiply_adds(&self) -> f64 {
        self.costs().iter().sum()
    }
}

/// The runs of at least one block.
pub(crate) fn runs(spec: &ModelSpec) -> Vec<Run> {
    let (mut all, mut at): (Vec<Run>, usize) = (Vec::new(), 0);
    let mut open = false;
    let mut i = 0;
    while i < spec.layers.len() {
        let (layer, first) = (&spec.layers[i], i);
        let params = at..at + layer.params().len();
        at = params.end;
        i += 1;
        let LayerSpec::Residual(r) = layer else {
            open = false;
            continue;
        };
        if matches!(spec.layers.get(i), Some(LayerSpec::Relu(_) | LayerSpec::Activation(_) | LayerSpec::AllRelu(_))) {
            i += 1;
        }
        if !r.shortcut.is_empty() || params.is_empty() {
            open = false;
            continue;
        }
        let block = Block { layers: first..i, params };
        match all.last_mut().filter(|_| open) {
            Some(run) => run.blocks.push(block),
            None => {
                let stem = r.name.rsplit_once('.').map_or(&*r.name, |(stem, _)| stem);
                all.push(Run { name: stem.into(), blocks: vec![block] });
            }
        }
        open = true;
    }
    all
}

/// Source of initial values for grown units and blocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fresh {
    pub seed: u64,
    pub step: u64,
}

impl Fresh {
    fn rng(self, param: usize) -> Rng {
        Rng::stream(self.seed, "growth", param as u64, self.step)
    }
}

/// The model with the tensors in the layout of its values.
pub(crate) struct Whole<'a, T> {
    pub model: &'a mut Model<T>,
    pub optimizer: Option<&'a mut Optimizer<T>>,
    pub average: Option<&'a mut Average<T>>,
    pub storage: PolicyRef<'a>,
    pub fresh: Fresh,
}

/// Returns which of the old parts `topology` keeps, and how many it adds after them.
pub(crate) fn kept(name: &str, parts: usize, topology: &Topology) -> Result<(Vec<bool>, usize)> {
    let row = |u: usize| !topology.row(u).is_empty();
    if topology.rows() < parts || !(parts..topology.rows()).all(row) {
        return Err(Error::Refused(format!("`{name}` has {parts} parts: an edit must say of each whether it stays")));
    }
    let keep: Vec<bool> = (0..parts).map(row).collect();
    if !keep.contains(&true) {
        return Err(Error::Refused(format!("`{name}` would lose its last unit")));
    }
    Ok((keep, topology.rows() - parts))
}

impl<T: Real> Whole<'_, T> {
    /// Removes the units of an axis that `keep` rejects from every tensor, appends `grown` new ones, and updates the layers.
    /// New units read their inputs by fresh weights and are read by zeros. Returns how many connections came and went.
    pub fn resize(&mut self, axis: &Axis, keep: &[bool], grown: usize) -> Result<Moved> {
        let mut moved = Moved { grown: 0, pruned: 0 };
        if grown == 0 && !keep.contains(&false) {
            return Ok(moved);
        }
        let specs = if grown > 0 { self.model.spec.params() } else { Vec::new() };
        for member in &axis.members {
            let (i, along) = (member.param, member.along);
            let extent = match along {
                Along::Cols => self.model.params[i].shape.cols,
                Along::Rows => self.model.params[i].shape.rows,
                Along::Entries => self.model.params[i].shape.len(),
            };
            let stays: Vec<bool> = (0..extent).map(|p| member.unit(p, axis.units).is_none_or(|u| keep[u])).collect();
            let mut state: Vec<_> = self.optimizer.as_mut().map_or_else(Vec::new, |o| std::mem::take(&mut o.state[i]));
            let slots = state.len();
            state.extend(self.average.as_mut().map(|a| a.values()[i].clone()));
            let init = specs.get(i).map(|s| s.init).unwrap_or_default();
            let mut rng = self.fresh.rng(i);
            let first = move |fan_in: usize, fan_out: usize| match along {
                Along::Rows => T::of(init.deviation(fan_in, fan_out) * rng.normal()),
                Along::Cols => T::ZERO,
                Along::Entries => init.plain(1, &mut rng)[0],
            };
            moved += self.model.params[i].resize(
                along,
                &stays,
                [axis.units, grown],
                first,
                self.storage,
                &mut state,
                slots,
            )?;
            if let Some(a) = &mut self.average {
                a.values_mut()[i] = state.pop().unwrap_or_else(|| self.model.params[i].value.clone());
            }
            if let Some(o) = &mut self.optimizer {
                o.state[i] = state;
            }
        }
        refit(&mut self.model.spec.layers, &mut self.model.params.iter());
        Ok(moved)
    }

    /// Removes blocks from a run and appends `grown` after the rest: copies of the last one with fresh weights, whose last
    /// gains, or weights, are zero, so that they add nothing yet.
    pub fn restack(&mut self, run: &Run, keep: &[bool], grown: usize) -> Result<Moved> {
        let mut moved = Moved { grown: 0, pruned: 0 };
        let Some(last) = run.blocks.last().filter(|_| grown > 0 || keep.contains(&false)) else { return Ok(moved) };
        let mut names: BTreeSet<String> = self.model.spec.params().into_iter().map(|p| p.shape.name).collect();
        let template = self.model.spec.layers[last.layers.clone()].to_vec();
        let prunable: Vec<bool> = self.model.params[last.params.clone()].iter().map(|p| p.prunable).collect();
        for n in 0..grown {
            let layers = renamed(&template, &run.name, &names)?;
            let specs: Vec<_> = layers.iter().flat_map(Layer::params).collect();
            names.extend(specs.iter().map(|s| s.shape.name.clone()));
            let at = last.params.end + n * specs.len();
            let mut params = Vec::with_capacity(specs.len());
            for (k, spec) in specs.iter().enumerate() {
                let key = self.fresh.rng(at + k).bits();
                params.push(Param::born(at + k, spec, prunable[k], None, self.storage, key)?);
            }
            let trained = params.iter().rposition(|p: &Param<T>| p.weight() || p.role == Role::Vector);
            let outlet = trained.map(|k| if params[k].role == Role::Vector { k - 1 } else { k });
            if let Some(p) = outlet.and_then(|k| params.get_mut(k)) {
                p.value.data_mut().fill(T::ZERO);
            }
            moved.grown += params.iter().filter(|p| p.weight()).map(Param::nnz).sum::<usize>();
            let place = last.layers.end + n * layers.len();
            self.model.spec.layers.splice(place..place, layers);
            if let Some(o) = &mut self.optimizer {
                let fresh = Optimizer::new(o.spec, &params).state;
                o.state.splice(at..at, fresh);
            }
            if let Some(a) = &mut self.average {
                a.splice(at..at, &params);
            }
            self.model.params.splice(at..at, params);
        }
        for (block, _) in run.blocks.iter().zip(keep).rev().filter(|(_, keep)| !**keep) {
            let gone = self.model.params.splice(block.params.clone(), []);
            moved.pruned += gone.filter(Param::weight).map(|p| p.nnz()).sum::<usize>();
            self.model.spec.layers.drain(block.layers.clone());
            if let Some(o) = &mut self.optimizer {
                o.state.drain(block.params.clone());
            }
            if let Some(a) = &mut self.average {
                a.splice(block.params.clone(), &[]);
            }
        }
        Ok(moved)
    }
}

/// Copies the layers of a block under the first number that no parameter has.
fn renamed(block: &[LayerSpec], stem: &str, taken: &BTreeSet<String>) -> Result<Vec<LayerSpec>> {
    let Some(old) = block.first().and_then(Layer::name) else { return Ok(block.to_vec()) };
    let free = |n: &usize| !taken.iter().any(|t| t.starts_with(&format!("{stem}.{n}.")));
    let new = format!("{stem}.{}", (0..).find(free).unwrap_or_default());
    let damaged = |e: serde_json::Error| Error::Refused(format!("a block like `{old}` cannot be made: {e}"));
    fn rename(value: &mut serde_json::Value, old: &str, new: &str) {
        match value {
            serde_json::Value::Object(map) => {
                for (key, value) in map.iter_mut() {
                    match value.as_str().and_then(|name| name.strip_prefix(old)).filter(|_| key == "name") {
                        Some(rest) => *value = format!("{new}{rest}").into(),
                        None => rename(value, old, new),
                    }
                }
            }
            serde_json::Value::Array(all) => all.iter_mut().for_each(|v| rename(v, old, new)),
            _ => {}
        }
    }
    let mut text = serde_json::to_value(block).map_err(damaged)?;
    rename(&mut text, old, &new);
    serde_json::from_value(text).map_err(damaged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{OptimizerSpec, Storage, Tensor};

    fn network(text: &str) -> (Model<f64>, Tensor<f64>) {
        let spec = ModelSpec::parse(text, [1, 16, 16], 10).unwrap();
        let model = Model::born(&spec, None, Storage::Auto, false, 3).unwrap();
        (model, Tensor::new(&[2, 256], (0..512).map(|i| f64::from(i % 37) / 37.0).collect()))
    }

    fn far(a: &Tensor<f64>, b: &Tensor<f64>) -> f64 {
        a.data().iter().zip(b.data()).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
    }

    fn whole<'a>(
        model: &'a mut Model<f64>,
        optimizer: &'a mut Optimizer<f64>,
        average: &'a mut Average<f64>,
    ) -> Whole<'a, f64> {
        let fresh = Fresh { seed: 7, step: 1 };
        Whole { model, optimizer: Some(optimizer), average: Some(average), storage: Storage::Auto.into(), fresh }
    }

    /// Checks that the layers agree with the tensors, in state and averages too.
    fn consistent(model: &Model<f64>, optimizer: &Optimizer<f64>, average: &Average<f64>) {
        model.spec.check(10).unwrap();
        let specs = model.spec.params();
        assert_eq!(specs.len(), model.params.len());
        for (i, (p, spec)) in model.params.iter().zip(&specs).enumerate() {
            assert_eq!((&p.shape.name, p.shape.len()), (&spec.shape.name, spec.shape.len()));
            let extents: Vec<usize> = optimizer.state[i].iter().map(Tensor::len).collect();
            assert!(extents.iter().all(|&n| n == p.value.len()), "{}: {extents:?}", p.shape.name);
            assert_eq!(average.values()[i].shape(), p.value.shape(), "{}", p.shape.name);
        }
    }

    #[test]
    fn a_network_that_gains_units_or_blocks_computes_what_it_did() {
        for text in ["resnet20:4", "lenet5", "vgg-small", "mlp:256-12-8-10"] {
            let (mut model, input) = network(text);
            let mut optimizer = Optimizer::new(OptimizerSpec::adam(1e-3), &model.params);
            let mut average = Average::new(&model.params);
            let before = model.infer(input.clone()).unwrap();
            let cost = model.multiply_adds();
            for index in 0..axes(&model.spec).len() {
                let axis = axes(&model.spec).swap_remove(index);
                let entries = model.nonzeros();
                let keep = vec![true; axis.units];
                let moved = whole(&mut model, &mut optimizer, &mut average).resize(&axis, &keep, 3).unwrap();
                assert_eq!((entries + moved.grown, moved.pruned), (model.nonzeros(), 0), "{text} {}", axis.name);
                consistent(&model, &optimizer, &average);
                assert_eq!(axes(&model.spec)[index].units, axis.units + 3);
            }
            for run in runs(&model.spec).iter().rev() {
                let keep = vec![true; run.blocks.len()];
                whole(&mut model, &mut optimizer, &mut average).restack(run, &keep, 2).unwrap();
                consistent(&model, &optimizer, &average);
            }
            let after = model.infer(input.clone()).unwrap();
            assert!(far(&before, &after) < 1e-9, "{text}: {}", far(&before, &after));
            assert!(model.multiply_adds() > cost);
            // New units have nonzero weights, so that they can learn.
            let first = &model.params[0];
            let row = first.shape.cols;
            assert!(first.value.data()[(first.shape.rows - 1) * row..].iter().all(|w| *w != 0.0));
        }
    }

    #[test]
    fn blocks_come_and_go_with_names_of_their_own() {
        let (mut model, input) = network("resnet20:4");
        let (spec, before) = (model.spec.clone(), model.infer(input.clone()).unwrap());
        let mut optimizer = Optimizer::new(OptimizerSpec::sgd(0.1), &model.params);
        let mut average = Average::new(&model.params);
        let names = |m: &Model<f64>| runs(&m.spec).iter().map(|r| (r.name.clone(), r.blocks.len())).collect::<Vec<_>>();
        assert_eq!(names(&model), [("stage1".into(), 3), ("stage2".into(), 2), ("stage3".into(), 2)]);
        let grown = whole(&mut model, &mut optimizer, &mut average).restack(&runs(&spec)[1], &[true, true], 1).unwrap();
        assert!(model.params.iter().any(|p| p.shape.name == "stage2.3.conv1.weight"));
        // It loses again what it gained, and is unchanged.
        let run = &runs(&model.spec)[1];
        let lost = whole(&mut model, &mut optimizer, &mut average).restack(run, &[true, true, false], 0).unwrap();
        assert_eq!((grown.grown, grown.pruned, lost.grown, lost.pruned), (lost.pruned, 0, 0, grown.grown));
        assert_eq!(model.spec.layers, spec.layers);
        assert_eq!(model.infer(input).unwrap().data(), before.data());
        consistent(&model, &optimizer, &average);
        let error = kept("stage1", 2, &Topology::from_positions(2, 1, [])).unwrap_err().to_string();
        assert!(error.contains("last"), "{error}");
        assert!(kept("stage1", 2, &Topology::full(1, 1)).is_err());
    }

    /// ∂L/∂ln g of a gate on the output of each unit and block, by finite differences of the scaled network.
    #[test]
    fn slopes_are_those_of_gates_on_outputs() {
        let (model, input) = network("resnet20:4");
        let loss = |m: &Model<f64>| m.infer(input.clone()).unwrap().data().iter().map(|y| y * y).sum::<f64>();
        let leaves: Vec<crate::Var<f64>> = model.params.iter().map(|p| crate::Var::leaf(p.value.clone())).collect();
        let (y, _) = model.forward(&crate::Var::constant(input.clone()), &leaves, crate::Pass::default()).unwrap();
        let mut found = crate::ops::sum(&crate::ops::mul(&y, &y)).backward(false).unwrap();
        let gradients: Vec<Tensor<f64>> = leaves
            .iter()
            .zip(&model.params)
            .map(|(l, p)| found.take(l).unwrap_or_else(|| Tensor::zeros(p.value.shape())))
            .collect();
        for part in Part::all(&model.spec) {
            let [values, slopes] = part.strength(&model, |i| model.params[i].entries(&gradients[i]));
            assert_eq!((values.len(), slopes.len()), (part.len(), part.len()));
            for at in [0, part.len() - 1] {
                let moved = |h: f64| {
                    let mut other = model.clone();
                    let factors: Vec<f64> = (0..part.len()).map(|u| if u == at { h.exp() } else { 1.0 }).collect();
                    part.scale(&mut other, &factors);
                    loss(&other)
                };
                // So small that no kink of a ReLU is crossed.
                let near = (moved(1e-7) - moved(-1e-7)) / 2e-7;
                let name = part.shape().name;
                assert!(
                    (slopes[at] - near).abs() < 1e-5 * (1.0 + near.abs()),
                    "{name} {at}: {} for {near}",
                    slopes[at]
                );
            }
        }
    }

    /// A linear layer's entries once, a kernel's once for each pixel it makes.
    #[test]
    fn multiply_adds_are_those_of_the_field() {
        let (mlp, _) = network("mlp:256-12-8-10");
        assert_eq!(mlp.multiply_adds(), (256 * 12 + 12 * 8 + 8 * 10) as f64);
        let spec = ModelSpec::parse("resnet20", [3, 32, 32], 10).unwrap();
        let resnet: Model<f32> = Model::born(&spec, None, Storage::Auto, false, 0).unwrap();
        // 3x3 kernels: the first on 32x32, 6 a stage on 32x32, 16x16 and 8x8, one of which halves and widens; two projections
        // and the classifier.
        let stage = |pixels: usize, width: usize, before: usize| pixels * 9 * width * (before + 5 * width);
        let kernels = 1024 * 27 * 16 + stage(1024, 16, 16) + stage(256, 32, 16) + stage(64, 64, 32);
        let rest = 256 * 16 * 32 + 64 * 32 * 64 + 640;
        assert_eq!(resnet.multiply_adds(), (kernels + rest) as f64);
        // The cost of a part is the network's saving without it, at the extents of the others.
        let each = resnet.costs();
        for (at, part) in Part::all(&spec).into_iter().enumerate() {
            let mut other = resnet.clone();
            let mut whole = Whole {
                model: &mut other,
                optimizer: None,
                average: None,
                storage: Storage::Auto.into(),
                fresh: Fresh { seed: 0, step: 0 },
            };
            let keep: Vec<bool> = (0..part.len()).map(|u| u > 0).collect();
            match &part {
                Part::Axis(axis) => whole.resize(axis, &keep, 0).unwrap(),
                Part::Run(run) => whole.restack(run, &keep, 0).unwrap(),
            };
            let less = resnet.multiply_adds() - other.multiply_adds();
            let says = part.cost(&each);
            assert!((less - says).abs() <= 1e-9 * less, "{at} {}: {less} for {says}", part.shape().name);
        }
    }
}
