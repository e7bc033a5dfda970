use crate::{
    Dense, Documented, Error, Experiment, LayerOptions, OptionDoc, Parametrization, Pattern, Period, Plan, Probe,
    Procedure, Result, Setting, Sparsifier, UpdateRule,
    by_layer::{ByLayer, Part},
    catalog, closest,
};
use serde::{Serialize, de::DeserializeOwned};

/// Publication in which a method appeared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Paper {
    /// Its number in `papers/catalog.tsv`; `None` for a baseline of `papers/baselines.tsv`.
    pub number: Option<u16>,
    /// Title.
    pub title: &'static str,
    /// First author and co-authors, short.
    pub authors: &'static str,
    /// Year of publication.
    pub year: u16,
    /// Journal or conference.
    pub venue: &'static str,
    /// arXiv identifier.
    pub arxiv: &'static str,
}

impl Paper {
    /// Formats a BibTeX entry under `key`.
    pub fn bibtex(&self, key: &str) -> String {
        let Self { title, authors, year, venue, arxiv, .. } = self;
        format!(
            "@article{{{key},\n  title = {{{title}}},\n  author = {{{}}},\n  journal = {{{venue}}},\n  year = {{{year}}},\n  \
             eprint = {{{arxiv}}},\n  archivePrefix = {{arXiv}}\n}}",
            authors.replace(" et al.", " and others").replace(" & ", " and ").replace(", ", " and ")
        )
    }
}

/// A method built for one run: how it changes targets during training and, optionally, its training procedure
/// and its parametrization of weights.
pub struct MethodInstance {
    /// Plans and edits.
    pub sparsifier: Box<dyn Sparsifier>,
    /// Training procedure; `None` trains once from start to end.
    pub procedure: Option<Box<dyn Procedure>>,
    /// Parametrization of prunable weights; `None` keeps plain entries.
    pub parametrization: Option<Box<dyn Parametrization>>,
    /// What moves prunable weights; none is the optimizer of the run.
    pub rule: Option<Box<dyn UpdateRule>>,
    /// Probe of the finished network.
    pub probe: Option<Box<dyn Probe>>,
}

/// Steps after which every schedule in steps has come due.
const LONG: u64 = 20_000;
/// A schedule in steps that comes due less often than this in a run was made for longer ones.
const FEW: usize = 5;

impl MethodInstance {
    /// Whether it does anything to a network in a run of this many steps. O(steps).
    pub fn acts(&self, steps: u64) -> bool {
        self.procedure.is_some()
            || self.parametrization.is_some()
            || self.sparsifier.proximal()
            || (0..=steps).any(|step| self.sparsifier.plan(step) != Plan::Rest)
    }

    /// Puts the method as it was built for some layers beside that for all others.
    fn parts_of(&mut self, key: &str, parts: Vec<Part>) -> Result<()> {
        if self.procedure.is_some() || self.parametrization.is_some() || self.rule.is_some() {
            return Err(Error::Refused(format!(
                "{key} treats all layers alike: it does more than choose their connections, so options for some layers do not \
                 apply to it; in a training, --keep leaves layers out"
            )));
        }
        let general = std::mem::replace(&mut self.sparsifier, Box::new(Dense));
        let general = Part { names: None, sparsifier: Some(general) };
        self.sparsifier = Box::new(ByLayer::new(std::iter::once(general).chain(parts).collect()));
        Ok(())
    }

    /// How often it may change a topology in a run of this many steps, counted up to `most`. O(steps).
    fn changes(&self, steps: u64, most: usize) -> usize {
        (0..=steps).filter(|&step| matches!(self.sparsifier.plan(step), Plan::Rewire(_))).take(most).count()
    }
}

impl<S: Sparsifier + 'static> From<S> for MethodInstance {
    fn from(sparsifier: S) -> Self {
        Self::from(Box::new(sparsifier) as Box<dyn Sparsifier>)
    }
}

impl From<Box<dyn Sparsifier>> for MethodInstance {
    fn from(sparsifier: Box<dyn Sparsifier>) -> Self {
        Self { sparsifier, procedure: None, parametrization: None, rule: None, probe: None }
    }
}

/// A method's options: plain data with defaults from the paper. Missing ones take their defaults and unknown ones are
/// refused by [`Method::build`].
pub trait Build: Documented + Default + Serialize + DeserializeOwned {
    /// Builds the method that these options describe, for one run. Numbers are within their bounds.
    ///
    /// # Errors
    /// When options exclude each other.
    fn build(self, setting: &Setting) -> Result<MethodInstance>;

