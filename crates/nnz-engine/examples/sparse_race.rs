//! The nnz side of `benches/peers/sparse.py`: keeps layers and trainings ready and times them on demand, so peers can
//! take turns. Reads one JSON request per line and answers with one JSON line. Arrays are raw little-endian files.
//!
//!     cargo run --release -p nnz-engine --features bench --example sparse_race

use nnz_core::{Born, DistributionKind, Setting, Sparsifier, Topology};
use nnz_engine::data::{Dataset, Inputs, Split};
use nnz_engine::{Frozen, Model, ModelSpec, OptimizerSpec, Storage, Tensor, TrainSpec, Trainer};
use nnz_kernels::{Blocked, Csc, Csr, Plan, Sliced, Tiled, Tuning};
use serde_json::{Value, json};
use std::io::{BufRead, Write};
use std::path::Path;
use std::time::Instant;

/// A layer with everything a step needs.
struct Layer {
    rows: usize,
    cols: usize,
    batch: usize,
    plan: Plan,
    sliced: Sliced<f32>,
    blocked: Blocked<f32>,
    by_row: nnz_kernels::Rows,
    values: Vec<f32>,
    packed: Vec<f32>,
    momentum: Vec<f32>,
    dw: Vec<f32>,
    x: Tiled<f32>,
    g: Tiled<f32>,
    y: Tiled<f32>,
    dx: Tiled<f32>,
    x_rows: Vec<f32>,
    y_rows: Vec<f32>,
}

