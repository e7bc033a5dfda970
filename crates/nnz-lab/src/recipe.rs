use crate::experiment::ExperimentRecipe;
use crate::{Claim, Error, Result};
use include_dir::{Dir, include_dir};
use nnz_core::{Pattern, Registry, closest};
use nnz_engine::data::Dataset;
use nnz_engine::file::{Header, load_model};
use nnz_engine::{Layers, Model, ModelSpec, OptimizerSpec, Storage, StoragePolicy, Task, TrainSpec};
use nnz_foreign::onnx::{Normalize, learner};
use serde::de::DeserializeOwned;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::Path;
use toml::{Table, Value};

static RECIPES: Dir = include_dir!("$CARGO_MANIFEST_DIR/../../recipes");

/// Precision of all arithmetic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Precision {
    /// 32 bits.
    #[default]
    F32,
    /// 64 bits, for checks.
    F64,
}

/// The network of a recipe.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Network {
    /// A name, e.g. `mlp:784-300-100-10`, or a TOML file with its layers, which [`Recipe::resolve`] reads.
    Named(String),
    /// A specification, layer by layer.
    Written(ModelSpec),
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameOrTable;
        impl<'de> Visitor<'de> for NameOrTable {
            type Value = Network;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("the name of a network, a TOML file, or a table with name, input and layers")
            }

            fn visit_str<E>(self, name: &str) -> Result<Network, E> {
                Ok(Network::Named(name.into()))
            }

            // Not an untagged enum, whose errors would not name the mistake inside.
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Network, A::Error> {
                ModelSpec::deserialize(MapAccessDeserializer::new(map)).map(Network::Written)
            }
        }
        deserializer.deserialize_any(NameOrTable)
    }
}

impl From<&str> for Network {
    fn from(name: &str) -> Self {
        Self::Named(name.into())
    }
}

impl Network {
    /// Its name in tables.
    pub fn name(&self) -> &str {
        match self {
            Self::Named(name) => name,
            Self::Written(spec) => &spec.name,
        }
    }

    /// Replaces the name of a TOML file by its layers, and looks up layers of other crates among those known.
    pub(crate) fn read(self) -> Result<Self> {
        let file = match self {
            Self::Written(mut spec) => {
                spec.bind(Layers::known())?;
                return Ok(Self::Written(spec));
            }
            Self::Named(file) if file.ends_with(".toml") => file,
            Self::Named(_) => return Ok(self),
        };
        let text = std::fs::read_to_string(&file)
            .map_err(|e| Error::Recipe { place: file.clone(), why: format!("cannot read the network: {e}") })?;
        let bad = |why: String| Error::Recipe { place: file.clone(), why: format!("no network: {}", why.trim()) };
        let mut spec: ModelSpec = toml::from_str(&text).map_err(|e| bad(e.to_string()))?;
        spec.bind(Layers::known()).map_err(|e| bad(e.to_string()))?;
        Ok(Self::Written(spec))
    }

    /// Its layers, for a task on data.
    pub fn spec(&self, data: &Dataset, task: Task) -> Result<ModelSpec> {
        let outputs = task.outputs(data.classes.len(), data.image);
        let spec = match self {
            Self::Named(name) if name.starts_with("gcn:") => {
                let why = || format!("{} comes with no graph", data.name);
                let bad = || nnz_engine::Error::Model { spec: name.clone(), why: why() };
                return Ok(ModelSpec::gcn(name, data.graph.as_ref().ok_or_else(bad)?, outputs)?);
            }
            Self::Named(name) => return Ok(ModelSpec::parse(name, data.image, outputs)?),
            Self::Written(spec) => spec.clone(),
        };
        let bad = |why: String| nnz_engine::Error::Model { spec: spec.name.clone(), why };
        if spec.input != data.image {
            let why = format!(
                "its input is {:?} (channels, height, width), but {} has {:?}",
                spec.input, data.name, data.image
            );
            return Err(bad(why).into());
        }
        spec.check(outputs).map_err(bad)?;
        Ok(spec)
    }
}

/// Size at which a claim is run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scale {
    /// Seconds: shows that the recipe runs, proves nothing.
    Smoke,
    /// All arms and seeds in minutes on two cores.
    #[default]
    Small,
}