    /// [`Build::build`] after checking the bounds.
    ///
    /// # Errors
    /// When an option is out of its range, or options exclude each other.
    fn checked(self, setting: &Setting) -> Result<MethodInstance> {
        self.check()?;
        self.build(setting)
    }
}

/// An experiment's options: plain data with defaults.
pub trait Launch: Documented + Default + Serialize + DeserializeOwned {
    /// Builds the experiment that these options describe. Numbers are within their bounds.
    ///
    /// # Errors
    /// When options exclude each other.
    fn launch(self) -> Result<Box<dyn Experiment>>;
}

/// A method's card, the source of all that the program, the docs, the report and the bindings say about it.
#[derive(Clone, Copy, Debug)]
pub struct Method {
    /// File name, name on the command line, key in the catalog.
    pub key: &'static str,
    /// The paper's own spelling.
    pub name: &'static str,
    /// One sentence.
    pub summary: &'static str,
    /// The room it belongs to.
    pub room: &'static str,
    /// Publication.
    pub paper: Paper,
    /// Raised when a code change alters results, so that old runs are not mistaken for new ones.
    pub revision: u32,
    quick: &'static str,
    docs: fn() -> Vec<OptionDoc>,
    defaults: fn() -> toml::Table,
    entry: Entry,
}

/// The product of a card: a method or an experiment.
#[derive(Clone, Copy, Debug)]
enum Entry {
    /// Changes weights, units or topologies while something trains or is pruned.
    Sparsify(Builder),
    /// Runs by itself: fits, searches, simulates, indexes, computes.
    Run(Launcher),
}

/// From options to an experiment; the outer error is the parser's, the inner one the experiment's.
type Launcher = fn(toml::Table) -> Result<Result<Box<dyn Experiment>>, String>;

/// From options and a run to a method instance; the outer error is the parser's, the inner one the method's.
type Builder = fn(toml::Table, &Setting) -> Result<Result<MethodInstance>, String>;

impl Method {
    /// A card for the method configured by `O`, whose paper and room are under `key` in `papers/catalog.tsv` or, for a
    /// baseline, in `papers/baselines.tsv`. A key that is in neither does not compile.
    pub const fn new<O: Build>(key: &'static str, name: &'static str, summary: &'static str) -> Self {
        Self::listed::<O>(catalog::listed(key), name, summary)
    }

    /// A card for the experiment configured by `O`; as [`Method::new`].
    pub const fn experiment<O: Launch>(key: &'static str, name: &'static str, summary: &'static str) -> Self {
        Self::listed_experiment::<O>(catalog::listed(key), name, summary)
    }

    /// A card for a method that the lists of papers do not have, with its own entry.
    pub const fn listed<O: Build>(line: catalog::Entry, name: &'static str, summary: &'static str) -> Self {
        let entry = Entry::Sparsify(|table, setting| {
            let options: O = table.try_into().map_err(|e: toml::de::Error| e.message().to_string())?;
            Ok(options.checked(setting))
        });
        Self::card::<O>(line, name, summary, entry)
    }

    /// A card for an experiment that the lists of papers do not have, with its own entry.
    pub const fn listed_experiment<O: Launch>(line: catalog::Entry, name: &'static str, summary: &'static str) -> Self {
        let entry = Entry::Run(|table| {
            let options: O = table.try_into().map_err(|e: toml::de::Error| e.message().to_string())?;
            Ok(options.check().and_then(|()| options.launch()))
        });
        Self::card::<O>(line, name, summary, entry)
    }

    const fn card<O: Documented + Default + Serialize>(
        line: catalog::Entry,
        name: &'static str,
        summary: &'static str,
        entry: Entry,
    ) -> Self {
        let catalog::Entry { number, key, room, title, id, authors, year, venue } = line;
        let paper = Paper { number, title, authors, year, venue, arxiv: id };
        let defaults: fn() -> toml::Table = || toml::Table::try_from(O::default()).unwrap_or_default();
        Self { key, name, summary, room, paper, revision: 1, quick: "", docs: O::docs, defaults, entry }
    }

    /// Whether it is an experiment, which runs by itself.
    pub fn runs(&self) -> bool {
        matches!(self.entry, Entry::Run(_))
    }

    /// Sets the revision, for a method whose results a code change altered.
    pub const fn revised(self, revision: u32) -> Self {
        Self { revision, ..self }
    }

    /// Sets options, as lines of TOML, with which the method does all it can in the conformance suite's 240 steps on
    /// layers of 30 and 20 inputs, for methods whose defaults do not.
    pub const fn quick(self, options: &'static str) -> Self {
        Self { quick: options, ..self }
    }

