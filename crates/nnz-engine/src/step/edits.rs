use super::pass::Step;
use super::views::{View, Views};
use crate::axes::{axes, cut, split};
use crate::param::Entries;
use crate::structure::{Fresh, Part, Whole, kept, runs};
use crate::{Average, Error, Model, Moved, Optimizer, Param, PolicyRef, Real, Result, Storage, Tensor};
use nnz_core::{Edit, Explored, Shape, Sparsifier, Target, TargetKind, TargetMut, Topology};

/// Lets a method change the values of its targets after an optimizer step.
pub(crate) fn after_step<T: Real>(model: &mut Model<T>, sparsifier: &mut dyn Sparsifier, step: u64, lr: f64) {
    if sparsifier.kind() == TargetKind::Structure {
        return after_structure(model, sparsifier, step, lr);
    }
    let places = model.places(sparsifier.kind());
    let rows: Vec<Entries> = places.iter().map(|&i| model.params[i].by_rows()).collect();
    let shapes: Vec<Shape> = places.iter().map(|&i| model.params[i].shape.clone()).collect();
    let wide = |(&i, rows): (&usize, &Entries)| -> Vec<f64> {
        rows.of(&model.params[i].value).into_iter().map(|v| v.f64()).collect()
    };
    let mut values: Vec<Vec<f64>> = places.iter().zip(&rows).map(wide).collect();
    let parts = rows.iter().zip(&shapes).zip(&mut values).enumerate();
    let mut live: Vec<TargetMut> = parts
        .map(|(index, ((rows, shape), values))| TargetMut { index, shape, topology: &rows.topology, values })
        .collect();
    sparsifier.after_step(step, lr, &mut live);
    for ((i, rows), values) in places.into_iter().zip(rows).zip(values) {
        let values: Vec<T> = values.into_iter().map(T::of).collect();
        rows.set(&mut model.params[i].value, &values);
    }
}

/// Scales the weights that carry a part's output by the value a method set for it.
fn after_structure<T: Real>(model: &mut Model<T>, sparsifier: &mut dyn Sparsifier, step: u64, lr: f64) {
    let parts = Part::all(&model.spec);
    let before: Vec<Vec<f64>> = parts.iter().map(|p| p.strength(model, |_| Vec::new())[0].clone()).collect();
    let shapes: Vec<Shape> = parts.iter().map(Part::shape).collect();
    let full: Vec<Topology> = shapes.iter().map(|s| Topology::full(s.rows, 1)).collect();
    let mut values = before.clone();
    let all = shapes.iter().zip(&full).zip(&mut values).enumerate();
    let mut live: Vec<TargetMut> =
        all.map(|(index, ((shape, topology), values))| TargetMut { index, shape, topology, values }).collect();
    sparsifier.after_step(step, lr, &mut live);
    for ((part, old), new) in parts.iter().zip(before).zip(values) {
        let factors: Vec<f64> = old.iter().zip(&new).map(|(o, n)| if *o > 0.0 { n / o } else { 1.0 }).collect();
        if factors.iter().any(|f| *f != 1.0) {
            part.scale(model, &factors);
        }
    }
}

/// How edits are requested and applied.
pub(crate) struct Editing<'a> {
    pub kind: TargetKind,
    /// One layer after the other, so that at most one is copied, or two small ones.
    pub layerwise: bool,
    pub storage: PolicyRef<'a>,
    pub fresh: Fresh,
    /// Where connections that ever existed are recorded, for each target.
    pub explored: Option<&'a mut Vec<Explored>>,
}

