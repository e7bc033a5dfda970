//! Options for some layers only: every target goes to the method as it was built for that layer.

use crate::subject::Show;
use crate::{
    Edit, Error, Pattern, Plan, Result, Shape, Signals, Sparsifier, Target, TargetKind, TargetMut, Topology, closest,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;
use wildmatch::WildMatch;

/// Names of layers, in which `*` stands for any characters, dots included, and `?` for one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct Names(WildMatch);

impl Eq for Names {}

impl From<String> for Names {
    fn from(pattern: String) -> Self {
        Self(WildMatch::new(&pattern))
    }
}

impl From<Names> for String {
    fn from(names: Names) -> Self {
        names.to_string()
    }
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0.pattern())
    }
}

impl Names {
    /// The weight of this name alone. A `*` or `?` in it stands for any.
    pub fn exactly(weight: &str) -> Self {
        weight.to_owned().into()
    }

    /// Whether a weight is among them, by its name or that of its layer: `fc1` is `fc1.weight`, too.
    pub fn matches(&self, weight: &str) -> bool {
        self.0.matches(weight) || weight.strip_suffix(".weight").is_some_and(|layer| self.0.matches(layer))
    }

    /// Refuses names that no weight of a network has.
    pub(crate) fn check<'s>(&self, weights: impl Iterator<Item = &'s str> + Clone) -> Result<()> {
        const SHOWN: usize = 12;
        if weights.clone().any(|w| self.matches(w)) {
            return Ok(());
        }
        let hint = closest(&self.to_string(), weights.clone());
        let mut there: Vec<&str> = weights.clone().take(SHOWN).collect();
        let rest = weights.count().saturating_sub(SHOWN);
        let more = format!("{rest} more");
        there.extend((rest > 0).then_some(more.as_str()));
        Err(Error::Refused(format!(
            "no weight that can be pruned is named `{self}`{hint}; there are {}",
            there.join(", ")
        )))
    }
}

/// Options for the layers of some names.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerOptions {
    /// The layers.
    pub names: Names,
    /// Options in place of those for the others. Without any the layers stay as they are.
    pub options: toml::Table,
}

/// The option by which layers stay as they are.
const KEEP: &str = "keep";

impl LayerOptions {
    /// The option of every method that lists them.
    pub const KEY: &str = "layers";

    /// Takes them out of a method's options: `layers = [{ name = "fc*", density = 0.3 }, { name = "out*", keep = true }]`.
    ///
    /// # Errors
    /// When they are not such a list.
    pub fn take(options: &mut toml::Table) -> Result<Vec<Self>> {
        let bad = || {
            Error::Refused(
                "layers is a list of tables, each with the name of layers and options for them, such as layers = [{ name = \
                 \"fc*\", density = 0.3 }]"
                    .into(),
            )
        };
        let list = match options.remove(Self::KEY) {
            None => return Ok(Vec::new()),
            Some(toml::Value::Array(list)) => list,
            Some(_) => return Err(bad()),
        };
        let each = |entry: toml::Value| {
            let toml::Value::Table(mut options) = entry else { return Err(bad()) };
            let Some(toml::Value::String(name)) = options.remove("name") else { return Err(bad()) };
            match (options.remove(KEEP), options.is_empty()) {
                (Some(toml::Value::Boolean(true)), true) | (None, false) => Ok(Self { names: name.into(), options }),
                _ => Err(Error::Refused(format!(
                    "layers `{name}` take options of the method, such as density = 0.3, or keep = true alone"
                ))),
            }
        };
        list.into_iter().map(each).collect()
    }

    /// All options of these layers, where the others have `general`. A density that their pattern fixes follows from it, and a density
    /// of their own frees them from a general pattern that fixes another.
    pub(crate) fn over(&self, general: &toml::Table, defaults: &toml::Table) -> toml::Table {
        let fixed = |table: &toml::Table| {
            table.get("pattern").and_then(toml::Value::as_str).and_then(|p| p.parse::<Pattern>().ok()?.fixed_density())
        };
        let mut all = general.clone();
        match (fixed(&self.options), defaults.get("pattern")) {
            (Some(density), _) if general.contains_key("density") => all.extend([("density".into(), density.into())]),
            (None, Some(free)) if self.options.contains_key("density") && fixed(general).is_some() => {
                all.extend([("pattern".into(), free.clone())]);
            }
            _ => {}
        }
        all.extend(self.options.clone());
        all
    }
}

