//! Recipes of experiments: what is asked for, and what it takes for arms to be compared.

use super::MetricRecord;
use crate::recipe::merge;
use crate::{Claim, Error, Result, Scale};
use nnz_core::{Input, Method, Metric, Need, Registry, closest};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use toml::Table;

/// Everything a run of an experiment needs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExperimentRecipe {
    /// One line.
    pub title: String,
    /// The experiment: its key, or room/key.
    pub run: String,
    /// Seeds; every arm runs once for each.
    pub seeds: Vec<u64>,
    /// Inputs to read, by the names the experiment declares.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub inputs: BTreeMap<String, String>,
    /// Options of all arms.
    #[serde(default, skip_serializing_if = "Table::is_empty")]
    pub options: Table,
    /// Arms to compare; by default one named after the experiment.
    #[serde(default, rename = "arm", skip_serializing_if = "Vec::is_empty")]
    pub arms: Vec<ExperimentArm>,
    /// Claim of the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<Claim>,
    /// Keys that differ at smoke scale.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub smoke: Option<Table>,
}

/// One of the arms compared.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExperimentArm {
    /// Its name in tables.
    pub name: String,
    /// Its experiment, if not the recipe's: its key, or room/key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// Its options, on top of those of all arms.
    #[serde(default, skip_serializing_if = "Table::is_empty")]
    pub options: Table,
}

impl ExperimentRecipe {
    /// A recipe of experiments with their defaults: an arm for each, if there are several.
    pub fn of(methods: &[&Method], seeds: Vec<u64>) -> Self {
        let names: Vec<&str> = methods.iter().map(|m| m.name).collect();
        let arm = |m: &&Method| ExperimentArm { name: m.key.into(), run: Some(m.key.into()), ..Default::default() };
        Self {
            title: names.join(" against "),
            run: methods.first().map_or_else(String::new, |m| m.key.into()),
            seeds,
            inputs: BTreeMap::new(),
            options: Table::new(),
            arms: if methods.len() > 1 { methods.iter().map(arm).collect() } else { Vec::new() },
            claim: None,
            smoke: None,
        }
    }

    /// The key of the experiment.
    pub fn key(&self) -> &str {
        last(&self.run)
    }

    /// The key of an arm's experiment.
    pub fn key_of<'r>(&'r self, arm: &'r ExperimentArm) -> &'r str {
        arm.run.as_deref().map_or(self.key(), last)
    }