/// Asks a method for its edits and applies them.
pub(crate) fn rewire<T: Real>(
    model: &mut Model<T>,
    mut optimizer: Option<&mut Optimizer<T>>,
    mut average: Option<&mut Average<T>>,
    edits: &mut (dyn FnMut(&[Target]) -> nnz_core::Result<Vec<Edit>> + Send),
    pass: &Step<T>,
    how: Editing,
) -> Result<Moved> {
    let structural = matches!(how.kind, TargetKind::Units | TargetKind::Structure);
    if how.layerwise && !structural {
        return one_by_one(model, optimizer, average, edits, pass, how);
    }
    let Editing { kind, storage, fresh, mut explored, .. } = how;
    let mut sum = Moved::default();
    let views = Views::new(model, pass, kind);
    let edits = edits(&views.targets())?;
    let count = views.parts.len();
    if edits.len() != count {
        return Err(Error::Refused(format!("the method made {} edits for {count} targets", edits.len())));
    }
    if structural {
        let changes = views.parts.iter().zip(edits).map(|(view, edit)| match edit {
            Edit::Keep => Ok((vec![true; view.shape.rows], 0)),
            Edit::Rewire { topology, .. } => kept(&view.shape.name, view.shape.rows, &topology),
            _ => Err(Error::Refused(format!("units of `{}` can only be kept, lost or born", view.shape.name))),
        });
        let changes = changes.collect::<Result<Vec<_>>>()?;
        drop(views);
        let mut whole = Whole { model, optimizer, average, storage, fresh };
        let mut axes = axes(&whole.model.spec);
        let smaller = cut(&whole.model.spec, &axes, &changes)?;
        let mut rest = &mut axes[..];
        for (keep, grown) in &changes[..rest.len()] {
            let Some((axis, after)) = std::mem::take(&mut rest).split_first_mut() else { break };
            sum += whole.resize(axis, keep, *grown)?;
            let kept = keep.iter().filter(|k| **k).count();
            after.iter_mut().for_each(|a| a.follow(axis, kept));
            rest = after;
        }
        for (i, layer) in smaller {
            whole.model.spec.layers[i] = layer;
        }
        // Backwards, since added or removed blocks move those after them.
        let runs = runs(&whole.model.spec);
        for (run, (keep, grown)) in runs.iter().zip(&changes[axes.len()..]).rev() {
            sum += whole.restack(run, keep, *grown)?;
        }
        return Ok(sum);
    }
    // All edits or none.
    let places = model.places(kind);
    let admitted = |(&i, edit): (&usize, &Edit)| model.params[i].admits(edit, storage);
    let chosen = places.iter().zip(&edits).map(admitted).collect::<Result<Vec<Storage>>>()?;
    let parts = places.into_iter().zip(edits).zip(chosen).zip(views.entries());
    // Backwards, since a layer that is replaced by two moves those after it.
    for (index, (((i, edit), mut chosen), old)) in parts.enumerate().rev() {
        let edit = match edit {
            Edit::Replace { left, right } => {
                match replace(model, optimizer.as_deref_mut(), average.as_deref_mut(), i, &left, &right, storage)? {
                    Some(moved) => {
                        sum += moved;
                        continue;
                    }
                    None => {
                        let shape = &model.params[i].shape;
                        let values = product(&left, &right, shape.rows, shape.cols);
                        let edit = Edit::Set { topology: Topology::full(shape.rows, shape.cols), values };
                        chosen = model.params[i].admits(&edit, storage)?;
                        edit
                    }
                }
            }
            edit => edit,
        };
        let asked = Asked { index, i, storage: chosen, edit, old };
        let (optimizer, average) = (optimizer.as_deref_mut(), average.as_deref_mut());
        sum += apply_edit(&mut model.params, optimizer, average, explored.as_deref_mut(), asked)?;
    }
    Ok(sum)
}

/// Connections up to which a layer is shown to the method while the one before it is edited. Both are in many short parts that wait
/// for each other; larger ones keep all threads at work alone, and should not lie in memory twice.
const BESIDE: usize = 1 << 21;

/// Shows one parameter after the other and applies its edit.
fn one_by_one<T: Real>(
    model: &mut Model<T>,
    mut optimizer: Option<&mut Optimizer<T>>,
    mut average: Option<&mut Average<T>>,
    edits: &mut (dyn FnMut(&[Target]) -> nnz_core::Result<Vec<Edit>> + Send),
    pass: &Step<T>,
    Editing { kind, storage, mut explored, .. }: Editing,
) -> Result<Moved> {
    let mut ask = |param: &Param<T>, index: usize, i: usize| -> Result<Asked> {
        let view = View::of(param, pass, i);
        let mut made = edits(&[view.target(index)])?;
        match (made.pop(), made.is_empty()) {
            (Some(edit), true) => {
                Ok(Asked { index, i, storage: param.admits(&edit, storage)?, edit, old: view.entries })
            }
            _ => Err(Error::Refused("the method did not make one edit for one target".into())),
        }
    };
    let mut apply = |params: &mut [Param<T>], asked: Asked| {
        apply_edit(params, optimizer.as_deref_mut(), average.as_deref_mut(), explored.as_deref_mut(), asked)
    };
    let (mut sum, mut waiting): (Moved, Option<Asked>) = (Moved::default(), None);
    for (index, i) in model.places(kind).into_iter().enumerate() {
        let (before, rest) = model.params.split_at_mut(i);
        let (param, beside) = (&rest[0], rayon::current_num_threads() > 1 && rest[0].nnz() <= BESIDE);
        let asked = match waiting.take() {
            Some(last) if beside && before[last.i].nnz() <= BESIDE => {
                let mut asked = None;
                // What this thread makes is counted as its own.
                sum += rayon::in_place_scope(|scope| {
                    scope.spawn(|_| asked = Some(ask(param, index, i)));
                    apply(before, last)
                })?;
                asked.expect("the scope has waited for it")
            }
            last => {
                if let Some(last) = last {
                    sum += apply(before, last)?;
                }
                ask(param, index, i)
            }
        };
        waiting = Some(asked?);
    }
    if let Some(last) = waiting {
        sum += apply(&mut model.params, last)?;
    }
    Ok(sum)
}