impl FromStr for LayerOptions {
    type Err = Error;

    /// As the command line has it: NAME=DENSITY, NAME=PATTERN, NAME=keep, or NAME=OPTION=VALUE and more of them after commas.
    fn from_str(text: &str) -> Result<Self> {
        let bad = || {
            Error::Refused(format!(
                "`{text}`: expected NAME=DENSITY, NAME=PATTERN, NAME=keep or NAME=OPTION=VALUE, such as 'fc*=0.3', 'fc*=2:4' \
                 or 'fc*=density=0.3,pattern=per-row'"
            ))
        };
        let (name, what) = text.split_once('=').filter(|(name, _)| !name.trim().is_empty()).ok_or_else(bad)?;
        let what = what.trim();
        let mut options = toml::Table::new();
        if let Ok(density) = what.parse::<f64>() {
            options.insert("density".into(), density.into());
        } else if what.contains('=') {
            for pair in what.split(',') {
                let (key, value) = pair.split_once('=').ok_or_else(bad)?;
                let (key, value) = (key.trim(), value.trim());
                let parsed = toml::from_str::<toml::Table>(&format!("value = {value}")).ok();
                let value = parsed.and_then(|mut t| t.remove("value")).unwrap_or_else(|| value.into());
                if options.insert(key.into(), value).is_some() {
                    return Err(Error::Refused(format!("`{text}`: {key} is given twice")));
                }
            }
        } else if what != KEEP {
            what.parse::<Pattern>().map_err(|_| bad())?;
            options.insert("pattern".into(), what.into());
        }
        Ok(Self { names: name.trim().to_owned().into(), options })
    }
}

impl LayerOptions {
    /// Keeps layers as they are.
    pub fn keep(names: Names) -> Self {
        Self { names, options: toml::Table::new() }
    }

    fn table(self) -> toml::Table {
        let mut table = toml::Table::from_iter([("name".to_owned(), self.names.to_string().into())]);
        if self.options.is_empty() {
            table.insert(KEEP.into(), true.into());
        }
        table.extend(self.options);
        table
    }

    /// Adds these to the options of a method, after those that are there.
    pub fn add(options: &mut toml::Table, more: impl IntoIterator<Item = Self>) {
        let more: Vec<toml::Value> = more.into_iter().map(|l| l.table().into()).collect();
        // What is there and no list is refused by the method.
        match (options.get_mut(Self::KEY), more.is_empty()) {
            (Some(toml::Value::Array(list)), _) => list.extend(more),
            (None, false) => drop(options.insert(Self::KEY.into(), more.into())),
            _ => {}
        }
    }
}

/// A method for the layers of some names; without one they stay as they are.
pub(crate) struct Part {
    /// The layers; all that no later part names, if left out.
    pub names: Option<Names>,
    /// What the method does to them.
    pub sparsifier: Option<Box<dyn Sparsifier>>,
}

/// A sparsifier for each set of layers. Each sees its own targets only, numbered from 0, and divides its budget among them. A target
/// belongs to the last part that names it.
pub(crate) struct ByLayer {
    parts: Vec<Part>,
    /// The part of every target, and its number in it; once shapes are known.
    places: OnceLock<Vec<(usize, usize)>>,
}

impl ByLayer {
    pub fn new(parts: Vec<Part>) -> Self {
        Self { parts, places: OnceLock::new() }
    }

    fn part(&self, name: &str) -> Option<usize> {
        self.parts.iter().rposition(|p| p.names.as_ref().is_none_or(|names| names.matches(name)))
    }

