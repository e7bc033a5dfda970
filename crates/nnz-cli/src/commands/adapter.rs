use crate::ui::{self, Ui};
use anyhow::{Result, bail};
use clap::{Args as ClapArgs, Subcommand};
use nnz_engine::file::{Header, Packing, load_model, save_model};
use nnz_engine::{Model, Storage};
use nnz_foreign::adapter::Difference;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Arguments of `nnz adapter`.
#[derive(ClapArgs, Debug)]
#[command(after_help = "Examples:
  nnz prune base.safetensors --method s2ft --data mnist --finetune 3 -o tuned.safetensors
  nnz adapter take base.safetensors tuned.safetensors -o digits.safetensors
  nnz adapter fuse base.safetensors digits.safetensors -o tuned.safetensors
  nnz adapter switch tuned.safetensors digits.safetensors letters.safetensors -o other.safetensors

Every bit comes back: fused and unfused again, a network is what it was.")]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
    /// Extract the changes of fine-tuning as a separate file
    Take {
        /// The network before fine-tuning
        base: PathBuf,
        /// The network after fine-tuning
        tuned: PathBuf,
        /// The adapter
        #[arg(long, short, value_name = "FILE")]
        output: PathBuf,
    },
    /// Apply an adapter to the network it was taken from
    Fuse {
        /// The network without it
        base: PathBuf,
        /// The adapter
        adapter: PathBuf,
        /// The network with it
        #[arg(long, short, value_name = "FILE")]
        output: PathBuf,
    },
    /// Remove an adapter again
    Unfuse {
        /// The network with it
        fused: PathBuf,
        /// The adapter
        adapter: PathBuf,
        /// The network without it
        #[arg(long, short, value_name = "FILE")]
        output: PathBuf,
    },
    /// Replace one adapter by another
    Switch {
        /// The network with the first
        fused: PathBuf,
        /// The adapter it has
        from: PathBuf,
        /// The adapter it gets
        to: PathBuf,
        /// The network with the second
        #[arg(long, short, value_name = "FILE")]
        output: PathBuf,
    },
}

fn load(path: &Path) -> Result<(Model<f32>, Header)> {
    Ok(load_model(path, Storage::Auto)?)
}

/// Refuses to write over what is read.
fn apart(output: &Path, inputs: &[&PathBuf]) -> Result<()> {
    let same = |p: &&&PathBuf| output.canonicalize().is_ok_and(|o| p.canonicalize().is_ok_and(|p| p == o));
    match inputs.iter().find(same) {
        Some(input) => bail!("-o {} would overwrite what is read; give another file", input.display()),
        None => Ok(()),
    }
}

/// Extracts, fuses, unfuses and switches adapters.
pub fn run(args: &Args, ui: Ui) -> Result<ExitCode> {
    match &args.what {
        What::Take { base, tuned, output } => {
            apart(output, &[base, tuned])?;
            let ((a, of_a), (b, of_b)) = (load(base)?, load(tuned)?);
            let difference = Difference::between((&a, &of_a), (&b, &of_b))?;
            if difference.values() == 0 {
                bail!("{} and {} are the same network: there is nothing to take", base.display(), tuned.display());
            }
            difference.write(output)?;
            let all: usize = a.params.iter().map(|p| p.value.len()).sum();
            let size = |path: &Path| -> Result<usize> { Ok(std::fs::metadata(path)?.len() as usize) };
            let (file, whole) = (size(output)?, size(tuned)?);
            let document = json!({
                "output": output, "values": difference.values(), "of_values": all, "file_bytes": file,
                "network_bytes": whole, "columns": difference.columns(),
            });
            ui.answer(&document, || {
                let row = |(name, columns): &(&str, usize)| vec![name.to_string(), ui::count(*columns)];
                let rows = difference.columns().iter().map(row).collect();
                format!(
                    "{}\n\n{} of {} values, {} where the network has {}: {}",
                    ui::table(&["parameter", "columns"], rows),
                    ui::count(difference.values()),
                    ui::count(all),
                    ui::bytes(file),
                    ui::bytes(whole),
                    output.display()
                )
            })?;
        }
        What::Fuse { base, adapter, output } => lead(base, &[(adapter, true)], output, ui)?,
        What::Unfuse { fused, adapter, output } => lead(fused, &[(adapter, false)], output, ui)?,
        What::Switch { fused, from, to, output } => lead(fused, &[(from, false), (to, true)], output, ui)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Fuses or unfuses adapters in sequence and writes the network if all succeed.
fn lead(network: &PathBuf, steps: &[(&PathBuf, bool)], output: &Path, ui: Ui) -> Result<()> {
    let mut read = vec![network];
    read.extend(steps.iter().map(|(adapter, _)| *adapter));
    apart(output, &read)?;
    let (mut model, mut header) = load(network)?;
    for (adapter, on) in steps {
        let difference = Difference::read(adapter)?;
        let led = if *on { difference.fuse(&mut model) } else { difference.unfuse(&mut model) };
        header = led.map_err(|e| anyhow::anyhow!("{} with {}: {e}", network.display(), adapter.display()))?.clone();
    }
    save_model(output, &model, &header, Packing::Smallest)?;
    ui.answer(&json!({"output": output, "data": header.data}), || output.display().to_string())
}