/// Everything a run needs: arms that differ in method, over the same data, model, training and seeds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// One line.
    pub title: String,
    /// Data set: a known name, or a directory.
    pub data: String,
    /// Network: a name such as `mlp:784-300-100-10`, a TOML file, or a table with its layers.
    pub model: Network,
    /// Seeds; every arm trains one network for each.
    pub seeds: Vec<u64>,
    /// Precision of all arithmetic.
    #[serde(default)]
    pub precision: Precision,
    /// How every arm is trained.
    pub train: TrainSpec,
    /// Pretraining that every arm starts from instead of random values: the network, trained densely on other data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pretrain: Option<Pretrain>,
    /// A trained network that every arm starts from: its file takes the place of `model`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Start>,
    /// Arms to compare; the report is about the first.
    #[serde(rename = "arm")]
    pub arms: Vec<Arm>,
    /// Claim of the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<Claim>,
    /// Keys that differ at smoke scale; `epochs` applies to every training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub smoke: Option<Table>,
}

/// A training before the arms', on other data and otherwise like theirs, once for each seed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pretrain {
    /// Data set, with images and as many classes as the recipe's.
    pub data: String,
    /// Passes over it.
    pub epochs: u32,
}

/// A network that was trained before, by nnz or by another program.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Start {
    /// Its file: of nnz, ONNX, or a checkpoint of a known architecture.
    pub network: String,
    /// How values become its inputs, if its file does not say: `unit`, `raw`, `data`, `imagenet` or `MEAN:DEVIATION`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub normalize: Option<String>,
}

impl Start {
    /// Reads it, for a data set.
    ///
    /// # Errors
    /// When it does not fit the data, or cannot be trained.
    pub fn load(&self, data: &Dataset, train: &TrainSpec) -> Result<(Model<f32>, Header)> {
        let path = Path::new(&self.network);
        let refuse = |why: String| Err(Error::file(path, why));
        let foreign = path.extension().is_some_and(|e| e == "onnx") || nnz_foreign::llm::foreign(path);
        if foreign && !nnz_foreign::onnx::known(path) {
            return refuse("language models and weights without a network are not trained on data sets".into());
        }
        if foreign {
            let how = self.normalize.as_deref().map(str::parse::<Normalize>).transpose();
            let how = how.map_err(|why| Error::file(path, format!("normalize {why}")))?;
            let network = nnz_foreign::onnx::Network::open(path)?;
            return Ok(learner(&network, data, how.as_ref(), &StoragePolicy::default(), &train.prunable())?);
        }
        if self.normalize.is_some() {
            return refuse("says itself how values become its inputs; leave out normalize".into());
        }
        let (model, header): (Model<f32>, Header) = load_model(path, train.policy_ref())?;
        if header.model.input != data.image || header.classes.len() != data.classes.len() {
            return refuse(format!(
                "takes {:?} (channels, height, width) and gives {} outputs, but {} has {:?} and {}",
                header.model.input,
                header.classes.len(),
                data.name,
                data.image,
                data.classes.len()
            ));
        }
        Ok((model, header))
    }
}

/// One of the arms compared.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Arm {
    /// Its name in tables.
    pub name: String,
    /// The method's key; `None` trains densely.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// A network that replaces the recipe's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<Network>,
    /// Narrow the model until it has as many weights as this earlier arm has nonzeros.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub narrow_to: Option<String>,
    /// Training settings that differ in this arm, such as its learning rate.
    #[serde(default, skip_serializing_if = "Table::is_empty")]
    pub train: Table,
    /// Options of the method.
    #[serde(default, skip_serializing_if = "Table::is_empty")]
    pub options: Table,
}

impl Arm {
    /// One sentence.
    pub fn summary(&self, registry: Registry) -> String {
        match (&self.method, &self.narrow_to) {
            (Some(key), _) => registry.find(key).map_or_else(|e| e.to_string(), |m| m.summary.into()),
            (None, Some(of)) => format!("A small dense network with as many weights as {of} has nonzeros."),
            (None, None) => "The whole network, dense.".into(),
        }
    }
}

impl Recipe {
    /// Reads a recipe; `place` names it in errors.
    pub fn parse(text: &str, place: &str) -> Result<Self> {
        let mut document: Table = toml::from_str(text).map_err(|e| at_line(&e, text, place))?;
        let recipe: Self = match like(&mut document, place)? {
            true => document.try_into().map_err(|e: toml::de::Error| at_line(&e, "", place))?,
            false => toml::from_str(text).map_err(|e| at_line(&e, text, place))?,
        };
        recipe.check(place)?;
        Ok(recipe)
    }

