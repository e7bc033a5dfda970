use super::network::ModelSource;
use crate::ui::{self, Ui};
use anyhow::{Result, bail};
use clap::{Args as ClapArgs, Subcommand};
use nnz_core::nm::{cycles as count_cycles, multiply_adds};
use nnz_core::{Pattern, Shape};
use nnz_engine::cost::timing::{Compared, Layer, Row, seconds};
use nnz_engine::cost::{Machine, Use};
use nnz_engine::file::{Header, load_model};
use nnz_engine::{Frozen, Model, Param, PolicyRef, Storage, Tensor};
use nnz_lab::scale::{Network, Wiring};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Most entries of a layer whose dense form is measured.
const ENTRIES: usize = 1 << 28;
/// Largest batch that is measured.
const BATCH: usize = 1 << 16;

/// Arguments of `nnz bench`.
#[derive(ClapArgs, Debug)]
#[command(args_conflicts_with_subcommands = true, arg_required_else_help = true)]
pub struct Args {
    #[command(subcommand)]
    what: Option<What>,
    /// A model written by nnz, a language model, or a network as ONNX or a checkpoint
    #[arg(value_parser = super::network::place)]
    model: Option<PathBuf>,
    /// Show for each layer what limits it, the share of that limit that is reached, and where dense would win
    #[arg(long)]
    why: bool,
    /// Samples at once
    #[arg(long, value_name = "B", default_value_t = 1)]
    batch: usize,
    /// The shape of an input that the file leaves open; may be repeated
    #[arg(long, value_name = "NAME=1x3x224x224")]
    shape: Vec<String>,
}

#[derive(Subcommand, Debug)]
enum What {
    /// The sparse kernels on a random layer, compared with a dense product
    Kernels(KernelArgs),
    /// Cost of a training step under N:M masks on an array of multipliers that skips zeros (BDWP)
    Cycles(CycleArgs),
    /// How large a network this machine can train: whole steps of SET, a rewiring, peak memory
    Scale(ScaleArgs),
}

#[derive(ClapArgs, Debug)]
struct KernelArgs {
    /// Outputs and inputs, such as 4096x4096
    #[arg(long, value_name = "OUTxIN", default_value = "1024x1024")]
    shape: String,
    /// Samples at once
    #[arg(long, value_name = "B", default_value_t = 128)]
    batch: usize,
    /// Densities, above 0 and at most 1
    #[arg(long, value_name = "D,…", default_value = "0.1,0.05,0.01", allow_negative_numbers = true)]
    density: String,
    /// Where zeros may fall: unstructured, per-row, N:M or block:RxC; several to compare them
    #[arg(long, value_name = "P,…", default_value = "unstructured")]
    pattern: String,
}

#[derive(ClapArgs, Debug)]
struct CycleArgs {
    /// A model written by nnz, for its layers
    model: PathBuf,
    /// N:M, in the products for outputs and for inputs
    #[arg(long, value_name = "N:M", default_value = "2:8")]
    pattern: String,
    /// Samples at once
    #[arg(long, value_name = "B", default_value_t = 128)]
    batch: usize,
    /// Units per side of the array
    #[arg(long, value_name = "N", default_value_t = 32)]
    side: usize,
}

#[derive(ClapArgs, Debug)]
#[command(after_help = "Examples:
  nnz bench scale --neurons 10M --degree 10 --batch 16
  nnz bench scale --neurons 900k --epsilon 20 --batch 2 --rows 203    a shape of the SET paper, in minutes an epoch")]
struct ScaleArgs {
    /// Hidden neurons, all layers together, such as 250k or 1M
    #[arg(long, value_name = "N", default_value = "1M")]
    neurons: String,
    /// Hidden layers, all equally wide
    #[arg(long, value_name = "L", default_value_t = 3)]
    layers: usize,
    /// Connections per hidden neuron
    #[arg(long, value_name = "K", default_value_t = 20.0, conflicts_with = "epsilon")]
    degree: f64,
    /// Connections as in the SET paper instead: ε (n_in + n_out) between two layers
    #[arg(long, value_name = "E")]
    epsilon: Option<f64>,
    /// Inputs per row
    #[arg(long, value_name = "N", default_value_t = 3312)]
    inputs: usize,
    /// Classes
    #[arg(long, value_name = "N", default_value_t = 5)]
    classes: usize,
    /// Samples at once
    #[arg(long, value_name = "B", default_value_t = 16)]
    batch: usize,
    /// Rows per epoch
    #[arg(long, value_name = "N", default_value_t = 203)]
    rows: usize,
    /// Steps that are timed; the median counts
    #[arg(long, value_name = "N", default_value_t = 3)]
    steps: usize,
}

