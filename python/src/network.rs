//! A network that is trained on arrays in memory, for estimators.

use crate::arrays::slice;
use crate::error::{kind, value};
use crate::threads::{computing, spawn};
use nnz::core::{Dense, Setting};
use nnz::engine::data::{DataError, Dataset, Inputs, Normalization, SparseRows, Split};
use nnz::engine::file::{Header, Packing, model_bytes, parse_model};
use nnz::engine::layers::{Activation, Flatten, Function, Linear, Relu};
use nnz::engine::{
    EpochRecord, Error, Frozen, Init, LayerSpec, LrSchedule, Model, ModelSpec, Number, OptimizerSpec, Param,
    Preprocessing, Storage, StoragePolicy, Task, Tensor, TrainSpec, Trainer,
};
use numpy::{Element, PyArray1, PyArrayMethods, PyReadonlyArray1, PyReadonlyArray2, PyUntypedArrayMethods};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyTuple};
use serde::{Deserialize, Serialize};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// Rows that a network reads at once when it is used.
const BLOCK: usize = 2048;
/// Time between two looks for a signal, such as Ctrl-C.
const LOOK: Duration = Duration::from_millis(10);
/// Values of a batch from which on a thread makes batches ahead. Changes no result.
const AHEAD: usize = 1 << 16;
/// Names a state of training among files.
const RUN: &str = "memory";

/// What is trained, and how.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    task: Task,
    /// Widths of the hidden layers; of an autoencoder down to the code.
    hidden: Vec<usize>,
    activation: String,
    /// None trains a dense network.
    method: Option<String>,
    density: Option<f64>,
    /// Further options of the method.
    options: toml::Table,
    optimizer: OptimizerSpec,
    schedule: LrSchedule,
    epochs: u32,
    batch: usize,
    seed: u64,
    /// Share of the rows that is held out; above 0, it says when to stop and which epoch to keep.
    validation: f64,
    /// Epochs without an improvement by more than `tol` after which the training stops.
    patience: u32,
    tol: f64,
    /// Computes in 64 bits.
    double: bool,
}

/// What a training begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begin {
    /// New weights.
    New,
    /// The weights and connections of an earlier network, and a new run of the method.
    Weights,
    /// An earlier training, as if it had not ended, for one epoch.
    State,
}

/// A trained network in one number format, with all that training it further needs.
struct Kept<T: Number> {
    network: Frozen<T>,
    header: Header,
    /// A checkpoint, unless an earlier epoch than the last is kept.
    state: Option<Vec<u8>>,
    about: About,
}

/// The rest of what is known of a trained network.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct About {
    settings: Settings,
    /// Steps of the run that the method was built for, and of one epoch.
    run: [u64; 2],
    epochs: Vec<EpochRecord>,
    /// Whether it stopped before the last epoch that was asked for.
    stopped: bool,
    /// Whether the epoch kept is an earlier one than the last.
    best: Option<u32>,
    notes: Vec<String>,
}

enum Trained {
    Single(Kept<f32>),
    Double(Kept<f64>),
}

/// Calls a function of [`Kept`] in whichever format it is.
macro_rules! either {
    ($trained:expr, $kept:ident => $do:expr) => {
        match $trained {
            Trained::Single($kept) => $do,
            Trained::Double($kept) => $do,
        }
    };
}