    /// The keys of all experiments that it runs, each once.
    pub fn keys(&self) -> Vec<&str> {
        let mut keys = Vec::new();
        for key in self.arms.iter().map(|arm| self.key_of(arm)).chain(self.arms.is_empty().then(|| self.key())) {
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        keys
    }

    /// The options of the arms of one experiment; those of the recipe if it has no arms yet.
    pub fn options_of(&mut self, key: &str) -> impl Iterator<Item = &mut Table> {
        let Self { run, options, arms, .. } = self;
        let run: &str = run;
        let alone = arms.is_empty().then_some(options);
        let own = move |arm: &&mut ExperimentArm| last(arm.run.as_deref().unwrap_or(run)) == key;
        alone.into_iter().chain(arms.iter_mut().filter(own).map(|arm| &mut arm.options))
    }

    /// Refuses invalid recipes; `place` names the recipe in errors.
    pub fn check(&self, place: &str) -> Result<()> {
        let bad = |why: String| Err(Error::Recipe { place: place.into(), why });
        let mut seeds = self.seeds.clone();
        seeds.sort_unstable();
        seeds.dedup();
        if seeds.is_empty() || seeds.len() != self.seeds.len() {
            return bad("needs at least one seed, and none twice".into());
        }
        for (i, arm) in self.arms.iter().enumerate() {
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_.=".contains(c);
            if arm.name.is_empty() || !arm.name.chars().all(plain) {
                return bad(format!("arm `{}`: names are made of letters, digits, `-`, `_`, `=` and `.`", arm.name));
            }
            if self.arms[..i].iter().any(|a| a.name == arm.name) {
                return bad(format!("two arms are named `{}`", arm.name));
            }
        }
        let names: Vec<&str> = match self.arms.is_empty() {
            true => vec![self.key()],
            false => self.arms.iter().map(|a| &*a.name).collect(),
        };
        self.claim.as_ref().map_or(Ok(()), |c| c.check(&names).or_else(bad))
    }

    /// The recipe at a scale.
    pub fn at(self, scale: Scale) -> Result<Self> {
        match (scale, &self.smoke) {
            (Scale::Smoke, Some(smoke)) => merge(&Self { smoke: None, ..self.clone() }, smoke, &self.title),
            _ => Ok(self),
        }
    }

    /// Fills in every option of every arm and every input, so that the recipe is complete; and the experiment of each arm.
    pub(super) fn resolve(mut self, registry: Registry) -> Result<(Self, Vec<&'static Method>)> {
        let place = |m: &Method| format!("{}/{}", m.room, m.key);
        let method = registry.find(self.key())?;
        self.run = place(method);
        if self.arms.is_empty() {
            self.arms.push(ExperimentArm { name: method.key.into(), ..ExperimentArm::default() });
        }
        let shared = std::mem::take(&mut self.options);
        let mut methods = Vec::new();
        for arm in &mut self.arms {
            let own = arm.run.as_deref().map_or(Ok(method), |run| registry.find(last(run)))?;
            arm.run = (own.key != method.key).then(|| place(own));
            let mut given = shared.clone();
            given.extend(std::mem::take(&mut arm.options));
            arm.options = own.options(&given)?;
            methods.push(own);
        }
        self.read_alike(&methods)?;
        Ok((self, methods))
    }

    /// Names every input that has a default and was not named. All arms read the same inputs.
    fn read_alike(&mut self, methods: &[&'static Method]) -> Result<()> {
        let refuse = |why: String| Err(Error::Refused(why));
        let given = std::mem::take(&mut self.inputs);
        let mut all: Vec<(&str, &[Input])> = Vec::new();
        for (arm, method) in self.arms.iter().zip(methods) {
            all.push((method.key, method.launch(&arm.options)?.inputs()));
        }
        for (key, inputs) in &all {
            if let Some(unknown) = given.keys().find(|name| !inputs.iter().any(|i| i.name == **name)) {
                let hint = closest(unknown, inputs.iter().map(|i| i.name));
                return refuse(format!("{key} has no input `{unknown}`{hint}"));
            }
        }
        for (key, input) in all.iter().flat_map(|(key, inputs)| inputs.iter().map(move |i| (key, i))) {
            let (name, named) = (input.name, given.contains_key(input.name));
            for (other, inputs) in &all {
                match inputs.iter().find(|i| i.name == name) {
                    Some(theirs) if theirs.kind != input.kind => {
                        return refuse(format!("{key} and {other} read `{name}` as inputs of different kinds"));
                    }
                    Some(theirs) if !named && theirs.need != input.need => {
                        return refuse(format!(
                            "{key} and {other} read different inputs by default; give --input {name}=... to both"
                        ));
                    }
                    None if input.need != Need::Optional => {
                        return refuse(format!(
                            "{key} reads an input `{name}` and {other} does not; what is compared reads the same inputs"
                        ));
                    }
                    _ => {}
                }
            }
            match input.need {
                Need::Required if !named => {
                    return refuse(format!("{key} reads an input `{name}`: {} Give --input {name}=...", input.about));
                }
                Need::Default(default) if !named => drop(self.inputs.insert(name.into(), default.into())),
                _ => {}
            }
        }
        self.inputs.extend(given);
        Ok(())
    }

    /// The metrics that all arms measure, in the order of the first.
    pub(super) fn metrics(&self, methods: &[&'static Method]) -> Result<Vec<MetricRecord>> {
        let mut all: Vec<(&str, &[Metric])> = Vec::new();
        for (arm, method) in self.arms.iter().zip(methods) {
            let metrics = method.launch(&arm.options)?.metrics();
            if !all.iter().any(|(key, _)| *key == method.key) {
                all.push((method.key, metrics));
            }
        }
        let alike = |m: &MetricRecord, t: &Metric| (&*m.key, m.unit, m.better) == (t.key, t.unit, t.better);
        let mut shared: Vec<MetricRecord> = all[0].1.iter().map(MetricRecord::from).collect();
        shared.retain(|m| all.iter().all(|(_, theirs)| theirs.iter().any(|t| alike(m, t))));
        if shared.is_empty() && all.len() > 1 {
            let names = |metrics: &[Metric]| metrics.iter().map(|m| m.key).collect::<Vec<_>>().join(", ");
            let each: Vec<String> = all.iter().map(|(key, m)| format!("{key} measures {}", names(m))).collect();
            return Err(Error::Refused(format!(
                "{}: no metric with the same name, unit and direction to compare them by",
                each.join(" and ")
            )));
        }
        for m in &mut shared {
            let told = m.about.clone();
            for (key, theirs) in &all[1..] {
                if let Some(t) = theirs.iter().find(|t| t.key == m.key && t.about != told) {
                    m.about += &format!(" In {key}: {}", t.about);
                }
            }
        }
        Ok(shared)
    }
}

/// The key in `room/key`.
fn last(place: &str) -> &str {
    place.rsplit('/').next().unwrap_or(place)
}