/// Runs `nnz bench`.
pub fn run(args: &Args, ui: Ui) -> Result<ExitCode> {
    match (&args.what, &args.model) {
        (Some(What::Kernels(args)), _) => kernels(args, ui),
        (Some(What::Scale(args)), _) => scale(args, ui),
        (Some(What::Cycles(args)), _) => cycles(args, ui),
        (None, Some(model)) => match super::network::kind(model) {
            ModelSource::Graph => super::network::bench(model, batch(args.batch)?, &args.shape, args.why, ui),
            _ if !args.shape.is_empty() => bail!("--shape is for networks as ONNX; this file says what its inputs are"),
            ModelSource::Language => super::language::bench(model, args.why, ui),
            ModelSource::Own => network(model, args, ui),
        },
        (None, None) => bail!("nothing to measure; give a model's file, or `nnz bench kernels`"),
    }
}

fn batch(batch: usize) -> Result<usize> {
    match batch {
        1..=BATCH => Ok(batch),
        _ => bail!("a batch has 1 to {BATCH} samples, not {batch}"),
    }
}

pub fn machine(ui: Ui) -> Result<Machine> {
    let (machine, note) = Machine::load()?;
    note.iter().for_each(|n| ui.note(n));
    Ok(machine)
}

fn kernels(args: &KernelArgs, ui: Ui) -> Result<ExitCode> {
    let sides =
        args.shape.split_once('x').and_then(|(r, c)| Some((r.parse::<usize>().ok()?, c.parse::<usize>().ok()?)));
    let Some((rows, cols)) = sides.filter(|&(r, c)| r > 0 && c > 0) else {
        bail!("--shape {}: expected OUTxIN, such as 1024x768", args.shape);
    };
    if rows.checked_mul(cols).is_none_or(|n| n > ENTRIES) {
        bail!("--shape {}: the dense layer beside it would have more than 2^28 entries", args.shape);
    }
    let batch = batch(args.batch)?;
    if batch.saturating_mul(rows.max(cols)) > ENTRIES {
        bail!("--batch {batch}: activations of more than 2^28 numbers are not measured; take fewer samples");
    }
    let density = |text: &str| match text.trim().parse::<f64>() {
        Ok(d) if d > 0.0 && d <= 1.0 => Ok(d),
        _ => bail!("--density {text}: densities are above 0 and at most 1, with commas between them"),
    };
    let densities = args.density.split(',').map(density).collect::<Result<Vec<f64>>>()?;
    let shape = Shape::matrix("w", rows, cols);
    let patterns = args.pattern.split(',').map(|p| Ok(p.trim().parse()?)).collect::<Result<Vec<Pattern>>>()?;
    patterns.iter().try_for_each(|p| p.check(&shape))?;
    let machine = machine(ui)?;
    let mut measured: Vec<Row> = Vec::new();
    for &pattern in &patterns {
        // N:M fixes the density itself.
        let fixed = pattern.fixed_density().map(|d| vec![d]);
        for &d in fixed.as_ref().unwrap_or(&densities) {
            measured.extend(Layer::patterned(pattern, rows, cols, d, batch).rows(&machine, pattern));
        }
    }
    ui.answer(&measured, || table(&measured))?;
    Ok(ExitCode::SUCCESS)
}

/// Parses `250k` or `1.5M`.
fn many(text: &str) -> Option<usize> {
    let (number, unit) = match text.strip_suffix(['k', 'M', 'G']) {
        Some(number) => (number, [("k", 1e3), ("M", 1e6), ("G", 1e9)].into_iter().find(|u| text.ends_with(u.0))?.1),
        None => (text, 1.0),
    };
    let value = number.parse::<f64>().ok()? * unit;
    ((1.0..=1e12).contains(&value) && value.fract() == 0.0).then_some(value as usize)
}

