use crate::{
    Documented, Error, Experiment, Grid, OptionDoc, Parametrization, Probe, Procedure, Result, Setting, Sparsifier,
    UpdateRule, catalog, closest,
};
use serde::{Serialize, de::DeserializeOwned};

/// Where a method was published.
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
    /// A BibTeX entry under `key`.
    pub fn bibtex(&self, key: &str) -> String {
        let Self { title, authors, year, venue, arxiv, .. } = self;
        format!(
            "@article{{{key},\n  title = {{{title}}},\n  author = {{{}}},\n  journal = {{{venue}}},\n  year = {{{year}}},\n  \
             eprint = {{{arxiv}}},\n  archivePrefix = {{arXiv}}\n}}",
            authors.replace(" et al.", " and others").replace(" & ", " and ").replace(", ", " and ")
        )
    }
}

/// A method ready for one run: what it does to targets while training, and where it needs them, the way the training
/// goes and what weights are made of.
pub struct MethodInstance {
    /// Plans and edits.
    pub sparsifier: Box<dyn Sparsifier>,
    /// How training goes; none trains once from end to end.
    pub procedure: Option<Box<dyn Procedure>>,
    /// What prunable weights are made of; none is plain entries.
    pub parametrization: Option<Box<dyn Parametrization>>,
    /// What moves prunable weights; none is the optimizer of the run.
    pub rule: Option<Box<dyn UpdateRule>>,
    /// What the finished network is measured by.
    pub probe: Option<Box<dyn Probe>>,
    /// What is tried on a network that can be scored but not trained, instead of the procedure.
    pub grid: Option<Grid>,
}

impl<S: Sparsifier + 'static> From<S> for MethodInstance {
    fn from(sparsifier: S) -> Self {
        Self::from(Box::new(sparsifier) as Box<dyn Sparsifier>)
    }
}

impl From<Box<dyn Sparsifier>> for MethodInstance {
    fn from(sparsifier: Box<dyn Sparsifier>) -> Self {
        Self { sparsifier, procedure: None, parametrization: None, rule: None, probe: None, grid: None }
    }
}

/// A method's options: plain data with defaults from the paper. Missing ones are filled with the defaults and unknown ones
/// refused by [`Method::build`].
pub trait Build: Documented + Default + Serialize + DeserializeOwned {
    /// The method these options describe, for one run. Numbers are within their bounds.
    ///
    /// # Errors
    /// When options exclude each other.
    fn build(self, setting: &Setting) -> Result<MethodInstance>;

    /// The same after checking the bounds.
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
    /// The experiment these options describe. Numbers are within their bounds.
    ///
    /// # Errors
    /// When options exclude each other.
    fn launch(self) -> Result<Box<dyn Experiment>>;
}

/// A method's card: all that the program, the docs, the report and the bindings say about it comes from here.
#[derive(Clone, Copy, Debug)]
pub struct Method {
    /// File name, name on the command line, key in the catalog.
    pub key: &'static str,
    /// The paper's own spelling.
    pub name: &'static str,
    /// One sentence.
    pub summary: &'static str,
    /// The room it lives in.
    pub room: &'static str,
    /// Where it comes from.
    pub paper: Paper,
    /// Raised when a change of the code changes results, so that old runs are not taken for new ones.
    pub revision: u32,
    quick: &'static str,
    docs: fn() -> Vec<OptionDoc>,
    defaults: fn() -> toml::Table,
    entry: Entry,
}

/// What a card leads to.
#[derive(Clone, Copy, Debug)]
enum Entry {
    /// Changes weights, units or topologies while something trains or is pruned.
    Sparsify(Builder),
    /// Runs by itself: fits, searches, simulates, indexes, computes.
    Run(Launcher),
}

/// From options to an experiment; the outer error is the parser's, the inner one the experiment's.
type Launcher = fn(toml::Table) -> Result<Result<Box<dyn Experiment>>, String>;

/// From options and a run to a method at work; the outer error is the parser's, the inner one the method's.
type Builder = fn(toml::Table, &Setting) -> Result<Result<MethodInstance>, String>;

