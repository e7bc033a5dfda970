//! How degrees change under SET, and whether their tail is a power law: a Markdown table for `results/set-degrees.md`.
//!
//! `cargo run --release -p nnz --features bench --example degrees -- mnist10k mlp:784-300-100-10 0.05 100`

use nnz::REGISTRY;
use nnz::data::Store;
use nnz_core::Setting;
use nnz_core::graph_stats::{Alternative, Degrees, tail};
use nnz_engine::{ModelSpec, OptimizerSpec, TrainSpec, Trainer};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [data, model, density, epochs] = &arguments[..] else { return Err("data, model, density, epochs".into()) };
    let (density, epochs): (f64, u32) = (density.parse()?, epochs.parse()?);
    let data = Store::open()?.load(data)?.dataset;
    let model = ModelSpec::parse(model, data.image, data.classes.len())?;
    let spec = TrainSpec { epochs, optimizer: OptimizerSpec::sgd(0.1), ..TrainSpec::default() };
    let build = |setting: &Setting| {
        let options = [("density", density.into()), ("distribution", "er".into()), ("std", 0.02.into())];
        let method = REGISTRY.find("set")?;
        let options: toml::Table = options.into_iter().map(|(k, v): (&str, toml::Value)| (k.into(), v)).collect();
        method.build(&options, setting)
    };
    let mut trainer: Trainer<f32> = Trainer::new(&model, &data, &spec, 0, build)?;
    println!(
        "| epoch | units | mean | most | variation | Gini | exponent | from | in the tail | against exponential | against log-normal |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
    let show = |epoch: u32, trainer: &Trainer<f32>| {
        for p in trainer.model.params.iter().filter(|p| p.prunable) {
            let t = p.topology();
            for (side, degrees) in [("outputs", t.row_degrees()), ("inputs", t.col_degrees())] {
                let Degrees { mean, max, variation, gini, .. } = Degrees::of(&degrees);
                let against = |a: Alternative| format!("{:+.1}, p {:.3}", a.ratio, a.p);
                let end = tail(&degrees).map_or_else(
                    || "– | – | – | – | –".into(),
                    |t| {
                        let (e, l) = (against(t.exponential), against(t.log_normal));
                        format!("{:.2} | {} | {} | {e} | {l}", t.exponent, t.from, t.units)
                    },
                );
                println!(
                    "| {epoch} | {} of {} | {mean:.1} | {max} | {variation:.2} | {gini:.2} | {end} |",
                    side, p.shape.name
                );
            }
        }
    };
    show(0, &trainer);
    let marks = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512];
    trainer.run(|t, progress| {
        if let Some((record, _)) = &progress.finished
            && (marks.contains(&record.epoch) || record.epoch == epochs)
        {
            show(record.epoch, t);
        }
        true
    })?;
    let rows: Vec<u32> = (0..data.test.len() as u32).collect();
    println!("\nTest accuracy {:.2}%.", 100.0 * trainer.evaluate(&data.test, &rows)?.accuracy);
    Ok(())
}