fn scale(args: &ScaleArgs, ui: Ui) -> Result<ExitCode> {
    let Some(neurons) = many(&args.neurons) else {
        bail!("--neurons {}: expected a number of neurons, such as 250k, 1M or 300000", args.neurons);
    };
    let wiring = args.epsilon.map_or(Wiring::Degree(args.degree), Wiring::Epsilon);
    let (Wiring::Degree(each) | Wiring::Epsilon(each)) = wiring;
    if !(each > 0.0 && each.is_finite()) {
        bail!("connections for each neuron must be above 0, got {each}");
    }
    let ScaleArgs { layers, inputs, classes, rows, steps, .. } = *args;
    let batch = batch(args.batch)?;
    let network = Network { neurons, layers, wiring, inputs, classes, batch, rows, steps };
    let found = network.measure(ui.registry, 0)?;
    let memory = |bytes: Option<usize>| bytes.map_or_else(|| "unknown".into(), ui::bytes);
    ui.answer(&found, || {
        format!(
            "{} neurons, {} weights, batch {batch}, {} threads\n  birth     {:.2} s\n  step      {:.3} s, peak memory {}\n  \
             rewiring  {:.3} s, peak memory {}\n  epoch     {:.2} min of {rows} rows with one rewiring\n  weights   {}\n  \
             loss      {:.4} to {:.4}",
            ui::count(neurons),
            ui::count(found.nonzeros),
            found.threads,
            found.birth,
            found.step,
            memory(found.peak_steps),
            found.rewiring,
            memory(found.peak),
            found.epoch,
            ui::bytes(found.weights),
            found.loss[0],
            found.loss[1],
        )
    })?;
    Ok(ExitCode::SUCCESS)
}

/// A layer's products for outputs, inputs and weights.
#[derive(Serialize)]
struct CycleRow {
    name: String,
    rows: usize,
    cols: usize,
    multiply_adds: [usize; 3],
    cycles: [usize; 3],
    dense_cycles: [usize; 3],
}

fn cycles(args: &CycleArgs, ui: Ui) -> Result<ExitCode> {
    let Pattern::Nm { n, m, .. } = args.pattern.parse()? else {
        bail!("--pattern {}: expected N:M, such as 2:8", args.pattern);
    };
    if !(1..=4096).contains(&args.side) {
        bail!("--side {}: an array has 1 to 4096 units a side", args.side);
    }
    let batch = batch(args.batch)?;
    let (model, _): (Model<f32>, Header) = load_model(&args.model, Storage::Auto)?;
    let row = |p: &Param<f32>| {
        let (rows, cols) = (p.shape.rows, p.shape.cols);
        // The head is never masked.
        let nm = if p.prunable { [n, m] } else { [1, 1] };
        CycleRow {
            name: p.shape.name.clone(),
            rows,
            cols,
            multiply_adds: multiply_adds(rows, cols, batch, nm),
            cycles: count_cycles(rows, cols, batch, nm, args.side),
            dense_cycles: count_cycles(rows, cols, batch, [1, 1], args.side),
        }
    };
    let rows: Vec<CycleRow> = model.weights().map(row).collect();
    ui.answer(&rows, || {
        let ratio = |sparse: usize, dense: usize| format!("{:.2}x", dense as f64 / sparse.max(1) as f64);
        let line = |r: &CycleRow| {
            let [all, dense] = [r.cycles.iter().sum(), r.dense_cycles.iter().sum()];
            let mut cells = vec![r.name.clone(), format!("{}x{}", r.rows, r.cols)];
            cells.extend(r.cycles.map(ui::count));
            cells.extend([ui::count(all), ui::count(dense), ratio(all, dense)]);
            cells
        };
        let total = |f: fn(&CycleRow) -> [usize; 3]| rows.iter().map(|r| f(r).iter().sum::<usize>()).sum::<usize>();
        let (all, dense) = (total(|r| r.cycles), total(|r| r.dense_cycles));
        let mut lines: Vec<Vec<String>> = rows.iter().map(line).collect();
        let none = || String::from("-");
        let sums = [ui::count(all), ui::count(dense), ratio(all, dense)];
        lines.push([vec!["all".into(), none(), none(), none(), none()], sums.to_vec()].concat());
        let head = ["", "shape", "outputs", "inputs", "weights", "cycles", "dense", "speed-up"];
        format!(
            "One step of {batch} samples at {n}:{m} on {side}x{side} units; a convolution counts one place of its window\n\n{}",
            ui::table(&head, lines),
            side = args.side
        )
    })?;
    Ok(ExitCode::SUCCESS)
}