    /// Parses the argument of [`Method::quick`].
    ///
    /// # Errors
    /// When it is not a table, or names unknown options.
    pub fn quick_options(&self) -> Result<toml::Table> {
        let bad = |e: toml::de::Error| Error::Options { method: self.key, message: e.message().into() };
        let quick: toml::Table = self.quick.parse().map_err(bad)?;
        self.options(&quick)?;
        Ok(quick)
    }

    /// Options with the paper's defaults.
    pub fn defaults(&self) -> toml::Table {
        (self.defaults)()
    }

    /// Every option with its default, its documentation, and its range.
    pub fn docs(&self) -> Vec<OptionDoc> {
        let defaults = self.defaults();
        (self.docs)().into_iter().map(|doc| OptionDoc { default: defaults.get(doc.key).cloned(), ..doc }).collect()
    }

    /// Converts integers to floats for options whose default is a float.
    pub fn floats(&self, mut options: toml::Table) -> toml::Table {
        for (key, default) in self.defaults() {
            if let (toml::Value::Float(_), Some(&toml::Value::Integer(n))) = (default, options.get(&key)) {
                options.insert(key, (n as f64).into());
            }
        }
        options
    }

    /// Completes the given options with defaults. Unknown options are refused by name, and so are those for some layers
    /// ([`LayerOptions`]).
    pub fn options(&self, given: &toml::Table) -> Result<toml::Table> {
        let mut known = self.defaults();
        let by_layer = if self.runs() { Vec::new() } else { LayerOptions::take(&mut given.clone())? };
        by_layer.iter().try_for_each(|l| self.options(&l.options).map(drop))?;
        let listed = |key: &str| known.contains_key(key) || key == LayerOptions::KEY && !by_layer.is_empty();
        if let Some(unknown) = given.keys().find(|k| !listed(k)) {
            let hint = closest(unknown, known.keys().map(String::as_str));
            let message = format!("no option named `{unknown}`{hint}");
            return Err(Error::Options { method: self.key, message });
        }
        known.extend(self.floats(given.clone()));
        Ok(known)
    }

    /// What is wrong with an option that is no number where one is expected; its parser names no option.
    fn mistyped(&self, options: &toml::Table) -> Option<String> {
        let number = |v: &toml::Value| v.is_float() || v.is_integer();
        let defaults = self.defaults();
        let wrong = options.iter().find(|(key, v)| !number(v) && defaults.get(*key).is_some_and(number))?;
        Some(format!("`{}` is a number, got {}", wrong.0, wrong.1))
    }

    /// Fits options to a run: an interval in steps or epochs that `given` leaves open becomes a twentieth of the run, as the note
    /// says, if it never comes due in it, or, one in steps, fewer than five times: pruning step by step would then be pruning at
    /// once.
    ///
    /// # Errors
    /// When the options are invalid, and when the method would rest through the whole run with intervals that were given.
    pub fn fitted(
        &self,
        options: &toml::Table,
        given: &toml::Table,
        setting: &Setting,
    ) -> Result<(toml::Table, Option<String>)> {
        let (work, mut full) = (self.build(options, setting)?, self.defaults());
        full.extend(options.clone());
        // Only a schedule of its own can rest: a method that is to do nothing in a long run is meant to.
        let long = Setting { steps: setting.steps.max(LONG), ..*setting };
        let (acts, lasting) = (work.acts(setting.steps), self.build(options, &long)?);
        let changes = work.changes(setting.steps, FEW);
        let few = acts && work.procedure.is_none() && changes < FEW && lasting.changes(long.steps, FEW) == FEW;
        if acts && !few || !lasting.acts(long.steps) {
            return Ok((options.clone(), None));
        }
        let span = |value: &toml::Value| match value.as_str()?.parse() {
            Ok(period @ Period::Steps(1..)) => Some(period),
            Ok(period @ Period::Epochs(_)) if !few => Some(period),
            _ => None,
        };
        let spans: Vec<(&String, Period)> = full.iter().filter_map(|(k, v)| Some((k, span(v)?))).collect();
        let mut fitted = options.clone();
        for (key, _) in spans.iter().filter(|(key, _)| !given.contains_key(*key)) {
            fitted.insert((*key).clone(), "0.05 run".into());
        }
        let said = |spans: &[(&String, Period)]| {
            let each: Vec<String> = spans.iter().map(|(key, period)| format!("{key} is {period}")).collect();
            each.join(" and ")
        };
        let work = self.build(&fitted, setting)?;
        if few {
            let gains = work.changes(setting.steps, FEW) > changes;
            let note = || {
                format!(
                    "{}: {}, which comes due {changes} time{} in a run of {} steps; taken as 0.05 run",
                    self.key,
                    said(&spans),
                    if changes == 1 { "" } else { "s" },
                    setting.steps
                )
            };
            return Ok(if gains { (fitted, Some(note())) } else { (options.clone(), None) });
        }
        match work.acts(setting.steps) {
            true => {
                let (changed, run) = (said(&spans), setting.steps);
                let note = format!(
                    "{}: {changed}, which never comes due in a run of {run} steps; taken as 0.05 run",
                    self.key
                );
                Ok((fitted, Some(note)))
            }
            false => {
                let why = if spans.is_empty() { String::new() } else { format!(": {}", said(&spans)) };
                Err(Error::Refused(format!(
                    "{} would change nothing in a run of {} step{}{why}; train longer, or give a fraction of the run such as \
                     every = \"0.05 run\"",
                    self.key,
                    setting.steps,
                    if setting.steps == 1 { "" } else { "s" }
                )))
            }
        }
    }