    /// Training settings of one of its arms.
    ///
    /// # Errors
    /// When the arm's own settings are invalid.
    pub fn training(&self, arm: &Arm) -> Result<TrainSpec> {
        if arm.train.is_empty() {
            return Ok(self.train.clone());
        }
        let mut train: TrainSpec =
            merge(&self.train, &arm.train, &format!("{}, [arm.train] of {}", self.title, arm.name))?;
        if train.storage != Storage::Auto {
            train.crossovers = Default::default();
        }
        Ok(train)
    }

    /// Formats it as TOML.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string_pretty(self).map_err(|e| Error::Recipe { place: self.title.clone(), why: e.to_string() })
    }

    /// Refuses invalid recipes.
    pub fn check(&self, place: &str) -> Result<()> {
        let bad = |why: String| Err(Error::Recipe { place: place.into(), why });
        if self.seeds.is_empty() {
            return bad("needs at least one seed".into());
        }
        let mut sorted = self.seeds.clone();
        sorted.sort_unstable();
        sorted.dedup();
        if sorted.len() != self.seeds.len() {
            return bad("names a seed twice".into());
        }
        if self.arms.is_empty() {
            return bad("needs at least one [[arm]]".into());
        }
        check_training(&self.train).or_else(bad)?;
        for arm in &self.arms {
            let train = self.training(arm)?;
            check_training(&train).or_else(|why| bad(format!("arm `{}`: {why}", arm.name)))?;
            if train.task != self.train.task || arm.train.contains_key("crossovers") {
                return bad(format!("arm `{}`: task and crossovers are those of all arms", arm.name));
            }
        }
        for (i, arm) in self.arms.iter().enumerate() {
            if self.arms[..i].iter().any(|a| a.name == arm.name) {
                return bad(format!("two arms are named `{}`", arm.name));
            }
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            if arm.name.is_empty() || !arm.name.chars().all(plain) {
                return bad(format!("arm `{}`: names are made of letters, digits, `-`, `_` and `.`", arm.name));
            }
            if let Some(of) = arm.narrow_to.as_ref().filter(|of| !self.arms[..i].iter().any(|a| a.name == **of)) {
                return bad(format!("arm `{}` is narrowed to `{of}`, which is no arm before it", arm.name));
            }
            if self.pretrain.is_some() && (arm.model.is_some() || arm.narrow_to.is_some()) {
                return bad(format!("arm `{}` has a network of its own, which is not pretrained", arm.name));
            }
            if self.from.is_some() && (arm.model.is_some() || arm.narrow_to.is_some()) {
                return bad(format!("arm `{}` has a network of its own, which starts from no other", arm.name));
            }
            if self.from.is_some() && self.pretrain.is_some() {
                return bad("starts from a network that is trained already, so it is not pretrained".into());
            }
            if arm.method.is_none() && !arm.options.is_empty() {
                return bad(format!("arm `{}` has options but no method", arm.name));
            }
        }
        match &self.claim {
            Some(claim) => claim.check(&self.arms.iter().map(|a| &*a.name).collect::<Vec<_>>()).or_else(bad),
            None => Ok(()),
        }
    }

    /// The recipe at a scale.
    ///
    /// # Errors
    /// When the changes of smoke scale are invalid.
    pub fn at(mut self, scale: Scale) -> Result<Self> {
        let (Scale::Smoke, Some(mut smoke)) = (scale, self.smoke.take()) else { return Ok(self) };
        let bad = |why: &str| Error::Recipe { place: format!("{}, [smoke]", self.title), why: why.into() };
        if let Some(epochs) = smoke.remove("epochs") {
            let whole = epochs.as_integer().and_then(|n| u32::try_from(n).ok());
            self.train.epochs = whole.ok_or_else(|| bad("epochs is a whole number"))?;
            if let Some(pretrain) = &mut self.pretrain {
                pretrain.epochs = pretrain.epochs.min(self.train.epochs);
            }
        }
        let recipe: Self = merge(&self, &smoke, &format!("{}, [smoke]", self.title))?;
        recipe.check(&recipe.title)?;
        Ok(recipe)
    }

    /// Reads the network's file and fills in every option of every arm, so that the recipe is complete; an unregistered method is refused. A pattern that fixes the density
    /// sets it if none was given.
    pub fn resolve(mut self, registry: Registry) -> Result<Self> {
        self.model = self.model.read()?;
        for arm in &mut self.arms {
            arm.model = arm.model.take().map(Network::read).transpose()?;
            let Some(key) = &arm.method else { continue };
            let method = registry.find(key)?;
            let given = std::mem::take(&mut arm.options);
            arm.options = method.options(&given)?;
            if let (Some(toml::Value::String(pattern)), None) = (given.get("pattern"), given.get("density"))
                && let Some(fixed) = pattern.parse::<Pattern>()?.fixed_density()
                && arm.options.contains_key("density")
            {
                arm.options.insert("density".into(), fixed.into());
            }
        }
        Ok(self)
    }
}

