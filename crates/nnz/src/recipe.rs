use crate::{Claim, Error, REGISTRY, Result};
use include_dir::{Dir, include_dir};
use nnz_core::{Pattern, closest};
use nnz_engine::data::Dataset;
use nnz_engine::{Layers, ModelSpec, OptimizerSpec, Task, TrainSpec};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use std::fmt;

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
    /// By name, e.g. `mlp:784-300-100-10`, or a TOML file with its layers, which [`Recipe::resolve`] reads.
    Named(String),
    /// Layer by layer.
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

            // Not left to an untagged enum, whose errors do not say what is wrong inside.
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
    /// How tables call it.
    pub fn name(&self) -> &str {
        match self {
            Self::Named(name) => name,
            Self::Written(spec) => &spec.name,
        }
    }

    /// Puts the layers of a TOML file in the place of its name.
    fn read(self) -> Result<Self> {
        let Self::Named(file) = &self else { return Ok(self) };
        if !file.ends_with(".toml") {
            return Ok(self);
        }
        let text = std::fs::read_to_string(file)
            .map_err(|e| Error::Recipe { place: file.clone(), why: format!("cannot read the network: {e}") })?;
        let bad = |why: String| Error::Recipe { place: file.clone(), why: format!("no network: {}", why.trim()) };
        let mut spec: ModelSpec = toml::from_str(&text).map_err(|e| bad(e.to_string()))?;
        spec.bind(&Layers::new()).map_err(|e| bad(e.to_string()))?;
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

/// How large a claim is run.
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
    /// One network for each, in every arm.
    pub seeds: Vec<u64>,
    /// Precision of all arithmetic.
    #[serde(default)]
    pub precision: Precision,
    /// How every arm is trained.
    pub train: TrainSpec,
    /// What every arm goes on from instead of random values: the network, trained densely on other data first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pretrain: Option<Pretrain>,
    /// What is compared; the first arm is the one the report is about.
    #[serde(rename = "arm")]
    pub arms: Vec<Arm>,
    /// What the run is to show.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<Claim>,
    /// What is changed at smoke scale.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub smoke: Option<Smoke>,
}

/// A training before the arms', on other data and otherwise like theirs, once for each seed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pretrain {
    /// Data set, with pictures and as many classes as the recipe's.
    pub data: String,
    /// Passes over it.
    pub epochs: u32,
}

/// A recipe in seconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Smoke {
    /// Data instead.
    pub data: String,
    /// Epochs instead.
    pub epochs: u32,
    /// Seeds instead.
    pub seeds: Vec<u64>,
    /// Another network, where the recipe's does not take these data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<Network>,
}

/// One of the things compared.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Arm {
    /// Its name in tables.
    pub name: String,
    /// The method's key; none trains densely.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Another network than the recipe's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<Network>,
    /// Narrow the model until it has as many weights as this earlier arm has nonzeros.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub narrow_to: Option<String>,
    /// Options of the method.
    #[serde(default, skip_serializing_if = "toml::Table::is_empty")]
    pub options: toml::Table,
}

impl Arm {
    /// One sentence.
    pub fn summary(&self) -> String {
        match (&self.method, &self.narrow_to) {
            (Some(key), _) => REGISTRY.find(key).map_or_else(|e| e.to_string(), |m| m.summary.into()),
            (None, Some(of)) => format!("A small dense network with as many weights as {of} has nonzeros."),
            (None, None) => "The whole network, dense.".into(),
        }
    }
}

impl Recipe {
    /// Reads a recipe; `place` names it in errors.
    pub fn parse(text: &str, place: &str) -> Result<Self> {
        let recipe: Self = toml::from_str(text).map_err(|e| {
            let before = e.span().and_then(|s| text.get(..s.start)).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            Error::Recipe { place: format!("{place}, line {line}"), why: e.message().trim().replace('\n', " ") }
        })?;
        recipe.check(place)?;
        Ok(recipe)
    }