    /// Options for a network that is trained already: it is pruned now unless they say otherwise, and a pattern that fixes the
    /// density says it.
    pub fn options_for_trained(&self, options: &toml::Table) -> toml::Table {
        let (mut options, known) = (options.clone(), self.defaults());
        if known.contains_key("at") {
            options.entry("at").or_insert("0 run".into());
        }
        let pattern = options.get("pattern").and_then(toml::Value::as_str).and_then(|p| p.parse::<Pattern>().ok());
        if let Some(fixed) = pattern.and_then(Pattern::fixed_density)
            && known.contains_key("density")
        {
            options.entry("density").or_insert(fixed.into());
        }
        options
    }

    /// Builds the method for one run.
    ///
    /// # Errors
    /// When an option is unknown or out of its range, the card is that of an experiment, or options for some layers are given to a
    /// method that does more than rewire.
    pub fn build(&self, options: &toml::Table, setting: &Setting) -> Result<MethodInstance> {
        let mut general = self.options(options)?;
        let by_layer = if self.runs() { Vec::new() } else { LayerOptions::take(&mut general)? };
        let mut work = self.built(general.clone(), setting)?;
        let mut parts = Vec::new();
        for (i, layers) in by_layer.into_iter().enumerate() {
            // Targets are numbered from 0 in every part, and random choices keyed by their number.
            let seed = setting.seed.wrapping_add((i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            if layers.options.is_empty() {
                parts.push(Part { names: Some(layers.names), sparsifier: None });
                continue;
            }
            let own = layers.over(&general, &self.defaults());
            let own = self.built(self.options(&own)?, &Setting { seed, ..*setting })?;
            if own.sparsifier.kind() != work.sparsifier.kind() {
                return Err(Error::Refused(format!(
                    "layers `{}` cannot be pruned by other parts than the rest",
                    layers.names
                )));
            }
            parts.push(Part { names: Some(layers.names), sparsifier: Some(own.sparsifier) });
        }
        if !parts.is_empty() {
            work.parts_of(self.key, parts)?;
        }
        Ok(work)
    }

    /// Builds the method with complete options.
    fn built(&self, options: toml::Table, setting: &Setting) -> Result<MethodInstance> {
        match self.entry {
            Entry::Sparsify(build) => {
                let why = self.mistyped(&options);
                build(options, setting)
                    .map_err(|message| Error::Options { method: self.key, message: why.unwrap_or(message) })?
            }
            Entry::Run(_) => Err(Error::Refused(format!(
                "{0} runs by itself and changes no network that trains; `nnz run {0}` runs it",
                self.key
            ))),
        }
    }

    /// Builds the experiment.
    ///
    /// # Errors
    /// When an option is unknown or out of its range, or the card is that of a method.
    pub fn launch(&self, options: &toml::Table) -> Result<Box<dyn Experiment>> {
        let options = self.options(options)?;
        match self.entry {
            Entry::Run(launch) => launch(options).map_err(|message| Error::Options { method: self.key, message })?,
            Entry::Sparsify(_) => Err(Error::Refused(format!(
                "{0} changes a network while it trains and does not run by itself; `nnz train DATA --method {0}`",
                self.key
            ))),
        }
    }
}

/// Every method, room by room.
#[derive(Clone, Copy, Debug)]
pub struct Registry(pub &'static [&'static [&'static Method]]);

impl Registry {
    /// All methods in order.
    pub fn methods(self) -> impl Iterator<Item = &'static Method> {
        self.0.iter().flat_map(|room| room.iter().copied())
    }

    /// Finds the method with that key.
    pub fn find(self, key: &str) -> Result<&'static Method> {
        self.methods().find(|m| m.key == key).ok_or_else(|| Error::Unknown {
            kind: "method",
            name: key.into(),
            hint: closest(key, self.methods().map(|m| m.key)),
            list: "nnz methods",
        })
    }
}