/// Content of a recipe file.
#[derive(Clone, Debug, PartialEq)]
pub enum Plan {
    /// Trainings of a network.
    Training(Box<Recipe>),
    /// Runs of an experiment.
    Experiment(Box<ExperimentRecipe>),
}

impl Plan {
    /// Parses a recipe; one with `run` at the top level is for an experiment. `place` names it in errors.
    ///
    /// # Errors
    /// When it is not a recipe, with the line.
    pub fn parse(text: &str, place: &str) -> Result<Self> {
        let document: Table = toml::from_str(text).map_err(|e| at_line(&e, text, place))?;
        if !document.contains_key("run") {
            return Ok(Self::Training(Box::new(Recipe::parse(text, place)?)));
        }
        let recipe: ExperimentRecipe = toml::from_str(text).map_err(|e| at_line(&e, text, place))?;
        recipe.check(place)?;
        Ok(Self::Experiment(Box::new(recipe)))
    }

    /// The recipe at a scale.
    ///
    /// # Errors
    /// When the changes of smoke scale are invalid.
    pub fn at(self, scale: Scale) -> Result<Self> {
        Ok(match self {
            Self::Training(recipe) => Self::Training(Box::new(recipe.at(scale)?)),
            Self::Experiment(recipe) => Self::Experiment(Box::new(recipe.at(scale)?)),
        })
    }

    /// Its claim.
    pub fn claim(&self) -> Option<&crate::Claim> {
        match self {
            Self::Training(recipe) => recipe.claim.as_ref(),
            Self::Experiment(recipe) => recipe.claim.as_ref(),
        }
    }

    /// Whether it has a smoke scale.
    pub fn smokes(&self) -> bool {
        match self {
            Self::Training(recipe) => recipe.smoke.is_some(),
            Self::Experiment(recipe) => recipe.smoke.is_some(),
        }
    }
}

/// Adds the line to a parser's error.
fn at_line(e: &toml::de::Error, text: &str, place: &str) -> Error {
    let why = e.message().trim().replace('\n', " ");
    match e.span().and_then(|s| text.get(..s.start)) {
        Some(before) => {
            let line = before.matches('\n').count() + 1;
            Error::Recipe { place: format!("{place}, line {line}"), why }
        }
        None => Error::Recipe { place: place.into(), why },
    }
}

/// Refuses invalid training settings.
fn check_training(train: &TrainSpec) -> Result<(), String> {
    if train.epochs == 0 {
        return Err("needs at least one epoch".into());
    }
    if train.batch == 0 {
        return Err("a batch needs at least one row (`--batch`)".into());
    }
    for (name, share) in [("validation", train.validation), ("warmup", train.warmup)] {
        if !(0.0..1.0).contains(&share) {
            return Err(format!("{name} is a share, at least 0 and below 1, got {share}"));
        }
    }
    if !(train.optimizer.lr() > 0.0 && train.optimizer.lr().is_finite()) {
        return Err(format!("the learning rate must be above 0, got {}", train.optimizer.lr()));
    }
    match train.optimizer {
        OptimizerSpec::Lbfgs { memory, .. } if !(1..=1000).contains(&memory) => {
            Err(format!("lbfgs remembers 1 to 1000 steps, got {memory}"))
        }
        _ => Ok(()),
    }
}

