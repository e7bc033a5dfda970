//! The program's commands in this process, and data in memory for them.
//!
//! A command runs on a thread of its own while the caller's waits without the interpreter's lock and looks for signals: Ctrl-C
//! stops a command as it stops the program.

use crate::arrays::{arrays, slice};
use crate::error::{kind, value};
use crate::threads::computing;
use nnz_cli::{Caller, Event, Failure};
use nnz_data::read::Lent as Held;
use numpy::PyReadonlyArray1;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

/// What the main thread of Python has for deep recursion; a new thread would have a quarter.
const STACK: usize = 16 << 20;
/// How often signals are looked for.
const LOOK: Duration = Duration::from_millis(50);

/// Every command with its arguments, as JSON.
#[pyfunction]
pub fn described() -> PyResult<String> {
    serde_json::to_string(&nnz_cli::described()).map_err(value)
}

/// Carries out a command of the program, given as its words.
///
/// Returns what became of it (`answer`, `no`, `request`, `failed`, `missing` or `interrupted`), its document or its sentence, and
/// the directory of a run that can go on. `listener` is called with notes, and with the state of a training, from another thread.
#[pyfunction]
#[pyo3(signature = (words, listener=None))]
pub fn call(
    py: Python<'_>,
    words: Vec<String>,
    listener: Option<Py<PyAny>>,
) -> PyResult<(&'static str, String, Option<String>)> {
    let (stop, heeds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let raised: Arc<Mutex<Option<PyErr>>> = Arc::default();
    let (sender, receiver) = mpsc::channel();
    let (its_stop, its_heeds, its_raised) = (stop.clone(), heeds.clone(), raised.clone());
    let work = move || {
        let listen = |event: Event<'_>| {
            let Some(listener) = &listener else { return };
            let told = Python::attach(|py| tell(py, listener, event));
            if let Err(e) = told {
                its_raised.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(e);
                its_stop.store(true, Ordering::SeqCst);
            }
        };
        let listen: Option<&(dyn Fn(Event<'_>) + Sync)> = if listener.is_some() { Some(&listen) } else { None };
        let caller = Caller::new(its_stop.clone(), its_heeds, listen);
        let found =
            std::panic::catch_unwind(AssertUnwindSafe(|| computing(|| nnz_cli::call(nnz::REGISTRY, &words, &caller))));
        // Who waited may have gone.
        _ = sender.send(found);
    };
    let thread = std::thread::Builder::new().name("nnz".into()).stack_size(STACK);
    thread.spawn(work).map_err(|e| PyRuntimeError::new_err(format!("cannot start a thread: {e}")))?;
    let receiver = Mutex::new(receiver);
    let mut pending = None;
    let found = loop {
        let waited = py.detach(|| receiver.lock().unwrap_or_else(PoisonError::into_inner).recv_timeout(LOOK));
        match waited {
            Ok(found) => break found,
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                return Err(PyRuntimeError::new_err("a command ended without an answer; please report this"));
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {
                if let Err(e) = py.check_signals() {
                    // The second time, or where nothing is saved, nobody waits for the end.
                    if stop.swap(true, Ordering::SeqCst) || !heeds.load(Ordering::SeqCst) {
                        return Err(e);
                    }
                    pending = Some(e);
                }
            }
        }
    };
    if let Some(e) = raised.lock().unwrap_or_else(PoisonError::into_inner).take() {
        return Err(e);
    }
    let found = found.map_err(|panic| {
        let text = panic.downcast_ref::<&str>().map(ToString::to_string);
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
        PyRuntimeError::new_err(format!("an error of nnz itself, please report it: {text}"))
    })?;
    match (found, pending) {
        (Err(Failure::Interrupted { why, run }), _) => {
            Ok(("interrupted", why, run.map(|dir| dir.to_string_lossy().into_owned())))
        }
        (_, Some(e)) => Err(e),
        (Ok(answer), None) => Ok((if answer.no { "no" } else { "answer" }, answer.document, None)),
        (Err(Failure::Request(why)), None) => Ok(("request", why, None)),
        (Err(Failure::Failed { why, missing }), None) => Ok((if missing { "missing" } else { "failed" }, why, None)),
    }
}

/// Calls a listener with a note, or with the numbers of a state.
fn tell(py: Python<'_>, listener: &Py<PyAny>, event: Event<'_>) -> PyResult<()> {
    match event {
        Event::Note(text) => listener.call1(py, (text,))?,
        Event::Progress { what, of: (index, count), steps: (step, steps), training } => {
            let training = training.map(|p| (p.epochs.0, p.epochs.1, p.loss, p.accuracy, p.density));
            listener.call1(py, (what, index, count, step, steps, training))?
        }
    };
    Ok(())
}

/// Data that commands read by a name, as long as this lives.
#[pyclass(frozen, module = "nnz._nnz")]
pub struct Lent {
    held: Mutex<Option<Held>>,
    /// The place to give to a command.
    #[pyo3(get)]
    name: String,
}

#[pymethods]
impl Lent {
    /// Lends inputs with their answers, and names of classes that answers count from 0.
    #[staticmethod]
    #[pyo3(signature = (inputs, answers=None, names=None))]
    fn arrays(
        py: Python<'_>,
        inputs: &Bound<'_, PyAny>,
        answers: Option<PyReadonlyArray1<'_, f64>>,
        names: Option<Vec<String>>,
    ) -> PyResult<Self> {
        let answers = answers.map_or_else(|| Ok(Vec::new()), |a| slice(&a, "answers").map(<[f64]>::to_vec))?;
        let found = arrays(inputs, answers, names.unwrap_or_default())?;
        Ok(Self::of(py.detach(|| Held::arrays(found)).map_err(value)?))
    }

    /// Lends a file of this format.
    #[staticmethod]
    fn file(bytes: Vec<u8>, ending: &str) -> PyResult<Self> {
        match ending {
            "csv" | "tsv" => Ok(Self::of(Held::file(bytes, ending))),
            other => Err(kind(format!("`{other}` is no format of a table"))),
        }
    }

    /// Lends no longer.
    fn close(&self) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

impl Lent {
    fn of(held: Held) -> Self {
        Self { name: held.name().into(), held: Mutex::new(Some(held)) }
    }
}