    /// As TOML.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string_pretty(self).map_err(|e| Error::Recipe { place: self.title.clone(), why: e.to_string() })
    }

    /// Refuses what no run can carry out.
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
        if self.train.epochs == 0 {
            return bad("needs at least one epoch".into());
        }
        if self.train.batch == 0 {
            return bad("a batch needs at least one row (`--batch`)".into());
        }
        for (name, share) in [("validation", self.train.validation), ("warmup", self.train.warmup)] {
            if !(0.0..1.0).contains(&share) {
                return bad(format!("{name} is a share, at least 0 and below 1, got {share}"));
            }
        }
        if !(self.train.optimizer.lr() > 0.0 && self.train.optimizer.lr().is_finite()) {
            return bad(format!("the learning rate must be above 0, got {}", self.train.optimizer.lr()));
        }
        if let OptimizerSpec::Lbfgs { memory, .. } = self.train.optimizer
            && !(1..=1000).contains(&memory)
        {
            return bad(format!("lbfgs remembers 1 to 1000 steps, got {memory}"));
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
            match &arm.method {
                Some(key) => drop(REGISTRY.find(key)?),
                None if !arm.options.is_empty() => return bad(format!("arm `{}` has options but no method", arm.name)),
                None => {}
            }
        }
        match &self.claim {
            Some(claim) => claim.check(&self.arms).or_else(bad),
            None => Ok(()),
        }
    }

    /// The recipe at a scale.
    pub fn at(mut self, scale: Scale) -> Self {
        if let (Scale::Smoke, Some(smoke)) = (scale, self.smoke.take()) {
            self.data = smoke.data;
            self.train.epochs = smoke.epochs;
            if let Some(pretrain) = &mut self.pretrain {
                pretrain.epochs = pretrain.epochs.min(smoke.epochs);
            }
            self.seeds = smoke.seeds;
            self.model = smoke.model.unwrap_or(self.model);
        }
        self
    }

    /// Reads the network's file and fills every option of every arm with its default, so that the recipe says all. A pattern that fixes the density
    /// sets it where none was given.
    pub fn resolve(mut self) -> Result<Self> {
        self.model = self.model.read()?;
        for arm in &mut self.arms {
            arm.model = arm.model.take().map(Network::read).transpose()?;
            let Some(key) = &arm.method else { continue };
            let method = REGISTRY.find(key)?;
            let given = std::mem::replace(&mut arm.options, method.defaults());
            if let (Some(toml::Value::String(pattern)), None) = (given.get("pattern"), given.get("density"))
                && let Some(fixed) = pattern.parse::<Pattern>()?.fixed_density()
                && arm.options.contains_key("density")
            {
                arm.options.insert("density".into(), fixed.into());
            }
            if let Some(unknown) = given.keys().find(|k| !arm.options.contains_key(*k)) {
                let hint = closest(unknown, arm.options.keys().map(String::as_str));
                let message = format!("no option named `{unknown}`{hint}");
                return Err(nnz_core::Error::Options { method: method.key, message }.into());
            }
            arm.options.extend(given);
        }
        Ok(self)
    }
}

/// The recipes that come with nnz: `(room/method/claim, text)`, in order of name.
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
    out.sort();
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_names_files_or_tables() {
        let (_, text) = embedded().into_iter().next().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("net.toml");
        let network = include_str!("../../../networks/lenet-300-100.toml");
        std::fs::write(&file, network).unwrap();
        let at = text.find("model = ").unwrap();
        let line = text[at..].lines().next().unwrap();
        let recipe = |model: &str| Recipe::parse(&text.replace(line, model), "test");
        let named = recipe(&format!("model = {:?}", file.to_str().unwrap())).unwrap().resolve().unwrap();
        let Network::Written(spec) = &named.model else { panic!("the file was not read") };
        assert_eq!(spec.name, "mlp:784-300-100-10");
        // A resolved recipe says all, and is a recipe.
        assert_eq!(Recipe::parse(&named.to_toml().unwrap(), "again").unwrap().resolve().unwrap(), named);
        std::fs::write(&file, network.replace("outputs", "output")).unwrap();
        let error =
            recipe(&format!("model = {:?}", file.to_str().unwrap())).unwrap().resolve().unwrap_err().to_string();
        assert!(error.contains("net.toml") && error.contains("output"), "{error}");
        let missing = recipe("model = \"no.toml\"").unwrap().resolve().unwrap_err().to_string();
        assert!(missing.contains("no.toml") && missing.contains("cannot read"), "{missing}");
        let typo = recipe("model = { name = \"x\", input = [1, 2, 3], layer = [] }").unwrap_err().to_string();
        assert!(typo.contains("layer"), "{typo}");
    }

    #[test]
    fn every_embedded_recipe_is_whole() {
        let recipes = embedded();
        assert!(!recipes.is_empty());
        for (name, text) in recipes {
            let recipe = Recipe::parse(text, &name).unwrap();
            let [room, key, _] = name.split('/').collect::<Vec<_>>()[..] else { panic!("{name}: room/method/claim") };
            assert_eq!(REGISTRY.find(key).unwrap().room, room, "{name}");
            assert!(recipe.claim.is_some() && recipe.smoke.is_some(), "{name} needs a claim and a smoke scale");
            let resolved = recipe.resolve().unwrap();
            let again = Recipe::parse(&resolved.to_toml().unwrap(), &name).unwrap();
            assert_eq!(again, resolved, "{name} survives a round trip");
        }
    }
}