    /// Finds the part of every target.
    fn places(&self, shapes: &[&Shape]) -> &[(usize, usize)] {
        self.places.get_or_init(|| {
            let mut counts = vec![0; self.parts.len()];
            let place = |s: &&Shape| {
                // The first part takes all; a target that none takes would be one of it.
                let part = self.part(&s.name).unwrap_or(0);
                counts[part] += 1;
                (part, counts[part] - 1)
            };
            shapes.iter().map(place).collect()
        })
    }

    /// The targets of a part, in order.
    fn of(&self, part: usize, shapes: &[&Shape]) -> Vec<usize> {
        let places = self.places(shapes);
        (0..shapes.len()).filter(|&i| places.get(i).is_some_and(|p| p.0 == part)).collect()
    }

    /// What of a whole set of targets a part owns.
    fn known(&self, index: usize) -> Option<(usize, usize)> {
        self.places.get()?.get(index).copied()
    }

    /// The target that a part knows by `local`.
    fn whole(&self, part: usize, local: usize) -> usize {
        let places = self.places.get().map_or(&[][..], Vec::as_slice);
        places.iter().position(|p| *p == (part, local)).unwrap_or(local)
    }

    /// Parts that have targets, as far as that is known, with what they do.
    fn at_work(&self) -> impl Iterator<Item = (usize, &dyn Sparsifier)> {
        let used = |i: usize| self.places.get().is_none_or(|places| places.iter().any(|p| p.0 == i));
        self.parts.iter().enumerate().filter_map(move |(i, p)| Some((i, p.sparsifier.as_deref().filter(|_| used(i))?)))
    }

    /// The part whose turn it is where parts measure the inputs of one target at a time: that of the earliest one.
    fn turn(&self, step: u64) -> Option<(usize, Signals)> {
        let next = self.at_work().filter_map(|(part, s)| match s.plan(step) {
            Plan::Rewire(signals) => Some((part, Signals { gram: Some(self.whole(part, signals.gram?)), ..signals })),
            _ => None,
        });
        next.min_by_key(|(_, signals)| signals.gram)
    }

    /// Targets by part, each as its part knows it, with its place among those given.
    fn split<'t>(&self, targets: &[Target<'t>]) -> Vec<Vec<(usize, Target<'t>)>> {
        let mut all = vec![Vec::new(); self.parts.len()];
        for (at, t) in targets.iter().enumerate() {
            let (part, index) = self.known(t.index).unwrap_or((self.part(&t.shape.name).unwrap_or(0), t.index));
            all[part].push((at, Target { index, ..*t }));
        }
        all
    }
}

impl Sparsifier for ByLayer {
    fn initial_topologies(&self, shapes: &[&Shape]) -> Result<Option<Vec<Topology>>> {
        let mut drawn: Vec<Option<Topology>> = vec![None; shapes.len()];
        let mut sparse = false;
        for (part, Part { sparsifier, .. }) in self.parts.iter().enumerate() {
            let of = self.of(part, shapes);
            let Some(sparsifier) = sparsifier.as_ref().filter(|_| !of.is_empty()) else { continue };
            let own: Vec<&Shape> = of.iter().map(|&i| shapes[i]).collect();
            if let Some(topologies) = sparsifier.initial_topologies(&own)? {
                sparse = true;
                of.iter().zip(topologies).for_each(|(&i, t)| drawn[i] = Some(t));
            }
        }
        let all = drawn.into_iter().zip(shapes).map(|(t, s)| t.unwrap_or_else(|| Topology::full(s.rows, s.cols)));
        Ok(sparse.then(|| all.collect()))
    }

    fn kind(&self) -> TargetKind {
        self.parts.iter().find_map(|p| p.sparsifier.as_ref()).map_or(TargetKind::Weights, |s| s.kind())
    }