fn table(rows: &[Row]) -> String {
    let head = [
        "pattern",
        "kernel",
        "density",
        "batch",
        "forward ms",
        "backward ms",
        "step ms",
        "dense ms",
        "speed-up",
        "of turns",
        "GFLOP/s",
        "bound",
        "share",
    ];
    let line = |r: &Row| {
        vec![
            r.pattern.to_string(),
            r.kernel.into(),
            ui::density(r.density),
            r.batch.to_string(),
            format!("{:.3}", r.forward),
            r.backward.map_or_else(|| "-".into(), |b| format!("{b:.3}")),
            format!("{:.3}", r.step),
            format!("{:.3}", r.dense_ms),
            format!("{:.2}x", r.speedup_step),
            format!("{:.2}x to {:.2}x", r.speedup_range[0], r.speedup_range[1]),
            format!("{:.1}", r.gflops),
            r.bound.into(),
            ui::percent(r.share, None),
        ]
    };
    ui::table(&head, rows.iter().map(line).collect())
}

/// The ratio and its noise; none where both are the same computation and a ratio could be noise alone.
pub fn gain(compared: &Compared, same: bool) -> (Option<f64>, Option<[f64; 2]>) {
    ((!same).then_some(compared.ratio), (!same).then_some(compared.range))
}

/// What a comparison with dense weights shows; `same`: whether both are the same computation.
pub fn compared(compared: &Compared, same: bool) -> String {
    let [low, high] = compared.range;
    match compared.ratio {
        _ if same => "by the same computation as".into(),
        r if compared.open() => format!("not measurably faster or slower ({r:.2}x, {low:.2}x to {high:.2}x) than"),
        r if r >= 1.0 => format!("{r:.2}x ({low:.2}x to {high:.2}x) faster than"),
        r => format!("{:.2}x ({:.2}x to {:.2}x) SLOWER than", 1.0 / r, 1.0 / high, 1.0 / low),
    }
}

/// Cost of one layer of a model.
#[derive(Serialize)]
struct LayerCost {
    name: String,
    rows: usize,
    cols: usize,
    density: f64,
    /// The format that the cost model picks.
    kernel: &'static str,
    /// Milliseconds of a forward pass in that format; `None` for a convolution, which always runs dense.
    ms: Option<f64>,
    /// Milliseconds of a dense forward pass.
    dense_ms: Option<f64>,
    /// What limits it: `L1 loads`, `gathers`, `multiply-adds` or `memory`; `call` if the layer is so small that calling the
    /// kernel takes longest.
    bound: Option<&'static str>,
    /// Share of the limit that is reached.
    share: Option<f64>,
    /// Density above which dense is faster.
    crossover: Option<f64>,
}

/// Layers that take less are bound by the call.
const CALL: f64 = 1.5e-6;

/// Cost of a model.
#[derive(Serialize)]
struct Cost {
    batch: usize,
    /// Milliseconds of the whole network as it is stored.
    ms: f64,
    /// Milliseconds of the whole network with every weight stored.
    dense_ms: f64,
    /// How many times faster, and the noise of that; `None` where both are the same computation.
    speedup: Option<f64>,
    speedup_range: Option<[f64; 2]>,
    /// Weights that are multiplied sparse.
    sparse: usize,
    #[serde(skip)]
    compared: Compared,
    layers: Vec<LayerCost>,
}

fn network(path: &Path, args: &Args, ui: Ui) -> Result<ExitCode> {
    let batch = batch(args.batch)?;
    let (dense, header): (Model<f32>, Header) = load_model(path, Storage::Masked)?;
    let machine = machine(ui)?;
    let crossovers = machine.crossovers(Use::Inference, &header.model, batch);
    let storing = PolicyRef { storage: Storage::Auto, crossovers: &crossovers };
    let (model, _): (Model<f32>, Header) = load_model(path, storing)?;
    let features = header.model.input.iter().product::<usize>();
    let x = Tensor::full(&[batch, features], 0.5f32);
    let layers = model.weights().filter(|p| p.shape.len() <= ENTRIES).map(|p| layer(p, batch, &machine)).collect();
    let sparse = model.weights().filter(|p| p.storage_name() == "sparse").count();
    // Both in the same program, so that the weights alone are compared.
    let (frozen, dense) = (Frozen::new(model), Frozen::new(dense));
    frozen.infer(x.clone())?;
    let compared = Compared::by_turns(|whole| {
        let network = if whole { &dense } else { &frozen };
        Ok::<_, anyhow::Error>(seconds(|| assert!(network.infer(x.clone()).is_ok(), "it answered a moment ago")))
    })?;
    let (speedup, speedup_range) = gain(&compared, sparse == 0);
    let (ms, dense_ms) = (compared.first * 1e3, compared.second * 1e3);
    let cost = Cost { batch, ms, dense_ms, speedup, speedup_range, sparse, compared, layers };
    ui.answer(&cost, || describe(&cost, args.why))?;
    Ok(ExitCode::SUCCESS)
}