/// Rows as Python gives them.
enum Rows<'py> {
    Floats(PyReadonlyArray2<'py, f32>),
    Doubles(PyReadonlyArray2<'py, f64>),
    Sparse(SparseRows),
}

/// The same without the interpreter.
enum View<'a> {
    Floats(&'a [f32]),
    Doubles(&'a [f64]),
    Sparse(&'a Inputs),
}

impl<'py> Rows<'py> {
    /// A matrix of float32 or float64 in C order, or `(width, starts, columns, values)` of compressed rows.
    fn of(x: &Bound<'py, PyAny>) -> PyResult<Self> {
        if let Ok(x) = x.extract::<PyReadonlyArray2<f32>>() {
            return Ok(Self::Floats(x));
        }
        if let Ok(x) = x.extract::<PyReadonlyArray2<f64>>() {
            return Ok(Self::Doubles(x));
        }
        type Parts<'py> = (usize, PyReadonlyArray1<'py, i64>, PyReadonlyArray1<'py, i32>, PyReadonlyArray1<'py, f64>);
        let Ok((width, starts, columns, values)) = x.extract::<Parts>() else {
            let name = x.get_type().name()?;
            return Err(kind(format!("rows are a matrix of float32 or float64, or compressed rows, not {name}")));
        };
        let whole = |v: i64| usize::try_from(v).map_err(|_| value("the starts of compressed rows are below zero"));
        let starts = starts.as_array().iter().map(|&s| whole(s)).collect::<PyResult<Vec<usize>>>()?;
        let column = |c: i32| u32::try_from(c).map_err(|_| value("a column of compressed rows is below zero"));
        let columns = columns.as_array().iter().map(|&c| column(c)).collect::<PyResult<Vec<u32>>>()?;
        SparseRows::new(width, starts, columns, values.as_array().iter().copied().collect())
            .map(Self::Sparse)
            .map_err(value)
    }

    fn shape(&self) -> [usize; 2] {
        match self {
            Self::Floats(x) => [x.shape()[0], x.shape()[1]],
            Self::Doubles(x) => [x.shape()[0], x.shape()[1]],
            Self::Sparse(x) => [x.rows(), x.width()],
        }
    }

    fn inputs(self) -> PyResult<Inputs> {
        Ok(match self {
            Self::Floats(x) => Inputs::Floats(slice(&x, "rows")?.to_vec()),
            Self::Doubles(x) => Inputs::Doubles(slice(&x, "rows")?.to_vec()),
            Self::Sparse(x) => Inputs::Sparse(x),
        })
    }
}

impl View<'_> {
    fn fill<T: Number>(&self, rows: std::ops::Range<usize>, width: usize, out: &mut [T]) -> Result<(), Error> {
        let span = rows.start * width..rows.end * width;
        match self {
            Self::Floats(x) => out.iter_mut().zip(&x[span]).for_each(|(o, &x)| *o = T::of(x.into())),
            Self::Doubles(x) => out.iter_mut().zip(&x[span]).for_each(|(o, &x)| *o = T::of(x)),
            Self::Sparse(x) => {
                let rows: Vec<u32> = rows.map(|r| r as u32).collect();
                x.fill(width, &rows, Normalization::NONE, out)?;
            }
        }
        Ok(())
    }
}

impl Settings {
    fn parse(text: &str) -> PyResult<Self> {
        serde_json::from_str(text).map_err(|e| value(format!("settings: {e}")))
    }

    fn function(&self) -> Result<Option<LayerSpec>, Error> {
        let function = match self.activation.as_str() {
            "identity" => return Ok(None),
            "relu" => return Ok(Some(Relu {}.into())),
            "logistic" => Function::Sigmoid,
            "tanh" => Function::Tanh,
            "gelu" => Function::Gelu,
            "silu" => Function::Silu,
            "elu" => Function::Elu,
            "leaky-relu" => Function::LeakyRelu,
            other => {
                let why = "use identity, relu, logistic, tanh, gelu, silu, elu or leaky-relu";
                return Err(Error::Refused(format!("no activation is named `{other}`; {why}")));
            }
        };
        Ok(Some(Activation { function }.into()))
    }

    /// The layers: a perceptron, or the two halves of an autoencoder.
    fn network(&self, inputs: usize, outputs: usize) -> Result<ModelSpec, Error> {
        let mut widths = [&[inputs], &self.hidden[..]].concat();
        let mut names: Vec<String> = (1..=self.hidden.len()).map(|i| format!("fc{i}")).collect();
        let mut code = usize::MAX;
        if self.task == Task::Reconstruction {
            code = self.hidden.len();
            widths.extend(self.hidden[..code.saturating_sub(1)].iter().rev());
            names = (1..=code).map(|i| format!("encoder{i}")).collect();
            names.extend((1..=code).map(|i| format!("decoder{i}")));
        } else {
            names.push("head".into());
        }
        widths.push(outputs);
        let mut layers: Vec<LayerSpec> = vec![Flatten {}.into()];
        for (i, (w, name)) in widths.windows(2).zip(&names).enumerate() {
            let last = i + 2 == widths.len();
            let after = if i > 0 && i != code { self.function()? } else { None };
            // He's initialization is for inputs from a ReLU.
            let init = if after.is_some() && self.activation == "relu" && !last { Init::He } else { Init::Lecun };
            layers.extend(after);
            layers.push(Linear { init, ..Linear::new(name, w[0], w[1]) }.into());
        }
        let spec = ModelSpec { name: self.title(&widths), input: [1, 1, inputs], layers };
        spec.check(outputs).map_err(|why| Error::Model { spec: spec.name.clone(), why })?;
        Ok(spec)
    }

    fn title(&self, widths: &[usize]) -> String {
        let widths: Vec<String> = widths.iter().map(usize::to_string).collect();
        format!("{}:{}", if self.task == Task::Reconstruction { "autoencoder" } else { "mlp" }, widths.join("-"))
    }

    fn training(&self) -> TrainSpec {
        TrainSpec {
            epochs: self.epochs,
            batch: self.batch,
            optimizer: self.optimizer,
            schedule: self.schedule,
            warmup: 0.0,
            storage: Storage::Auto,
            prune_head: true,
            validation: self.validation,
            task: self.task,
            ..TrainSpec::default()
        }
    }

    /// Refuses to go on with a training that was begun with what cannot change in it.
    fn continues(&self, earlier: &Self) -> Result<(), Error> {
        let rule = |s: &Self| (std::mem::discriminant(&s.optimizer), s.optimizer.slots());
        let same = [
            ("hidden_layer_sizes", self.hidden == earlier.hidden),
            ("activation", self.activation == earlier.activation),
            ("method", self.method == earlier.method),
            ("density", self.density == earlier.density),
            ("method_options", self.options == earlier.options),
            ("solver", rule(self) == rule(earlier)),
        ];
        match same.iter().find(|(_, same)| !same) {
            None => Ok(()),
            Some((name, _)) => Err(Error::Refused(format!(
                "{name} has changed since the training began; go on with the old one, or fit anew"
            ))),
        }
    }

    /// Refuses to begin with the network of an earlier training, of density `has`, what it cannot become. A new run of the method would
    /// begin at density `born`.
    fn renews(&self, earlier: &Self, has: f64, born: f64) -> Result<(), Error> {
        let same = [
            ("hidden_layer_sizes", self.hidden == earlier.hidden),
            ("activation", self.activation == earlier.activation),
        ];
        if let Some((name, _)) = same.iter().find(|(_, same)| !same) {
            return Err(Error::Refused(format!(
                "{name} has changed since the last fit, and warm_start begins with its network; fit anew with warm_start=False"
            )));
        }
        let asked = |s: &Self| if s.method.is_some() { s.density } else { Some(1.0) };
        let (Some(now), Some(before)) = (asked(self), asked(earlier)) else { return Ok(()) };
        // Half of the change, since densities are rounded to connections.
        let near = (now - before).abs() / 2.0;
        // No method makes a network denser as a whole, and one that is born at its density keeps the number of connections.
        match near > 0.0 && (now - has > near || has - now > near && born - now < near) {
            false => Ok(()),
            true => Err(Error::Refused(format!(
                "density is now {now}, but warm_start goes on with the connections of the last fit, of density {has:.4}; fit \
                 anew with warm_start=False, or keep the density"
            ))),
        }
    }

    /// The method for a run, and a remark on its options.
    fn method(&self, run: &Setting) -> nnz::core::Result<(nnz::core::MethodInstance, Option<String>)> {
        let Some(key) = &self.method else {
            if self.density.is_some_and(|d| d != 1.0) || !self.options.is_empty() {
                let why = "without a method the network is dense; give a method, or density=None and no options";
                return Err(nnz::core::Error::Refused(why.into()));
            }
            return Ok((Dense.into(), None));
        };
        let method = nnz::REGISTRY.find(key)?;
        let mut given = self.options.clone();
        if let Some(density) = self.density {
            if !method.defaults().contains_key("density") {
                return Err(nnz::core::Error::Refused(format!("{key} takes no density; give density=None")));
            }
            given.insert("density".into(), density.into());
        }
        // A run too short for the method's schedule is a remark: an estimator is also fitted to try it.
        let (options, note) = match method.fitted(&given, &given, run) {
            Ok(fitted) => fitted,
            Err(e @ nnz::core::Error::Refused(_)) => (given, Some(e.to_string())),
            Err(e) => return Err(e),
        };
        Ok((method.build(&options, run)?, note))
    }
}

/// What a training tells the thread that waits for it.
enum Told {
    Epoch(EpochRecord),
    Done(std::thread::Result<Result<Box<Trained>, Failure>>),
}

/// How a training talks to the thread that waits for it.
struct Line {
    tell: Sender<Told>,
    stop: Arc<AtomicBool>,
}

/// Runs a training on a thread of rayon's pool, where its products need not be handed over one by one, while this thread looks for
/// signals, such as Ctrl-C, and tells Python of every epoch. What is raised here ends the training at its next step.
fn wait_for(
    py: Python<'_>,
    progress: Option<Py<PyAny>>,
    train: impl FnOnce(&Line) -> Result<Trained, Failure> + Send + 'static,
) -> PyResult<Trained> {
    let (tell, told) = channel();
    let line = Line { tell, stop: Arc::default() };
    let stop = line.stop.clone();
    spawn(move || {
        let done = catch_unwind(AssertUnwindSafe(|| train(&line).map(Box::new)));
        // Nobody waits if the interpreter ends.
        let _ = line.tell.send(Told::Done(done));
    });
    let mut raised = None;
    py.detach(move || {
        loop {
            let said = match told.recv_timeout(LOOK) {
                Ok(Told::Done(Ok(done))) => return raised.map_or_else(|| done.map(|d| *d).map_err(PyErr::from), Err),
                Ok(Told::Done(Err(panic))) => resume_unwind(panic),
                Ok(Told::Epoch(e)) => Python::attach(|py| {
                    py.check_signals()?;
                    let Some(progress) = &progress else { return Ok(()) };
                    progress.call1(py, (e.epoch, e.loss, e.accuracy, e.density)).map(|_| ())
                }),
                Err(RecvTimeoutError::Timeout) => Python::attach(|py| py.check_signals()),
                Err(RecvTimeoutError::Disconnected) => return Err(value("the training ended without a result")),
            };
            if let Err(e) = said {
                stop.store(true, Ordering::Relaxed);
                raised.get_or_insert(e);
            }
        }
    })
}

/// When to stop, and which network to keep: as scikit-learn's perceptrons do, but no epoch counts before a method has reached its
/// density.
struct Patience<T: Number> {
    best: f64,
    waited: u32,
    kept: Option<(u32, Model<T>)>,
}

impl<T: Number> Patience<T> {
    /// Whether to go on after an epoch.
    fn go_on(&mut self, settings: &Settings, trainer: &Trainer<T>, e: &EpochRecord) -> bool {
        let entries = trainer.model.weights().map(|p| p.shape.len()).sum::<usize>().max(1) as f64;
        if settings.density.is_some_and(|d| e.density > d + 1.0 / entries) {
            return true;
        }
        let (held_out, score) = match settings.validation > 0.0 {
            true => (true, e.accuracy),
            false => (false, -e.loss),
        };
        self.waited = if score < self.best + settings.tol { self.waited + 1 } else { 0 };
        if score > self.best {
            self.best = score;
            if held_out {
                self.kept = Some((e.epoch, trainer.result().into_owned()));
            }
        }
        self.waited <= settings.patience
    }
}

enum Failure {
    Engine(Error),
    /// Because of what was raised meanwhile.
    Stopped,
}

impl From<Error> for Failure {
    fn from(e: Error) -> Self {
        Self::Engine(e)
    }
}

impl From<Failure> for PyErr {
    fn from(e: Failure) -> Self {
        match e {
            Failure::Engine(Error::NonFinite { loss, step, layer }) => value(format!(
                "the loss is {loss} at step {step}{layer}; a smaller learning_rate_init, or scaled inputs, usually help"
            )),
            Failure::Engine(Error::Data(DataError::Fraction { fraction, rows, .. })) => value(format!(
                "validation_fraction {fraction} of {rows} rows holds out too few or too many; give another fraction, more rows, or \
                 early_stopping=False"
            )),
            Failure::Engine(e) => value(e),
            Failure::Stopped => value("the training was stopped"),
        }
    }
}

impl<T: Number> Kept<T> {
    fn header(settings: &Settings, model: &ModelSpec, outputs: usize, policy: StoragePolicy) -> Header {
        let targets = if settings.task == Task::Regression { outputs } else { 0 };
        Header {
            model: model.clone(),
            normalization: Normalization::NONE,
            classes: (0..outputs).map(|k| k.to_string()).collect(),
            data: "arrays in memory".into(),
            method: settings.method.clone().unwrap_or_else(|| "dense training".into()),
            prunable: settings.training().prunable(),
            texts: false,
            encoding: None,
            task: settings.task,
            scales: vec![[0.0, 1.0]; targets],
            dtype: Default::default(),
            policy,
        }
    }

    fn train(
        settings: Settings,
        data: &Dataset,
        outputs: usize,
        from: Begin,
        earlier: Option<&Self>,
        line: &Line,
    ) -> Result<Self, Failure> {
        let spec = settings.network(data.features(), outputs)?;
        let mut training = settings.training();
        let frame = Preprocessing {
            task: settings.task,
            normalization: Normalization::NONE,
            scales: vec![[0.0, 1.0]; if settings.task == Task::Regression { outputs } else { 0 }],
        };
        let earlier = earlier.filter(|_| from != Begin::New);
        let state = earlier.filter(|_| from == Begin::State).and_then(|e| e.state.as_ref().map(|s| (s, e.about.run)));
        if from == Begin::State {
            training.validation = 0.0;
        }
        let (mut run, mut notes) = ([0; 2], Vec::new());
        let build = |setting: &Setting| {
            // A training that goes on has the schedule it began with.
            let [steps, each] = state.map_or([setting.steps, setting.steps_per_epoch], |(_, run)| run);
            run = [steps, each];
            let (work, note) = settings.method(&Setting { steps, steps_per_epoch: each, ..*setting })?;
            notes.extend(note);
            Ok(work)
        };
        let mut trainer: Trainer<T> = Trainer::framed(&spec, frame, data, &training, settings.seed, build)?;
        match (state, earlier) {
            (Some((bytes, _)), Some(earlier)) => {
                settings.continues(&earlier.about.settings)?;
                trainer.resume_bytes(bytes, RUN)?;
                // The same rule, perhaps with other constants.
                trainer.optimizer.spec = settings.optimizer;
            }
            (None, Some(earlier)) => {
                let model = earlier.network.model();
                settings.renews(&earlier.about.settings, model.density(), trainer.model.density())?;
                trainer.begin_with(model.clone())?;
            }
            (_, None) => {}
        }
        if from == Begin::State {
            trainer.take_up(1)?;
        }
        // Small batches are made faster than they are handed over.
        trainer.prefetch = settings.batch.saturating_mul(data.features()) >= AHEAD;
        let before = trainer.position.history.len();
        let mut patience = Patience { best: f64::NEG_INFINITY, waited: 0, kept: None };
        let finished = trainer.run(|trainer, progress| {
            let epoch = progress.finished.as_ref().map(|(record, _)| record);
            let more = epoch.is_none_or(|e| {
                // Nobody waits if the interpreter ends.
                let _ = line.tell.send(Told::Epoch(e.clone()));
                from == Begin::State || patience.go_on(&settings, trainer, e)
            });
            more && !line.stop.load(Ordering::Relaxed)
        })?;
        if line.stop.load(Ordering::Relaxed) {
            return Err(Failure::Stopped);
        }
        // A later call may bring more rows.
        trainer.position.open = true;
        let header = Self::header(&settings, &spec, outputs, trainer.policy());
        let last = trainer.position.history.last().map_or(0, |e| e.epoch);
        let best = patience.kept.as_ref().map(|(epoch, _)| *epoch).filter(|&epoch| epoch != last);
        let state = if best.is_none() { Some(trainer.to_bytes(&header, RUN)?) } else { None };
        let model = match patience.kept.filter(|_| best.is_some()) {
            Some((_, model)) => model,
            None => trainer.result().into_owned(),
        };
        let mut epochs = earlier.map_or_else(Vec::new, |e| e.about.epochs.clone());
        if from != Begin::State {
            epochs.clear();
        }
        epochs.extend_from_slice(&trainer.position.history[before..]);
        let about = About { settings, run, epochs, stopped: !finished, best, notes };
        Ok(Self { network: Frozen::new(model), header, state, about })
    }

    /// What a network answers to rows.
    fn infer(network: &Frozen<T>, rows: &View, count: usize, width: usize) -> Result<(Vec<T>, usize), Error> {
        let outputs: usize = network.model().spec.output().map_or(0, |o| o.iter().product());
        let mut all = Vec::with_capacity(count * outputs);
        for start in (0..count).step_by(BLOCK) {
            let block = start..(start + BLOCK).min(count);
            let mut input = Tensor::zeros(&[block.len(), width]);
            rows.fill(block, width, input.data_mut())?;
            all.extend_from_slice(network.infer(input)?.data());
        }
        Ok((all, outputs))
    }

    /// One half of an autoencoder: up to its code, or from there on.
    fn half(&self, encoder: bool) -> Frozen<T> {
        let Model { spec, params } = self.network.model();
        let code = self.about.settings.hidden.len();
        let linear = |l: &LayerSpec| matches!(l, LayerSpec::Linear(_));
        let ends = spec.layers.iter().enumerate().filter(|(_, l)| linear(l)).nth(code.saturating_sub(1));
        let cut = ends.map_or(0, |(i, _)| i + 1);
        let width = self.about.settings.hidden.last().copied().unwrap_or(0);
        let flat: Vec<LayerSpec> = vec![Flatten {}.into()];
        let (input, layers, params) = match encoder {
            true => (spec.input, spec.layers[..cut].to_vec(), params[..2 * code].to_vec()),
            false => ([1, 1, width], [&flat[..], &spec.layers[cut..]].concat(), params[2 * code..].to_vec()),
        };
        Frozen::new(Model { spec: ModelSpec { name: spec.name.clone(), input, layers }, params })
    }
}

impl<T: Number + Element> Kept<T> {
    /// Whole network, encoder or decoder on rows.
    fn answer<'py>(&self, py: Python<'py>, x: Rows<'py>, part: Option<bool>) -> PyResult<Bound<'py, PyAny>> {
        if part.is_some() && self.about.settings.task != Task::Reconstruction {
            return Err(value("only an autoencoder has codes"));
        }
        let half = part.map(|encoder| self.half(encoder));
        let network = half.as_ref().unwrap_or(&self.network);
        let ([count, width], inputs) = (x.shape(), network.model().spec.input[2]);
        if width != inputs {
            return Err(value(format!("rows of {width} values for a network that takes {inputs}")));
        }
        let sparse;
        let view = match &x {
            Rows::Floats(x) => View::Floats(slice(x, "rows")?),
            Rows::Doubles(x) => View::Doubles(slice(x, "rows")?),
            Rows::Sparse(x) => {
                sparse = Inputs::Sparse(x.clone());
                View::Sparse(&sparse)
            }
        };
        let (all, outputs) = py.detach(|| computing(|| Self::infer(network, &view, count, width))).map_err(value)?;
        Ok(PyArray1::from_vec(py, all).reshape([count, outputs])?.into_any())
    }

    /// For every weight: outputs, inputs, starts, columns, values, bias.
    fn layers<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let params = &self.network.model().params;
        let parts = py.detach(|| {
            computing(|| {
                let weights = params.iter().enumerate().filter(|(_, p)| p.weight());
                let one = |(at, p): (usize, &Param<T>)| {
                    let entries = p.by_rows();
                    let starts: Vec<i64> = entries.topology.starts().iter().map(|&s| s as i64).collect();
                    let columns: Vec<i32> = entries.topology.columns().iter().map(|&c| c as i32).collect();
                    let bias =
                        params.get(at + 1).filter(|b| !b.weight()).map_or_else(Vec::new, |b| b.value.data().to_vec());
                    (p.shape.rows, p.shape.cols, starts, columns, entries.of(&p.value), bias)
                };
                weights.map(one).collect::<Vec<_>>()
            })
        });
        let all = PyList::empty(py);
        for (outputs, inputs, starts, columns, values, bias) in parts {
            let (starts, columns) = (PyArray1::from_vec(py, starts), PyArray1::from_vec(py, columns));
            let (values, bias) = (PyArray1::from_vec(py, values), PyArray1::from_vec(py, bias));
            all.append((outputs, inputs, starts, columns, values, bias))?;
        }
        Ok(all)
    }
}