fn floats(dir: &Path, name: &str) -> Vec<f32> {
    let bytes = std::fs::read(dir.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

fn indices(dir: &Path, name: &str) -> Vec<u32> {
    let bytes = std::fs::read(dir.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    bytes.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect()
}

fn write(dir: &Path, name: &str, values: &[f32]) {
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    std::fs::write(dir.join(name), bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
}

impl Layer {
    /// From `starts`, `columns`, `values`, `x` and `g` in a folder.
    fn read(dir: &Path, rows: usize, cols: usize, batch: usize) -> Self {
        let starts: Vec<usize> = indices(dir, "starts").into_iter().map(|s| s as usize).collect();
        let columns = indices(dir, "columns");
        let (mut t_starts, nnz) = (vec![0; cols + 1], columns.len());
        columns.iter().for_each(|&c| t_starts[c as usize + 1] += 1);
        (0..cols).for_each(|c| t_starts[c + 1] += t_starts[c]);
        let (mut next, mut t_rows, mut entries) = (t_starts.clone(), vec![0; nnz], vec![0; nnz]);
        for r in 0..rows {
            for k in starts[r]..starts[r + 1] {
                let slot = &mut next[columns[k] as usize];
                (t_rows[*slot], entries[*slot]) = (r as u32, k as u32);
                *slot += 1;
            }
        }
        let csr = Csr { rows, cols, starts: &starts, columns: &columns };
        let csc = Csc { starts: &t_starts, rows: &t_rows, entries: &entries };
        let plan = Plan::tuned(csr, csc, Tuning::of(rows, cols, nnz));
        let (by_row_values, by_row) = (floats(dir, "values"), plan.by_rows());
        let mut values = vec![0.0; nnz];
        by_row.scatter(&by_row_values, &mut values);
        let mut packed = vec![0.0; nnz];
        plan.pack(&values, &mut packed);
        let x_rows = floats(dir, "x");
        Self {
            rows,
            cols,
            batch,
            sliced: Sliced::new(csr, &by_row_values),
            blocked: Blocked::new(csr, &by_row_values),
            x: Tiled::from_rows(batch, cols, &x_rows),
            g: Tiled::from_rows(batch, rows, &floats(dir, "g")),
            y: Tiled::zeros(batch, rows),
            dx: Tiled::zeros(batch, cols),
            y_rows: vec![0.0; batch * rows],
            x_rows,
            by_row,
            dw: values.clone(),
            momentum: vec![0.0; nnz],
            values,
            packed,
            plan,
        }
    }

    fn run(&mut self, what: &str) {
        match what {
            "forward" => self.plan.forward(&self.packed, &self.x, None, &mut self.y),
            "backward" => self.plan.backward(&self.values, &self.x, &self.g, Some(&mut self.dx), &mut self.dw),
            "pack" => self.plan.pack(&self.values, &mut self.packed),
            "frozen" if self.batch <= 2 => self.sliced.apply(self.batch, &self.x_rows, None, &mut self.y_rows),
            "frozen" => {
                self.x.copy_from_rows(&self.x_rows);
                self.blocked.forward(&self.x, None, false, &mut self.y);
                self.y.to_rows(&mut self.y_rows);
            }
            "update" => {
                for ((w, v), &g) in self.values.iter_mut().zip(&mut self.momentum).zip(&self.dw) {
                    *v = 0.9 * *v + g;
                    *w -= 1e-9 * *v;
                }
            }
            "step" => ["forward", "backward", "update", "pack"].into_iter().for_each(|w| self.run(w)),
            other => panic!("no operation {other}"),
        }
    }

    /// Writes `y`, `dx` and `dw` to the folder.
    fn answer(&mut self, dir: &Path) {
        ["forward", "backward"].into_iter().for_each(|w| self.run(w));
        self.y.to_rows(&mut self.y_rows);
        write(dir, "y", &self.y_rows);
        let mut dx = vec![0.0; self.batch * self.cols];
        self.dx.to_rows(&mut dx);
        write(dir, "dx", &dx);
        write(dir, "dw", &self.by_row.gather(&self.dw));
        self.run("frozen");
        write(dir, "frozen", &self.y_rows);
        assert_eq!(self.y_rows.len(), self.batch * self.rows);
    }
}

/// A perceptron without biases from the files of its layers, its input, and the answer written next to them.
fn perceptron(dir: &Path, widths: &[usize], batch: usize) -> (Frozen<f32>, Tensor<f32>) {
    let name = format!("mlp:{}", widths.iter().map(usize::to_string).collect::<Vec<_>>().join("-"));
    let classes = widths[widths.len() - 1];
    let spec = ModelSpec::parse(&name, [1, 1, widths[0]], classes).expect("a perceptron");
    let topology = |i: usize| {
        let starts = indices(dir, &format!("starts{i}")).into_iter().map(|s| s as usize).collect();
        Topology::new(widths[i + 1], widths[i], starts, indices(dir, &format!("columns{i}"))).expect("a topology")
    };
    let births = (0..widths.len() - 1).map(topology).collect();
    let mut model: Model<f32> = Model::born(&spec, Some(births), Storage::Auto, true, 0).expect("a model");
    let weights = model.params.iter_mut().filter(|p| p.weight());
    for (i, param) in weights.enumerate() {
        param.by_rows().set(&mut param.value, &floats(dir, &format!("values{i}")));
    }
    let x = Tensor::new(&[batch, widths[0]], floats(dir, "x"));
    let frozen = Frozen::new(model);
    write(dir, "y", frozen.infer(x.clone()).expect("an answer").data());
    (frozen, x)
}

/// Noise in the shape of MNIST: the values do not affect the cost of a step.
fn noise() -> Dataset {
    let split = |rows: usize| {
        let inputs = Inputs::Bytes((0..rows * 784).map(|i| ((i * 2_654_435_761) >> 7) as u8).collect());
        Split::new(inputs, (0..rows as u32).map(|r| r % 10).collect())
    };
    let classes = (0..10).map(|c| c.to_string()).collect();
    Dataset::new("noise", [1, 28, 28], classes, split(60_000), split(16), "noise".into()).expect("sound data")
}

fn trainer<'a>(data: &'a Dataset, request: &Value) -> Trainer<'a, f32> {
    let text = |key: &str| request[key].as_str().unwrap_or_else(|| panic!("`{key}` is missing"));
    let density = request["density"].as_f64().unwrap_or(0.05);
    let model = ModelSpec::parse(text("model"), data.image, 10).expect("a model");
    let storage = serde_json::from_value(request["storage"].clone()).unwrap_or(Storage::Auto);
    let spec = TrainSpec {
        epochs: 1000,
        batch: request["batch"].as_u64().unwrap_or(128) as usize,
        optimizer: OptimizerSpec::Sgd { lr: 1e-3, momentum: 0.9, nesterov: false, weight_decay: 0.0 },
        storage,
        validation: 0.001,
        ..TrainSpec::default()
    };
    let build = |setting: &Setting| -> nnz_core::Result<Box<dyn Sparsifier>> {
        Ok(Box::new(Born::new(density, DistributionKind::Uniform).fixed(setting)))
    };
    Trainer::new(&model, data, &spec, 0, build).expect("a trainer")
}

fn main() {
    let (data, mut layers, mut trainers, mut nets) = (noise(), Vec::new(), Vec::new(), Vec::new());
    for line in std::io::stdin().lock().lines() {
        let request: Value = serde_json::from_str(&line.expect("a line")).expect("a request in JSON");
        let number = |key: &str| request[key].as_u64().unwrap_or_else(|| panic!("`{key}` is missing")) as usize;
        let repeat = request["repeat"].as_u64().unwrap_or(1);
        let answer = match request["op"].as_str() {
            Some("threads") => {
                nnz_kernels::threads::build_in_main(number("threads")).expect("one pool");
                json!({"threads": rayon::current_num_threads()})
            }
            Some("layer") => {
                let dir = Path::new(request["dir"].as_str().expect("`dir`"));
                let mut layer = Layer::read(dir, number("rows"), number("cols"), number("batch"));
                layer.answer(dir);
                let bytes = layer.plan.bytes();
                layers.push(layer);
                json!({"layer": layers.len() - 1, "structure_bytes": bytes})
            }
            Some("forget") => {
                layers.clear();
                trainers.clear();
                nets.clear();
                json!({})
            }
            Some("time") => {
                let (layer, what) = (&mut layers[number("layer")], request["what"].as_str().expect("`what`"));
                layer.run(what);
                let start = Instant::now();
                (0..repeat).for_each(|_| layer.run(what));
                json!({"seconds": start.elapsed().as_secs_f64() / repeat as f64})
            }
            Some("mlp") => {
                let widths = request["widths"].as_array().expect("`widths`").iter();
                let widths: Vec<usize> = widths.map(|w| w.as_u64().expect("a width") as usize).collect();
                let dir = Path::new(request["dir"].as_str().expect("`dir`"));
                nets.push(perceptron(dir, &widths, number("batch")));
                json!({"mlp": nets.len() - 1})
            }
            Some("infer") => {
                let (net, x) = &nets[number("mlp")];
                let start = Instant::now();
                (0..repeat).for_each(|_| drop(net.infer(x.clone()).expect("an answer")));
                json!({"seconds": start.elapsed().as_secs_f64() / repeat as f64})
            }
            Some("trainer") => {
                trainers.push(trainer(&data, &request));
                json!({"trainer": trainers.len() - 1})
            }
            Some("train") => {
                let trainer = &mut trainers[number("trainer")];
                let start = Instant::now();
                for _ in 0..repeat {
                    trainer.advance().expect("a step");
                }
                json!({"seconds": start.elapsed().as_secs_f64() / repeat as f64})
            }
            other => panic!("no request {other:?}"),
        };
        println!("{answer}");
        std::io::stdout().flush().expect("somebody listens");
    }
}