/// Merges a shared block of settings into `[train]`, if it says `like = "NAME"`; the recipe's own settings win. Whether it
/// did. The blocks are `recipes/train/NAME.toml`.
fn like(document: &mut Table, place: &str) -> Result<bool> {
    let Some(Value::Table(train)) = document.get_mut("train") else { return Ok(false) };
    let Some(name) = train.remove("like") else { return Ok(false) };
    let bad = |why: String| Error::Recipe { place: format!("{place}, [train]"), why };
    let name = name.as_str().ok_or_else(|| bad("like names a block of settings".into()))?.to_owned();
    let blocks = RECIPES.get_dir("train").into_iter().flat_map(Dir::files);
    let known: Vec<(String, &str)> =
        blocks.filter_map(|f| Some((f.path().file_stem()?.to_str()?.to_owned(), f.contents_utf8()?))).collect();
    let Some((_, text)) = known.iter().find(|(n, _)| *n == name) else {
        let hint = closest(&name, known.iter().map(|(n, _)| n.as_str()));
        return Err(bad(format!("no shared block `{name}`{hint}; there are {}", names(&known))));
    };
    let mut block: Table = toml::from_str(text).map_err(|e| at_line(&e, text, &name))?;
    lay_over(&mut block, train);
    *train = block;
    Ok(true)
}

fn names(known: &[(String, &str)]) -> String {
    known.iter().map(|(n, _)| n.as_str()).collect::<Vec<_>>().join(", ")
}

/// Lays the keys of one table over another's, table by table. A table with another `name` (an optimizer) replaces the whole.
fn lay_over(below: &mut Table, above: &Table) {
    for (key, value) in above {
        match (below.get_mut(key), value) {
            (Some(Value::Table(inner)), Value::Table(over))
                if over.get("name").is_none_or(|name| inner.get("name") == Some(name)) =>
            {
                lay_over(inner, over);
            }
            _ => drop(below.insert(key.clone(), value.clone())),
        }
    }
}

/// `recipe` with the keys of a table over its own.
pub(crate) fn merge<R: Serialize + DeserializeOwned>(recipe: &R, above: &Table, place: &str) -> Result<R> {
    let bad = |why: String| Error::Recipe { place: place.into(), why };
    let mut document = Table::try_from(recipe).map_err(|e| bad(e.to_string()))?;
    lay_over(&mut document, above);
    document.try_into().map_err(|e: toml::de::Error| bad(e.message().trim().replace('\n', " ")))
}

/// Returns the recipes that come with nnz: `(room/method/claim, text)`, in order of name.
pub fn embedded() -> Vec<(String, &'static str)> {
    fn walk(dir: &'static Dir, out: &mut Vec<(String, &'static str)>) {
        for file in dir.files().filter(|f| f.path().extension().is_some_and(|e| e == "toml")) {
            let name = file.path().with_extension("").to_string_lossy().replace('\\', "/");
            out.extend(file.contents_utf8().map(|text| (name, text)));
        }
        dir.dirs().for_each(|d| walk(d, out));
    }
    let mut out = Vec::new();
    walk(&RECIPES, &mut out);
    // Shared blocks of settings are not recipes.
    out.retain(|(name, _)| !name.starts_with("train/"));
    out.sort();
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const REGISTRY: Registry = Registry(nnz_sparse::ROOMS);

    #[test]
    fn networks_are_names_files_or_tables() {
        let (_, text) = embedded().into_iter().find(|(_, text)| text.contains("\nmodel = \"mlp:784-300")).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("net.toml");
        let network = include_str!("../../../networks/lenet-300-100.toml");
        std::fs::write(&file, network).unwrap();
        let at = text.find("model = ").unwrap();
        let line = text[at..].lines().next().unwrap();
        let recipe = |model: &str| Recipe::parse(&text.replace(line, model), "test");
        let named = recipe(&format!("model = {:?}", file.to_str().unwrap())).unwrap().resolve(REGISTRY).unwrap();
        let Network::Written(spec) = &named.model else { panic!("the file was not read") };
        assert_eq!(spec.name, "mlp:784-300-100-10");
        // A resolved recipe is complete, and is a recipe.
        assert_eq!(Recipe::parse(&named.to_toml().unwrap(), "again").unwrap().resolve(REGISTRY).unwrap(), named);
        std::fs::write(&file, network.replace("outputs", "output")).unwrap();
        let error = recipe(&format!("model = {:?}", file.to_str().unwrap()))
            .unwrap()
            .resolve(REGISTRY)
            .unwrap_err()
            .to_string();
        assert!(error.contains("net.toml") && error.contains("output"), "{error}");
        let missing = recipe("model = \"no.toml\"").unwrap().resolve(REGISTRY).unwrap_err().to_string();
        assert!(missing.contains("no.toml") && missing.contains("cannot read"), "{missing}");
        let typo = recipe("model = { name = \"x\", input = [1, 2, 3], layer = [] }").unwrap_err().to_string();
        assert!(typo.contains("layer"), "{typo}");
    }
}
