//! Size of the networks that this machine can train: whole steps of SET on a perceptron of any width.

use crate::{Error, Result};
use nnz_core::{Registry, Rng};
use nnz_engine::data::{Dataset, Inputs, Split};
use nnz_engine::{LrSchedule, ModelSpec, OptimizerSpec, Storage, TrainSpec, Trainer, targets};
use serde::{Deserialize, Serialize};
use std::time::Instant;

/// Number of connections of a network.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wiring {
    /// This many per hidden neuron on average, shared between layers as `er` does.
    Degree(f64),
    /// ε (n_in + n_out) between two layers (Mocanu et al. 2018, eq. 1).
    Epsilon(f64),
}

/// A perceptron with equal hidden layers, and its training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Network {
    /// Hidden neurons, all layers together.
    pub neurons: usize,
    /// Hidden layers.
    pub layers: usize,
    /// Connections; the classifier is dense, as in SET.
    pub wiring: Wiring,
    /// Numbers per row.
    pub inputs: usize,
    /// Classes.
    pub classes: usize,
    /// Rows per step.
    pub batch: usize,
    /// Rows per epoch.
    pub rows: usize,
    /// Steps that are timed; the median counts.
    pub steps: usize,
}

/// Costs of a network.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Scale {
    /// The network measured.
    #[serde(flatten)]
    pub network: Network,
    /// Nonzero weights, the dense classifier included.
    pub nonzeros: usize,
    /// Threads used.
    pub threads: usize,
    /// Seconds until the first step could begin.
    pub birth: f64,
    /// Seconds of a step: forward, backward, optimizer. Median.
    pub step: f64,
    /// Seconds that a rewiring of all layers adds to a step.
    pub rewiring: f64,
    /// Minutes of an epoch with one rewiring.
    pub epoch: f64,
    /// Bytes of weights with their indices.
    pub weights: usize,
    /// Largest resident memory of the process after the steps, in bytes...
    pub peak_steps: Option<usize>,
    /// ...and after the rewiring.
    pub peak: Option<usize>,
    /// Loss of the first step and of the last.
    pub loss: [f64; 2],
}

impl Network {
    fn spec(&self) -> Result<ModelSpec> {
        let hidden = format!("-{}", self.neurons / self.layers.max(1)).repeat(self.layers);
        let name = format!("mlp:{}{hidden}-{}", self.inputs, self.classes);
        Ok(ModelSpec::parse(&name, [1, 1, self.inputs], self.classes)?)
    }

    /// Connections outside the classifier.
    pub fn connections(&self) -> f64 {
        let width = (self.neurons / self.layers.max(1)) as f64;
        match self.wiring {
            Wiring::Degree(degree) => degree * self.neurons as f64,
            Wiring::Epsilon(epsilon) => {
                let ends = self.inputs as f64 + width + (self.layers.max(1) - 1) as f64 * 2.0 * width;
                epsilon * ends
            }
        }
    }

    /// Upper bound on the bytes of its training, from the sizes of its parts: 28 a connection, 60 more for each of the
    /// widest layer while that is rewired, and the activations of a step with their gradients.
    pub fn bytes(&self) -> f64 {
        let layers = self.layers.max(1) as f64;
        let widest = self.connections() / (layers - 0.5).max(1.0);
        let wide = nnz_kernels::padded(self.batch) as f64;
        let activations = self.neurons as f64 * (4.0 * wide * (1.0 + 2.0 / layers) + 36.0);
        28.0 * self.connections() + 60.0 * widest + activations
    }