impl Method {
    /// A card for the method configured by `O`, whose paper and room stand under `key` in `papers/catalog.tsv` or, for a
    /// baseline, in `papers/baselines.tsv`. A key that is in neither does not compile.
    pub const fn new<O: Build>(key: &'static str, name: &'static str, summary: &'static str) -> Self {
        Self::listed::<O>(catalog::listed(key), name, summary)
    }

    /// A card for the experiment configured by `O`; as [`Method::new`].
    pub const fn experiment<O: Launch>(key: &'static str, name: &'static str, summary: &'static str) -> Self {
        Self::listed_experiment::<O>(catalog::listed(key), name, summary)
    }

    /// A card for a method that the lists of papers do not have, with a line of its own.
    pub const fn listed<O: Build>(line: catalog::Entry, name: &'static str, summary: &'static str) -> Self {
        let entry = Entry::Sparsify(|table, setting| {
            let options: O = table.try_into().map_err(|e: toml::de::Error| e.message().to_string())?;
            Ok(options.checked(setting))
        });
        Self::card::<O>(line, name, summary, entry)
    }

    /// A card for an experiment that the lists of papers do not have, with a line of its own.
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

    /// Whether it runs by itself.
    pub fn runs(&self) -> bool {
        matches!(self.entry, Entry::Run(_))
    }

    /// The card of a method whose code was changed so that results change.
    pub const fn revised(self, revision: u32) -> Self {
        Self { revision, ..self }
    }

    /// The card of a method that needs other options than its defaults to do all it does in a run of 240 steps on layers of 30
    /// and 20 inputs: what the conformance suite sets, as lines of TOML.
    pub const fn quick(self, options: &'static str) -> Self {
        Self { quick: options, ..self }
    }

    /// What [`Method::quick`] was given.
    ///
    /// # Errors
    /// When it is no table, or names options that there are not.
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

    /// Every option with its default, what it is, and where it must lie.
    pub fn docs(&self) -> Vec<OptionDoc> {
        let defaults = self.defaults();
        (self.docs)().into_iter().map(|doc| OptionDoc { default: defaults.get(doc.key).cloned(), ..doc }).collect()
    }

    /// Whole numbers as fractions, where the default is one.
    pub fn floats(&self, mut options: toml::Table) -> toml::Table {
        for (key, default) in self.defaults() {
            if let (toml::Value::Float(_), Some(&toml::Value::Integer(n))) = (default, options.get(&key)) {
                options.insert(key, (n as f64).into());
            }
        }
        options
    }

    /// Every option: those given, and the others with their defaults. Unknown options are refused by name.
    pub fn options(&self, given: &toml::Table) -> Result<toml::Table> {
        let mut known = self.defaults();
        if let Some(unknown) = given.keys().find(|k| !known.contains_key(*k)) {
            let hint = closest(unknown, known.keys().map(String::as_str));
            let message = format!("no option named `{unknown}`{hint}");
            return Err(Error::Options { method: self.key, message });
        }
        known.extend(self.floats(given.clone()));
        Ok(known)
    }

    /// The method, ready for one run.
    ///
    /// # Errors
    /// When an option is unknown or out of its range, or the card is that of an experiment.
    pub fn build(&self, options: &toml::Table, setting: &Setting) -> Result<MethodInstance> {
        let options = self.options(options)?;
        match self.entry {
            Entry::Sparsify(build) => {
                build(options, setting).map_err(|message| Error::Options { method: self.key, message })?
            }
            Entry::Run(_) => Err(Error::Refused(format!(
                "{0} runs by itself and changes no network that trains; `nnz run {0}` runs it",
                self.key
            ))),
        }
    }

    /// The experiment, ready to run.
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

    /// The method of that key.
    pub fn find(self, key: &str) -> Result<&'static Method> {
        self.methods().find(|m| m.key == key).ok_or_else(|| Error::Unknown {
            kind: "method",
            name: key.into(),
            hint: closest(key, self.methods().map(|m| m.key)),
            list: "nnz methods",
        })
    }
}