    fn check(&self, shapes: &[&Shape]) -> Result<()> {
        for (part, Part { names, sparsifier }) in self.parts.iter().enumerate() {
            names.iter().try_for_each(|names| names.check(shapes.iter().map(|s| s.name.as_str())))?;
            let own: Vec<&Shape> = self.of(part, shapes).iter().map(|&i| shapes[i]).collect();
            match sparsifier {
                Some(sparsifier) if !own.is_empty() => sparsifier.check(&own)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn plan(&self, step: u64) -> Plan {
        if let Some((_, signals)) = self.turn(step) {
            return Plan::Rewire(signals);
        }
        let both = |all: Plan, one: Plan| match (all, one) {
            (Plan::Rest, plan) | (plan, Plan::Rest) => plan,
            (Plan::Observe(a), Plan::Observe(b)) => Plan::Observe(a.and(b)),
            (Plan::Rewire(a) | Plan::Observe(a), Plan::Rewire(b) | Plan::Observe(b)) => Plan::Rewire(a.and(b)),
        };
        self.at_work().map(|(_, s)| s.plan(step)).fold(Plan::Rest, both)
    }

    fn rounds(&self, step: u64) -> u32 {
        self.at_work().map(|(_, s)| s.rounds(step)).max().unwrap_or(1)
    }

    fn candidates(&self, step: u64, index: usize, topology: &Topology) -> Vec<u64> {
        let Some((part, index)) = self.known(index) else { return Vec::new() };
        self.parts[part].sparsifier.as_ref().map_or(Vec::new(), |s| s.candidates(step, index, topology))
    }

    fn observe(&mut self, step: u64, targets: &[Target]) {
        let split = self.split(targets);
        for (own, part) in split.into_iter().zip(&mut self.parts) {
            let own: Vec<Target> = own.into_iter().map(|(_, t)| t).collect();
            match &mut part.sparsifier {
                Some(s) if !own.is_empty() && matches!(s.plan(step), Plan::Observe(_)) => s.observe(step, &own),
                _ => {}
            }
        }
    }

    fn layerwise(&self) -> bool {
        self.at_work().all(|(_, s)| s.layerwise())
    }

    fn divide(&mut self, step: u64, shapes: &[&Shape], show: &mut Show) -> Result<bool> {
        for part in 0..self.parts.len() {
            let of = self.of(part, shapes);
            let own: Vec<&Shape> = of.iter().map(|&i| shapes[i]).collect();
            let Some(sparsifier) = self.parts[part].sparsifier.as_mut().filter(|_| !of.is_empty()) else { continue };
            let mut own_show =
                |index: usize, see: &mut dyn FnMut(&Target)| show(of[index], &mut |t| see(&Target { index, ..*t }));
            if !sparsifier.divide(step, &own, &mut own_show)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn rewire(&mut self, step: u64, targets: &[Target]) -> Result<Vec<Edit>> {
        let turn = self.turn(step).map(|(part, _)| part);
        let mut edits = vec![Edit::Keep; targets.len()];
        for (part, own) in self.split(targets).into_iter().enumerate() {
            let Some(sparsifier) = self.parts[part].sparsifier.as_mut().filter(|_| !own.is_empty()) else { continue };
            let (at, own): (Vec<usize>, Vec<Target>) = own.into_iter().unzip();
            match sparsifier.plan(step) {
                Plan::Rewire(_) if turn.is_none_or(|t| t == part) => {
                    at.into_iter().zip(sparsifier.rewire(step, &own)?).for_each(|(i, edit)| edits[i] = edit);
                }
                Plan::Observe(_) => sparsifier.observe(step, &own),
                _ => {}
            }
        }
        Ok(edits)
    }

    fn proximal(&self) -> bool {
        self.at_work().any(|(_, s)| s.proximal())
    }

    fn after_step(&mut self, step: u64, lr: f64, targets: &mut [TargetMut]) {
        let places = self.places.get().map_or(&[][..], Vec::as_slice);
        for (part, Part { sparsifier, .. }) in self.parts.iter_mut().enumerate() {
            let Some(sparsifier) = sparsifier.as_mut().filter(|s| s.proximal()) else { continue };
            let own = targets.iter_mut().filter_map(|t| match places.get(t.index) {
                Some(&(of, index)) if of == part => Some(TargetMut { index, values: &mut *t.values, ..*t }),
                _ => None,
            });
            sparsifier.after_step(step, lr, &mut own.collect::<Vec<_>>());
        }
    }

    fn state(&self) -> Value {
        self.parts.iter().map(|p| p.sparsifier.as_ref().map_or(Value::Null, |s| s.state())).collect()
    }

    fn restore(&mut self, state: &Value) -> Result<()> {
        let mut sparsifiers = self.parts.iter_mut().enumerate().filter_map(|(i, p)| Some((i, p.sparsifier.as_mut()?)));
        sparsifiers.try_for_each(|(i, s)| s.restore(&state[i]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Budget, Build, DistributionKind, Magnitude, Method, MethodInstance, OneShot, Sensitivity, Setting, options,
        subject,
    };

    options! {
        #[flatten]
        /// Density and pattern.
        budget: Budget = Budget::new(0.5, DistributionKind::Uniform),
        /// Whether gradients count.
        gradient: bool = false,
    }

    impl Build for Options {
        fn build(self, setting: &Setting) -> Result<MethodInstance> {
            let when = OneShot { at: 0, density: self.budget.density };
            Ok(match self.gradient {
                true => self.budget.prune(Sensitivity, when, setting).into(),
                false => self.budget.prune(Magnitude, when, setting).into(),
            })
        }
    }

    const METHOD: Method = Method::new::<Options>("magnitude", "magnitude", "Keeps the largest.");
    const SETTING: Setting = Setting { seed: 0, steps: 0, steps_per_epoch: 1 };

    fn options(text: &str) -> toml::Table {
        text.parse().unwrap()
    }

    /// Densities of layers `a`, `b1`, `b2` and `c` of 8 x 8 after pruning.
    fn densities(text: &str) -> Result<Vec<f64>> {
        let shapes = ["a.weight", "b1.weight", "b2.weight", "c.weight"].map(|n| Shape::matrix(n, 8, 8));
        let mut work = METHOD.build(&options(text), &SETTING)?;
        subject::trained(&work, &shapes)?;
        let (full, values) = (Topology::full(8, 8), (0..64).map(|v| v as f32).collect::<Vec<_>>());
        let targets: Vec<Target> = shapes
            .iter()
            .enumerate()
            .map(|(i, s)| Target { gradient: &values, ..Target::new(i, s, &full, &values) })
            .collect();
        let edits = work.sparsifier.rewire(0, &targets)?;
        Ok(edits
            .iter()
            .map(|e| match e {
                Edit::Rewire { topology, .. } => topology.density(),
                _ => 1.0,
            })
            .collect())
    }

    #[test]
    fn layers_have_options_of_their_own() {
        let of = |text: &str| densities(text).unwrap();
        assert_eq!(of("density = 0.5"), [0.5; 4]);
        assert_eq!(of("density = 0.5\nlayers = [{ name = 'b*', density = 0.25 }]"), [0.5, 0.25, 0.25, 0.5]);
        // The last one that names a layer counts.
        let two =
            "layers = [{ name = 'b*', density = 0.25 }, { name = 'b2', density = 0.125 }, { name = 'c', keep = true }]";
        assert_eq!(of(two), [0.5, 0.25, 0.125, 1.0]);
        // A pattern that fixes the density says it; a density frees from such a pattern.
        assert_eq!(of("density = 0.125\nlayers = [{ name = 'a', pattern = '2:4' }]"), [0.5, 0.125, 0.125, 0.125]);
        assert_eq!(of("pattern = '2:4'\nlayers = [{ name = 'a', density = 0.125 }]"), [0.125, 0.5, 0.5, 0.5]);
        // One threshold for the layers that share a part.
        let global = "distribution = 'global'\nlayers = [{ name = 'a', keep = true }]";
        assert_eq!(of(global), [1.0, 0.5, 0.5, 0.5]);
    }

    #[test]
    fn signals_of_all_parts_are_measured() {
        let work = METHOD.build(&options("layers = [{ name = 'b*', gradient = true }]"), &SETTING).unwrap();
        assert_eq!(work.sparsifier.plan(0), Plan::Rewire(Signals::GRADIENT));
        assert_eq!(densities("layers = [{ name = 'b*', gradient = true }]").unwrap(), [0.5; 4]);
    }

    #[test]
    fn wrong_layers_are_refused_by_name() {
        for (text, said) in [
            ("layers = [{ name = 'd*', density = 0.5 }]", "is named `d*`; there are a.weight, b1.weight"),
            ("layers = [{ name = 'a', densty = 0.5 }]", "did you mean `density`?"),
            ("layers = [{ name = 'a', density = 2.0 }]", "density must be"),
            ("layers = [{ name = 'a' }]", "take options of the method"),
            ("layers = [{ name = 'a', keep = true, density = 0.5 }]", "take options of the method"),
            ("layers = 0.5", "layers is a list of tables"),
            ("layers = [0.5]", "layers is a list of tables"),
            ("layers = [{ name = 'a', pattern = '3:5' }]", "a.weight"),
        ] {
            let why = densities(text).unwrap_err().to_string();
            assert!(why.contains(said), "{text}: {why}");
        }
    }

    #[test]
    fn the_command_line_says_the_same() {
        for (text, table) in [
            ("fc*=0.3", "name = 'fc*'\ndensity = 0.3"),
            ("blocks.*.mlp=2:4", "name = 'blocks.*.mlp'\npattern = '2:4'"),
            ("head=keep", "name = 'head'\nkeep = true"),
            ("a=density=0.3,every=5 steps", "name = 'a'\ndensity = 0.3\nevery = '5 steps'"),
        ] {
            let read: LayerOptions = text.parse().unwrap();
            assert_eq!(read.clone().table(), options(table));
            let mut all = options("layers = []");
            LayerOptions::add(&mut all, [read.clone()]);
            assert_eq!(LayerOptions::take(&mut all).unwrap(), [read]);
            assert!(all.is_empty());
        }
        for text in ["fc", "=0.3", "fc=often", "fc=a=1,b", "fc=a=1,a=2"] {
            assert!(text.parse::<LayerOptions>().is_err(), "{text}");
        }
    }

    /// Measures its two layers, one after the other.
    struct OneByOne(usize);

    impl Sparsifier for OneByOne {
        fn check(&self, _: &[&Shape]) -> Result<()> {
            Ok(())
        }

        fn plan(&self, _: u64) -> Plan {
            match self.0 {
                2 => Plan::Rest,
                next => Plan::Rewire(Signals { gram: Some(next), ..Signals::NONE }),
            }
        }

        fn rewire(&mut self, _: u64, targets: &[Target]) -> Result<Vec<Edit>> {
            self.0 += 1;
            Ok(vec![Edit::Keep; targets.len()])
        }
    }

    #[test]
    fn layers_are_measured_in_their_order_whatever_their_part() {
        let part = |names: Option<&str>| Part {
            names: names.map(|n| n.to_owned().into()),
            sparsifier: Some(Box::new(OneByOne(0))),
        };
        let mut all = ByLayer::new(vec![part(None), part(Some("b*"))]);
        let shapes = ["a", "b1", "c", "b2"].map(|n| Shape::matrix(n, 2, 2));
        all.check(&shapes.iter().collect::<Vec<_>>()).unwrap();
        let (full, values) = (Topology::full(2, 2), [1.0; 4]);
        let targets: Vec<Target> = shapes.iter().enumerate().map(|(i, s)| Target::new(i, s, &full, &values)).collect();
        let measured: Vec<Option<usize>> = (0..4)
            .map(|_| {
                let Plan::Rewire(signals) = all.plan(0) else { panic!("it rests") };
                all.rewire(0, &targets).unwrap();
                signals.gram
            })
            .collect();
        assert_eq!(measured, [0, 1, 2, 3].map(Some));
        assert_eq!(all.plan(0), Plan::Rest);
    }
}