/// An edit of a target that was admitted.
struct Asked {
    /// The target's number.
    index: usize,
    /// Its parameter.
    i: usize,
    /// Where the edit leads to.
    storage: Storage,
    edit: Edit,
    /// The entries before.
    old: Entries,
}

/// Applies an edit to a parameter, to its optimizer state, its average, and what is known of its connections.
fn apply_edit<T: Real>(
    params: &mut [Param<T>],
    optimizer: Option<&mut Optimizer<T>>,
    mut average: Option<&mut Average<T>>,
    explored: Option<&mut Vec<Explored>>,
    Asked { index, i, storage, edit, old }: Asked,
) -> Result<Moved> {
    let explored = explored.map(|all| {
        all.resize_with(all.len().max(index + 1), Explored::default);
        &mut all[index]
    });
    let mut none = Vec::new();
    let state = optimizer.map_or(&mut none, |o| &mut o.state[i]);
    let before = average.is_some().then(|| old.topology.clone());
    // An average has the layout of the values and moves with them, like another tensor of state.
    state.extend(average.as_mut().map(|a| std::mem::replace(&mut a.values_mut()[i], Tensor::zeros(&[0]))));
    let moved = params[i].edit(edit, storage, state, old, explored)?;
    if let (Some(average), Some(before)) = (&mut average, before)
        && let Some(mut values) = state.pop()
    {
        start_at_values(&params[i], &before, &mut values);
        average.values_mut()[i] = values;
    }
    Ok(moved.unwrap_or_default())
}

/// L R, row-major.
pub(super) fn product(left: &[f64], right: &[f64], rows: usize, cols: usize) -> Vec<f64> {
    let rank = left.len() / rows.max(1);
    let mut out = vec![0.0; rows * cols];
    for (row, l) in out.chunks_exact_mut(cols.max(1)).zip(left.chunks_exact(rank.max(1))) {
        for (l, r) in l.iter().zip(right.chunks_exact(cols)) {
            row.iter_mut().zip(r).for_each(|(o, r)| *o += l * r);
        }
    }
    out
}

/// Replaces one linear layer by two; `None` if the weight is not that of a linear layer, or two would not
/// have fewer entries.
fn replace<T: Real>(
    model: &mut Model<T>,
    optimizer: Option<&mut Optimizer<T>>,
    average: Option<&mut Average<T>>,
    at: usize,
    left: &[f64],
    right: &[f64],
    storage: PolicyRef,
) -> Result<Option<Moved>> {
    let (rows, cols, prunable) = (model.params[at].shape.rows, model.params[at].shape.cols, model.params[at].prunable);
    let rank = left.len() / rows.max(1);
    if left.len() != rows * rank || right.len() != rank * cols || rank == 0 {
        let name = &model.params[at].shape.name;
        return Err(Error::Refused(format!(
            "factors of {} and {} for `{name}` {rows}x{cols}",
            left.len(),
            right.len()
        )));
    }
    if rank * (rows + cols) >= rows * cols || !split(&mut model.spec.layers, at, rank) {
        return Ok(None);
    }
    let specs = model.spec.params();
    let before = model.params[at].nnz();
    let factor = |spec: &crate::ParamSpec, values: &[f64]| {
        let (s, all) = (&spec.shape, Topology::full(spec.shape.rows, spec.shape.cols));
        Param::from_entries(s, prunable, all, storage, values.iter().map(|&v| T::of(v)).collect())
    };
    let factors = [factor(&specs[at], right)?, factor(&specs[at + 1], left)?];
    if let Some(o) = optimizer {
        let fresh = Optimizer::new(o.spec, &factors).state;
        o.state.splice(at..=at, fresh);
    }
    if let Some(a) = average {
        a.splice(at..at + 1, &factors);
    }
    model.params.splice(at..=at, factors);
    let after = rank * (rows + cols);
    Ok(Some(Moved { grown: 0, pruned: before.saturating_sub(after) }))
}

/// The average of a connection that `old` did not have starts at its value.
fn start_at_values<T: Real>(param: &Param<T>, old: &Topology, average: &mut Tensor<T>) {
    let entries = param.by_rows();
    let (values, mut averages) = (entries.of(&param.value), entries.of(average));
    for (entry, _) in old.carry(&entries.topology).enumerate().filter(|(_, from)| from.is_none()) {
        averages[entry] = values[entry];
    }
    entries.set(average, &averages);
}
