//! One file per command, or per few that belong together.
pub mod adapter;
pub mod arrays;
pub mod bench;
pub mod compare;
pub mod data;
pub mod doctor;
pub mod given;
pub mod language;
pub mod methods;
pub mod model;
pub mod network;
pub mod prune;
pub mod reproduce;
pub mod run;
pub mod sensitivity;
pub mod shell;
pub mod top;
pub mod train;

use anyhow::{Context, Result, bail};
use clap::Args;
use nnz_core::{LayerOptions, Method, Registry};
use nnz_foreign::onnx::Normalize;
use std::path::PathBuf;

/// The data set, and options for its reader.
#[derive(Args, Debug)]
pub struct DataArgs {
    /// Data set: a name from `nnz data list`, or a file or folder (`nnz help data` lists the formats)
    data: String,
    #[command(flatten)]
    table: TableArgs,
    /// Test data: a share of the rows [default: 0.2], or a file
    #[arg(long, value_name = "SHARE|FILE")]
    test: Option<String>,
}

/// How values become the inputs of a network of another program.
#[derive(Args, Debug)]
pub struct Inputs {
    /// How values become inputs of a network of another program whose file does not say it: unit (bytes divided by 255), raw, data (less the
    /// mean of the training rows, divided by their deviation), imagenet, or MEAN:DEVIATION after the division by 255, such as
    /// 0.1307:0.3081, once or for red, green and blue
    #[arg(long, value_name = "HOW")]
    pub normalize: Option<Normalize>,
}

impl Inputs {
    /// As recipes have it.
    pub fn text(&self) -> Option<String> {
        self.normalize.as_ref().map(Normalize::to_string)
    }
}

/// Options for the reader of a table.
#[derive(Args, Debug)]
pub struct TableArgs {
    /// The column of a table that has the labels, by name or by number from 1
    #[arg(long, value_name = "COL")]
    target: Option<String>,
    /// What becomes of cells of a table without a value: mean, median, mode, category or drop [default: they are refused]
    #[arg(long, value_name = "HOW")]
    missing: Option<String>,
    /// What becomes of texts that the table learned from does not have: category (they count as none of its texts), drop (their
    /// row is left out) or refuse [default: refuse]
    #[arg(long, value_name = "HOW")]
    unseen: Option<String>,
}

impl TableArgs {
    /// Writes the options that are given into a place, by `add`.
    fn write(&self, place: String, add: fn(&str, &str, &str) -> String) -> Result<String> {
        let options = [("unseen", &self.unseen), ("missing", &self.missing), ("target", &self.target)];
        options.into_iter().try_fold(place, |place, (key, value)| option(place, key, value.as_deref(), add))
    }

    /// A place that is given, with these options.
    pub fn place(&self, place: &str) -> Result<String> {
        self.write(place.into(), nnz_data::read::with_option)
    }

    /// The place that a model was trained on, with these options instead of its own.
    pub fn place_again(&self, place: &str) -> Result<String> {
        self.write(place.into(), nnz_data::read::instead_of)
    }
}

fn option(place: String, key: &str, value: Option<&str>, add: fn(&str, &str, &str) -> String) -> Result<String> {
    let Some(value) = value else { return Ok(place) };
    if value.contains(['&', '?']) {
        bail!("--{key} {value}: & and ? separate the options of a place; give a column by its number, rename a file");
    }
    Ok(add(&place, key, value))
}

impl DataArgs {
    /// The place with its options, as recipes name it.
    pub fn place(&self) -> Result<String> {
        let tested = option(self.data.clone(), "test", self.test.as_deref(), nnz_data::read::with_option)?;
        self.table.place(&tested)
    }

    /// The data set as it was given.
    pub fn given(&self) -> &str {
        &self.data
    }
}

