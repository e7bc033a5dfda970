use super::model;
use super::network::{self, ModelSource};
use super::{Inputs, MethodArgs, TableArgs};
use crate::ui::{self, Ui};
use anyhow::{Result, bail};
use clap::Args as ClapArgs;
use nnz_core::{LayerOptions, Method, Names, Pattern};
use nnz_engine::data::Dataset;
use nnz_engine::file::{Header, write_atomically};
use nnz_engine::{Model, StoragePolicy};
use nnz_lab::sensitivity::{Curve, Measure, divide};
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;

/// Arguments of `nnz sensitivity`.
#[derive(ClapArgs, Debug)]
#[command(after_help = "Examples:
  nnz sensitivity model.safetensors --method magnitude
  nnz sensitivity net.onnx mnist10k --normalize unit --method magnitude --density 0.1 -o prune.toml
  nnz prune net.onnx --recipe prune.toml --data mnist10k --finetune 3 -o small.onnx

Losses are measured on training rows; the test split is not looked at.")]
pub struct Args {
    /// A model written by nnz, or a network of another program (ONNX, or a checkpoint)
    #[arg(value_parser = network::place)]
    model: PathBuf,
    /// Data set: a name from `nnz data list`, or a file or folder [default: the training data of a model written by nnz]
    data: Option<String>,
    #[command(flatten)]
    method: MethodArgs,
    /// Densities to which every layer alone is pruned
    #[arg(long, value_name = "D,…", value_delimiter = ',', default_values_t = DENSITIES)]
    densities: Vec<f64>,
    /// Training rows that are measured, at most
    #[arg(long, value_name = "N", default_value_t = ROWS, value_parser = clap::value_parser!(u32).range(1..))]
    rows: u32,
    #[command(flatten)]
    inputs: Inputs,
    #[command(flatten)]
    table: TableArgs,
    /// Key of all random choices
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    seed: u64,
    /// Write the densities that lose least at --density as a recipe for `nnz prune --recipe`
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Training rows that are measured, at most.
const ROWS: u32 = 2000;
/// What every layer alone is pruned to.
const DENSITIES: [f64; 6] = [0.5, 0.3, 0.2, 0.1, 0.05, 0.02];
/// Training rows that a method may measure on.
const BATCH: usize = 1024;

/// The first training rows, at most so many.
fn first(data: &Dataset, most: usize) -> Vec<u32> {
    (0..data.train.len().min(most) as u32).collect()
}

/// Options by which every layer gets its density.
fn by_layer(curves: &[Curve], densities: &[f64]) -> Vec<LayerOptions> {
    let each = curves.iter().zip(densities).map(|(curve, density)| {
        // A whole number of entries, at least one.
        let kept = (density * curve.entries as f64).round().max(1.0) / curve.entries as f64;
        let options = toml::Table::from_iter([("density".to_owned(), kept.into())]);
        LayerOptions { names: Names::exactly(&curve.layer), options }
    });
    each.collect()
}

/// Measures what a network loses by each of its layers.
pub fn run(args: &Args, ui: Ui) -> Result<ExitCode> {
    if network::kind(&args.model) == ModelSource::Language {
        bail!(
            "{} is a language model; --distribution owl divides a budget between its blocks by what they read",
            args.model.display()
        );
    }
    let mut densities = args.densities.clone();
    if let Some(wrong) = densities.iter().find(|d| !(**d > 0.0 && **d < 1.0)) {
        bail!("--densities: {wrong} is not between 0 and 1");
    }
    densities.sort_by(|a, b| b.total_cmp(a));
    densities.dedup();
    let method = args.method.method(ui.registry)?;
    let mut options = args.method.options(ui.registry)?;
    let asked = options.remove("density").and_then(|d| d.as_float());
    if args.output.is_some() && asked.is_none() {
        bail!("--output writes densities of layers for a budget; give it with --density");
    }
    check(&options)?;
    let (model, header, data) = model::with_data(&args.model, args.data.as_deref(), &args.table, &args.inputs, ui)?;
    let rows = first(&data, args.rows as usize);
    let curves =
        Of { model: &model, header: &header, data: &data, rows: &rows, method, options: &options, seed: args.seed }
            .curves(&densities, ui)?;
    let chosen = asked.map(|density| divide(&curves, density)).transpose()?;
    if let (Some(path), Some(chosen), Some(asked)) = (&args.output, &chosen, asked) {
        let mut recipe = toml::Table::from_iter([("method".to_owned(), method.key.into())]);
        recipe.extend(options.clone());
        recipe.insert("density".into(), asked.into());
        LayerOptions::add(&mut recipe, by_layer(&curves, chosen));
        write_atomically(path, toml::to_string(&recipe)?.as_bytes())?;
    }
    let document =
        json!({"method": method.key, "data": data.name, "rows": rows.len(), "layers": curves, "densities": chosen});
    ui.answer(&document, || {
        let mut head = vec!["layer".to_owned(), "entries".into(), "1".into()];
        head.extend(densities.iter().map(|d| ui::density(*d)));
        head.extend(asked.map(|d| format!("at {}", ui::density(d))));
        let row = |(i, c): (usize, &Curve)| {
            let mut row = vec![c.layer.clone(), ui::count(c.entries)];
            row.extend(c.points.iter().map(|p| ui::percent(p.accuracy, None)));
            row.extend(chosen.as_ref().map(|d| ui::density(d[i])));
            row
        };
        let head: Vec<&str> = head.iter().map(String::as_str).collect();
        let table = ui::table(&head, curves.iter().enumerate().map(row).collect());
        let measure = header.task.measure();
        let caption = format!(
            "{measure} on {} training rows of {} when one layer alone is pruned to a density by {}",
            ui::count(rows.len()),
            data.name,
            method.key
        );
        let end = args.output.as_ref().map_or(String::new(), |path| format!("\n\n{}", path.display()));
        format!("{caption}\n\n{table}{end}")
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Refuses options by which layers cannot have a density each.
fn check(options: &toml::Table) -> Result<()> {
    let pattern = options.get("pattern").and_then(toml::Value::as_str);
    match pattern.and_then(|p| p.parse::<Pattern>().ok()?.fixed_density()) {
        Some(_) => bail!("pattern {} fixes the density of every layer; leave it out", pattern.unwrap_or_default()),
        None if options.contains_key(LayerOptions::KEY) => {
            bail!("densities of layers are what is measured; leave --layer out")
        }
        None => Ok(()),
    }
}

/// A network and a method whose layers are measured.
struct Of<'a> {
    model: &'a Model<f32>,
    header: &'a Header,
    data: &'a Dataset,
    rows: &'a [u32],
    method: &'static Method,
    options: &'a toml::Table,
    seed: u64,
}

impl Of<'_> {
    /// The curves, with progress.
    fn curves(&self, densities: &[f64], ui: Ui) -> Result<Vec<Curve>> {
        let Self { model, header, data, rows, method, options, seed } = *self;
        let (frame, policy, batch) = (&header.frame(), &StoragePolicy::default(), &first(data, BATCH)[..]);
        let layers = model.params.iter().filter(|p| p.prunable).count();
        let bar = super::language::bar(ui, "prunings", layers * densities.len());
        let measure = Measure { model, frame, policy, data, rows, batch, method, options, seed };
        let curves = measure.curves(densities, |done, _| {
            bar.set_position(done as u64);
            Ok(())
        })?;
        bar.finish_and_clear();
        Ok(curves)
    }
}

/// Options of a method with `distribution = "sensitivity"`, with a density for every layer in its place.
pub fn divided(
    model: &Model<f32>,
    header: &Header,
    data: Option<&Dataset>,
    method: &'static Method,
    given: &toml::Table,
    seed: u64,
    ui: Ui,
) -> Result<toml::Table> {
    let Some(data) = data else {
        bail!("distribution sensitivity measures what each layer loses, which takes data; give --data")
    };
    let Some(density) = given.get("density").and_then(toml::Value::as_float) else {
        bail!("distribution sensitivity divides a budget; give it with --density")
    };
    let mut options = given.clone();
    options.retain(|key, _| key != "density" && key != "distribution");
    check(&options)?;
    let rows = first(data, ROWS as usize);
    let curves = Of { model, header, data, rows: &rows, method, options: &options, seed }.curves(&DENSITIES, ui)?;
    options.insert("density".into(), density.into());
    LayerOptions::add(&mut options, by_layer(&curves, &divide(&curves, density)?));
    Ok(options)
}