/// A network that was trained on arrays; it never changes. Training gives a new one.
#[pyclass(frozen, module = "nnz._nnz")]
pub struct Network(Trained);

#[pymethods]
impl Network {
    /// Trains a network on rows `x` with classes (uint32), numbers (float32, a column for each output) or nothing as `y`.
    ///
    /// `begin` is "new", "weights" (of `earlier`, with a new run of the method) or "state" (`earlier` goes on for one epoch).
    /// `progress(epoch, loss, score, density)` is called after every epoch. `settings` is JSON.
    #[staticmethod]
    #[pyo3(signature = (settings, x, y, outputs, weights=None, begin="new", earlier=None, progress=None))]
    #[allow(clippy::too_many_arguments)]
    fn train(
        py: Python<'_>,
        settings: &str,
        x: &Bound<'_, PyAny>,
        y: Option<&Bound<'_, PyAny>>,
        outputs: usize,
        weights: Option<&Bound<'_, PyAny>>,
        begin: &str,
        earlier: Option<Py<Network>>,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Self> {
        let settings = Settings::parse(settings)?;
        let from = match begin {
            "new" => Begin::New,
            "weights" => Begin::Weights,
            "state" => Begin::State,
            other => return Err(value(format!("a training begins with new, weights or state, not `{other}`"))),
        };
        let rows = Rows::of(x)?;
        let ([count, width], inputs) = (rows.shape(), rows.inputs()?);
        if count == 0 || width == 0 {
            return Err(value(format!("there is nothing to learn from {count} rows of {width} values")));
        }
        let whole = || Split::new(inputs, vec![0; count]);
        let split = match (settings.task, y) {
            (Task::Classification, Some(y)) => {
                let labels = y.extract::<PyReadonlyArray1<u32>>().map_err(|_| kind("classes are of uint32"))?;
                Split { labels: labels.as_array().to_vec(), ..whole() }
            }
            (Task::Regression, Some(y)) => {
                let y = y.extract::<PyReadonlyArray2<f32>>().map_err(|_| kind("targets are a matrix of float32"))?;
                Split { targets: y.as_array().iter().copied().collect(), ..whole() }
            }
            (Task::Reconstruction, None) => whole(),
            _ => return Err(value("classes or targets are missing, or too many")),
        };
        let split = match weights {
            Some(weights) => {
                let weights = weights.extract::<PyReadonlyArray1<f64>>();
                split.weighted(weights.map_err(|_| kind("weights are a vector of float64"))?.as_array().to_vec())
            }
            None => split,
        };
        let trained = wait_for(py, progress, move |line| {
            // No row is tested on: estimators are measured by whoever fits them.
            let test = Split {
                inputs: split.inputs.pick(width, &[0]),
                labels: split.labels.first().copied().into_iter().collect(),
                targets: split.targets.iter().take(outputs).copied().collect(),
                weights: Vec::new(),
            };
            let classes = (0..if settings.task == Task::Reconstruction { 2 } else { outputs }).map(|k| k.to_string());
            let data = Dataset::new("x", [1, 1, width], classes.collect(), split, test, String::new());
            let data = data.map_err(Error::from)?;
            let earlier = earlier.as_ref().map(|e| &e.get().0);
            Ok(match settings.double {
                true => {
                    let earlier = earlier.map(|e| if let Trained::Double(e) = e { Ok(e) } else { Err(other_format()) });
                    Trained::Double(Kept::train(settings, &data, outputs, from, earlier.transpose()?, line)?)
                }
                false => {
                    let earlier = earlier.map(|e| if let Trained::Single(e) = e { Ok(e) } else { Err(other_format()) });
                    Trained::Single(Kept::train(settings, &data, outputs, from, earlier.transpose()?, line)?)
                }
            })
        })?;
        Ok(Self(trained))
    }

    /// What the network answers: logits of classes, or numbers.
    fn infer<'py>(&self, py: Python<'py>, x: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        either!(&self.0, kept => kept.answer(py, Rows::of(x)?, None))
    }