/// Parses options as `--set KEY=VALUE` gives them.
pub fn pairs(set: &[String]) -> Result<toml::Table> {
    let mut options = toml::Table::new();
    for pair in set {
        let Some((key, value)) = pair.split_once('=') else {
            bail!("--set {pair}: expected KEY=VALUE, such as --set every=\"50 steps\"");
        };
        let (key, value) = (key.trim(), value.trim());
        let parsed: Option<toml::Table> = toml::from_str(&format!("value = {value}")).ok();
        let value = parsed.and_then(|mut t| t.remove("value")).unwrap_or_else(|| value.into());
        if options.insert(key.into(), value).is_some() {
            bail!("--set {key} is given twice");
        }
    }
    Ok(options)
}

/// The method and its options; shared by `train` and `prune`.
#[derive(Args, Debug)]
pub struct MethodArgs {
    /// The method; `nnz methods` lists them
    #[arg(long, short, value_name = "METHOD", required_unless_present = "recipe")]
    method: Option<String>,
    /// Nonzeros / prunable weights, above 0 and at most 1
    #[arg(long, short, value_name = "D", conflicts_with = "sparsity", allow_negative_numbers = true)]
    pub density: Option<f64>,
    /// The same as a sparsity: zeros / prunable weights
    #[arg(long, value_name = "S", allow_negative_numbers = true)]
    pub sparsity: Option<f64>,
    /// Where zeros may fall: unstructured, per-row, row, N:M (2:4), flat:N:M, block:RxC (block:4x4)
    #[arg(long, value_name = "PATTERN")]
    pub pattern: Option<String>,
    /// How the budget is shared between layers: uniform, er, erk, erk-plus, global; owl, for methods that look at what weights read;
    /// sensitivity, for `nnz prune` with --data
    #[arg(long, value_name = "NAME")]
    pub distribution: Option<String>,
    /// Options for the layers of a name, where * stands for any characters: a density, a pattern, keep, or OPTION=VALUE,…, such as
    /// 'blocks.*.mlp=0.3'; of several that name a layer the last counts
    #[arg(long, value_name = "NAME=OPTIONS")]
    layer: Vec<LayerOptions>,
    /// Any option of the method; `nnz show METHOD` lists them
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// A TOML file with the method (method = "magnitude"), its options, and options for layers ([[layers]]); options that are given
    /// besides go before
    #[arg(long, value_name = "FILE")]
    recipe: Option<PathBuf>,
}

impl MethodArgs {
    /// The recipe's contents; nothing without one.
    fn recipe(&self) -> Result<toml::Table> {
        let Some(path) = &self.recipe else { return Ok(toml::Table::new()) };
        let text = std::fs::read_to_string(path).with_context(|| format!("{}: cannot be read", path.display()))?;
        text.parse().with_context(|| format!("{}: no recipe", path.display()))
    }

    /// The method.
    ///
    /// # Errors
    /// When neither the command line nor the recipe names one that exists.
    pub fn method(&self, registry: Registry) -> Result<&'static Method> {
        let said = match (&self.method, self.recipe()?.get("method")) {
            (Some(key), _) => key.clone(),
            (None, Some(toml::Value::String(key))) => key.clone(),
            _ => bail!("the recipe names no method; method = \"magnitude\" in it, or --method, does"),
        };
        Ok(registry.find(&said)?)
    }

    /// Collects the options as a table.
    pub fn options(&self, registry: Registry) -> Result<toml::Table> {
        let mut options = self.recipe()?;
        options.remove("method");
        options.extend(pairs(&self.set)?);
        if let Some(density) = self.density.or(self.sparsity.map(|s| 1.0 - s)) {
            if !(density > 0.0 && density <= 1.0) {
                bail!("density must be above 0 and at most 1, got {density}");
            }
            options.insert("density".into(), density.into());
        }
        options.extend(self.pattern.iter().map(|p| ("pattern".into(), p.as_str().into())));
        options.extend(self.distribution.iter().map(|d| ("distribution".into(), d.as_str().into())));
        LayerOptions::add(&mut options, self.layer.iter().cloned());
        // An integer is a valid value for an option that is a float.
        Ok(self.method(registry)?.floats(options))
    }
}