fn layer(p: &Param<f32>, batch: usize, machine: &Machine) -> LayerCost {
    let (rows, cols, density) = (p.shape.rows, p.shape.cols, p.nnz() as f64 / p.shape.len() as f64);
    let name = p.shape.name.clone();
    if p.shape.kernel != [1, 1] {
        let (ms, dense_ms, bound, share, crossover) = (None, None, None, None, None);
        return LayerCost { name, rows, cols, density, kernel: "dense", ms, dense_ms, bound, share, crossover };
    }
    let (kernel, layer) = (machine.advice(rows, cols, density, batch), Layer::new(p.topology(), batch));
    let dense = layer.dense()[0];
    let time = if kernel == "dense" { dense } else { layer.frozen(kernel) };
    let (bound, least) = machine.bound(kernel, layer.topology(), batch, false);
    let (bound, share) = if time < CALL { ("call", None) } else { (bound, Some((least / time).min(1.0))) };
    LayerCost {
        name,
        rows,
        cols,
        density,
        kernel,
        ms: Some(time * 1e3),
        dense_ms: Some(dense * 1e3),
        bound: Some(bound),
        share,
        crossover: Some(machine.crossover(Use::Inference, rows, cols, batch)),
    }
}

fn describe(cost: &Cost, why: bool) -> String {
    let samples = if cost.batch == 1 { "1 sample".into() } else { format!("{} samples", cost.batch) };
    let compared = compared(&cost.compared, cost.sparse == 0);
    let whole =
        format!("{samples} in {:.3} ms, {compared} with every weight stored ({:.3} ms)\n", cost.ms, cost.dense_ms);
    if !why {
        return whole;
    }
    let head = ["", "shape", "density", "kernel", "ms", "dense ms", "bound by", "share", "dense wins from"];
    let none = || "-".to_string();
    let ms = |t: Option<f64>| t.map_or_else(none, |t| format!("{t:.4}"));
    let line = |l: &LayerCost| {
        vec![
            l.name.clone(),
            format!("{}x{}", l.rows, l.cols),
            ui::density(l.density),
            l.kernel.into(),
            ms(l.ms),
            ms(l.dense_ms),
            l.bound.map_or_else(none, Into::into),
            l.share.map_or_else(none, |s| ui::percent(s, None)),
            l.crossover.map_or_else(none, |c| if c < 1.0 { format!("{c:.2}") } else { "never".into() }),
        ]
    };
    let table = ui::table(&head, cost.layers.iter().map(line).collect());
    let note = match cost.layers.iter().any(|l| l.ms.is_none()) {
        true => "\nConvolutions run dense at any density.\n",
        false => "",
    };
    format!("{whole}\n{table}{note}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_gain_is_told_where_there_can_be_none() {
        let of = |turns: &[[f64; 2]]| Compared::of(turns);
        let faster = of(&[[1.0, 2.0], [1.0, 2.2], [1.0, 1.9]]);
        assert_eq!(compared(&faster, false), "2.00x (1.90x to 2.20x) faster than");
        // The same numbers, where nothing is multiplied sparse.
        assert_eq!((compared(&faster, true), gain(&faster, true)), ("by the same computation as".into(), (None, None)));
        assert_eq!(gain(&faster, false), (Some(2.0), Some([1.9, 2.2])));
        let slower = of(&[[2.0, 1.0], [2.5, 1.0], [1.6, 1.0]]);
        assert_eq!(compared(&slower, false), "2.00x (1.60x to 2.50x) SLOWER than");
        let noise = of(&[[1.0, 1.3], [1.0, 1.2], [1.0, 0.9]]);
        assert!(compared(&noise, false).starts_with("not measurably faster or slower (1.20x, 0.90x to 1.30x)"));
    }
}