    /// Codes of an autoencoder.
    fn encode<'py>(&self, py: Python<'py>, x: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        either!(&self.0, kept => kept.answer(py, Rows::of(x)?, Some(true)))
    }

    /// Rows that codes of an autoencoder stand for.
    fn decode<'py>(&self, py: Python<'py>, x: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        either!(&self.0, kept => kept.answer(py, Rows::of(x)?, Some(false)))
    }

    /// `(outputs, inputs, starts, columns, values, bias)` of every layer.
    fn layers<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        either!(&self.0, kept => kept.layers(py))
    }

    /// Epochs, density, nonzeros and remarks of its training.
    fn about<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let (about, model) =
            either!(&self.0, k => (&k.about, (k.network.model().nonzeros(), k.network.model().density())));
        let out = PyDict::new(py);
        let column = |f: fn(&EpochRecord) -> f64| about.epochs.iter().map(f).collect::<Vec<f64>>();
        out.set_item("loss", column(|e| e.loss))?;
        out.set_item("score", column(|e| e.accuracy))?;
        out.set_item("density", column(|e| e.density))?;
        out.set_item("steps", about.epochs.last().map_or(0, |e| e.step))?;
        out.set_item("stopped", about.stopped)?;
        out.set_item("best", about.best)?;
        out.set_item("notes", &about.notes)?;
        out.set_item("nonzeros", model.0)?;
        out.set_item("kept_density", model.1)?;
        out.set_item("double", about.settings.double)?;
        Ok(out)
    }

    /// `(about, network, state)` as bytes; [`Network::load`] reads them.
    fn save<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let (about, network, state) = either!(&self.0, k => (
            serde_json::to_vec(&k.about).map_err(value)?,
            computing(|| model_bytes(k.network.model(), &k.header, Packing::Csr)).map_err(value)?,
            &k.state,
        ));
        let state = state.as_ref().map(|s| PyBytes::new(py, s));
        (PyBytes::new(py, &about), PyBytes::new(py, &network), state).into_pyobject(py)
    }

    /// Reads what [`Network::save`] gave.
    #[staticmethod]
    #[pyo3(signature = (about, network, state=None))]
    fn load(about: &[u8], network: &[u8], state: Option<Vec<u8>>) -> PyResult<Self> {
        fn of<T: Number>(about: About, network: &[u8], state: Option<Vec<u8>>) -> PyResult<Kept<T>> {
            let (model, header): (Model<T>, Header) =
                computing(|| parse_model(network, Path::new("network"), Storage::Auto)).map_err(value)?;
            let outputs = header.classes.len();
            let made = about.settings.network(model.spec.input[2], outputs).map_err(value)?;
            if made.layers != model.spec.layers || made.input != model.spec.input {
                return Err(value("no saved network: its parts do not belong together"));
            }
            Ok(Kept { network: Frozen::new(model), header, state, about })
        }
        let about: About = serde_json::from_slice(about).map_err(|e| value(format!("no saved network: {e}")))?;
        Ok(Self(match about.settings.double {
            true => Trained::Double(of(about, network, state)?),
            false => Trained::Single(of(about, network, state)?),
        }))
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyTuple>)> {
        Ok((slf.get_type().getattr("load")?, slf.get().save(slf.py())?))
    }
}

fn other_format() -> Failure {
    Failure::Engine(Error::Refused(
        "a training goes on in the number format it began with; fit anew to change it".into(),
    ))
}