    /// Trains for a few steps and one rewiring. Rows are random.
    ///
    /// # Errors
    /// When the network is impossible, or would not fit the free memory.
    pub fn measure(&self, registry: Registry, seed: u64) -> Result<Scale> {
        if self.layers == 0 || self.neurons / self.layers == 0 || self.batch == 0 || self.steps == 0 {
            return Err(Error::Refused("a network needs a neuron in each layer, and a step a row".into()));
        }
        if let Some(free) = memory("/proc/meminfo", "MemAvailable:").filter(|free| self.bytes() > *free as f64) {
            return Err(Error::Refused(format!(
                "training this network takes about {:.1} GB and {:.1} GB are free; take fewer connections or a smaller \
                 batch, or spread the neurons over more layers, of which one at a time is rewired",
                self.bytes() / 1e9,
                free as f64 / 1e9
            )));
        }
        let started = Instant::now();
        let model = self.spec()?;
        let entries: f64 = targets(&model, false, nnz_core::TargetKind::Weights).iter().map(|s| s.len() as f64).sum();
        // A first step that is not timed, those that are, and one that rewires.
        let last = self.steps as u64 + 1;
        let data = self.data(self.rows.max((last as usize + 2) * self.batch), seed)?;
        let spec = TrainSpec {
            epochs: 1,
            batch: self.batch,
            // A dense classifier over so many neurons needs a rate that falls with their number.
            optimizer: OptimizerSpec::sgd((1.0 / (self.neurons / self.layers) as f64).min(0.01)),
            schedule: LrSchedule::Constant,
            warmup: 0.0,
            storage: Storage::Sparse,
            validation: 0.0,
            ..TrainSpec::default()
        };
        let mut options = toml::Table::new();
        options.insert("density".into(), (self.connections() / entries).min(1.0).into());
        options.insert("distribution".into(), "er".into());
        options.insert("every".into(), format!("{last} steps").into());
        options.insert("until".into(), "1.0 run".into());
        let method = registry.find("set")?;
        let mut trainer: Trainer<f32> = Trainer::new(&model, &data, &spec, seed, |s| method.build(&options, s))?;
        let birth = started.elapsed().as_secs_f64();
        let mut step = || -> Result<(f64, f64)> {
            let started = Instant::now();
            let before = trainer.position.loss_sum;
            trainer.advance()?;
            let loss = (trainer.position.loss_sum - before) / self.batch as f64;
            Ok((started.elapsed().as_secs_f64(), loss))
        };
        let (_, first) = step()?;
        let mut times = (0..self.steps).map(|_| Ok(step()?.0)).collect::<Result<Vec<f64>>>()?;
        let peak_steps = memory("/proc/self/status", "VmHWM:");
        let (with_rewiring, end) = step()?;
        times.sort_by(f64::total_cmp);
        let median = times[times.len() / 2];
        let rewiring = (with_rewiring - median).max(0.0);
        let per_epoch = self.rows.div_ceil(self.batch) as f64;
        Ok(Scale {
            network: self.clone(),
            nonzeros: trainer.model.nonzeros(),
            threads: rayon::current_num_threads(),
            birth,
            step: median,
            rewiring,
            epoch: (per_epoch * median + rewiring) / 60.0,
            weights: trainer.model.bytes(),
            peak_steps,
            peak: memory("/proc/self/status", "VmHWM:"),
            loss: [first, end],
        })
    }

    /// Normal inputs, and classes that depend on the first of them.
    fn data(&self, rows: usize, seed: u64) -> Result<Dataset> {
        let mut rng = Rng::stream(seed, "scale", 0, 0);
        let mut split = |rows: usize| {
            let values: Vec<f32> = (0..rows * self.inputs).map(|_| rng.normal() as f32).collect();
            let class = |row: &[f32]| ((row[0] + 3.0) / 6.0 * self.classes as f32).max(0.0) as u32;
            let labels = values.chunks(self.inputs).map(|row| class(row).min(self.classes as u32 - 1)).collect();
            Split::new(Inputs::Floats(values), labels)
        };
        let (train, test) = (split(rows), split(1));
        let classes = (0..self.classes).map(|c| c.to_string()).collect();
        let data = Dataset::new("random rows", [1, 1, self.inputs], classes, train, test, String::new());
        Ok(data.map_err(nnz_engine::Error::from)?)
    }
}

/// A line of a system file that gives kilobytes; `None` if there is no such file.
fn memory(file: &str, line: &str) -> Option<usize> {
    let text = std::fs::read_to_string(file).ok()?;
    let number = text.lines().find_map(|l| l.strip_prefix(line))?;
    Some(number.split_whitespace().next()?.parse::<usize>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(wiring: Wiring) -> Network {
        Network { neurons: 3000, layers: 3, wiring, inputs: 50, classes: 5, batch: 4, rows: 20, steps: 2 }
    }

    #[test]
    fn connections_are_those_of_the_paper() {
        // ε (50 + 1000) + ε (1000 + 1000) twice.
        assert_eq!(network(Wiring::Epsilon(20.0)).connections(), 101_000.0);
        let scale = network(Wiring::Degree(20.0)).measure(Registry(nnz_sparse::ROOMS), 0).unwrap();
        assert_eq!(scale.nonzeros, 60_000 + 5 * 1000);
        assert!(scale.loss.iter().all(|l| l.is_finite()) && scale.step > 0.0);
    }

    #[test]
    fn what_does_not_fit_is_refused_before_it_is_made() {
        let large = Network { neurons: 3_000_000_000, ..network(Wiring::Degree(1000.0)) };
        let why = large.measure(Registry(nnz_sparse::ROOMS), 0).unwrap_err().to_string();
        assert!(why.contains("GB are free"), "{why}");
        assert!(Network { layers: 0, ..network(Wiring::Degree(1.0)) }.measure(Registry(nnz_sparse::ROOMS), 0).is_err());
    }
}
