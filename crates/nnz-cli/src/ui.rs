//! User interface: tables on stdout, notes and progress on stderr; or all of it to the program that called.

use anyhow::Result;
use comfy_table::{CellAlignment, Table, presets};
use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use nnz_core::Registry;
use nnz_engine::Progress;
use nnz_lab::run::Observer;
use serde::Serialize;
use std::borrow::Cow;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Context of every command: output settings and registry.
#[derive(Clone, Copy)]
pub struct Ui<'a> {
    /// The methods of every room.
    pub registry: Registry,
    /// Whether to print one JSON document on stdout.
    pub json: bool,
    /// Whether to suppress notes.
    pub quiet: bool,
    /// The program that called, if it is not a command line.
    pub caller: Option<&'a Caller<'a>>,
}

/// What a command reports before it ends.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A sentence.
    Note(&'a str),
    /// Work that is done.
    Progress {
        /// The network, or the part of an experiment.
        what: &'a str,
        /// Its number among all, from 0, and how many there are.
        of: (usize, usize),
        /// Steps done, and all.
        steps: (u64, u64),
        /// How a training stands; none for an experiment.
        training: Option<&'a Progress>,
    },
}

/// A program that has commands carried out in its own process.
pub struct Caller<'a> {
    /// Stops the command once it is set: a run leaves what it did, to go on with.
    stop: Arc<AtomicBool>,
    /// Whether the command looks at `stop`.
    heeds: Arc<AtomicBool>,
    /// Takes notes and progress; without it they are written to stderr, as by the program.
    listener: Option<&'a (dyn Fn(Event<'_>) + Sync)>,
    document: Mutex<Option<String>>,
}

impl<'a> Caller<'a> {
    /// A caller with the two flags of a command, see [`Caller`], and a listener.
    pub fn new(
        stop: Arc<AtomicBool>,
        heeds: Arc<AtomicBool>,
        listener: Option<&'a (dyn Fn(Event<'_>) + Sync)>,
    ) -> Self {
        Self { stop, heeds, listener, document: Mutex::default() }
    }

    /// The document that the command answered with.
    pub fn take(&self) -> Option<String> {
        self.document.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A command that Ctrl-C ended.
#[derive(Debug)]
pub struct Interrupted(pub &'static str);

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Interrupted {}

/// Whether an error says that a command was interrupted.
pub fn interrupted(error: &anyhow::Error) -> bool {
    error.is::<Interrupted>() || matches!(error.downcast_ref(), Some(nnz_lab::Error::Interrupted { .. }))
}

impl Ui<'_> {
    /// Prints a note on stderr.
    pub fn note(self, text: impl AsRef<str>) {
        if self.quiet {
            return;
        }
        match self.listener() {
            Some(listener) => listener(Event::Note(text.as_ref())),
            None => eprintln!("{}", shown(text.as_ref())),
        }
    }

    fn listener(&self) -> Option<&(dyn Fn(Event<'_>) + Sync)> {
        self.caller.and_then(|c| c.listener)
    }

    /// Where a bar is drawn: on a terminal that somebody looks at.
    pub fn drawn(self) -> ProgressDrawTarget {
        match self.quiet || self.listener().is_some() || !std::io::stderr().is_terminal() {
            true => ProgressDrawTarget::hidden(),
            false => ProgressDrawTarget::stderr(),
        }
    }

    /// The flag that stops the command: the caller's, or what Ctrl-C sets.
    pub fn stop_flag(self) -> Result<Arc<AtomicBool>> {
        match self.caller {
            Some(caller) => {
                caller.heeds.store(true, Ordering::SeqCst);
                Ok(caller.stop.clone())
            }
            None => stop_flag(),
        }
    }

    /// Prints the answer: a document for `--json`, else text.
    pub fn answer<S: Serialize>(self, document: &S, text: impl FnOnce() -> String) -> Result<()> {
        if let Some(caller) = self.caller {
            let document = serde_json::to_string(document)?;
            *caller.document.lock().unwrap_or_else(PoisonError::into_inner) = Some(document);
            return Ok(());
        }
        match self.json {
            true => put(&json(&serde_json::to_string_pretty(document)?)),
            false => print(&text()),
        }
    }
}

/// Whether a terminal can safely take a character: control characters move the cursor or change colours, and bidirectional marks
/// reorder their surroundings. Newlines and tabs stay.
fn harmless(c: char) -> bool {
    match c {
        '\n' | '\t' => true,
        '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => false,
        c => !c.is_control(),
    }
}

/// Escapes a text for a terminal: names of tensors, columns and files come from others.
pub fn shown(text: &str) -> Cow<'_, str> {
    written_out(text, |c| c.escape_default().to_string())
}

/// Escapes JSON likewise; the result is valid JSON.
fn json(text: &str) -> Cow<'_, str> {
    written_out(text, |c| format!("\\u{:04x}", u32::from(c)))
}

fn written_out(text: &str, escape: impl Fn(char) -> String) -> Cow<'_, str> {
    match text.chars().all(harmless) {
        true => text.into(),
        false => text.chars().map(|c| if harmless(c) { c.to_string() } else { escape(c) }).collect(),
    }
}

/// Prints a text to stdout, escaped for a terminal.
pub fn print(text: &str) -> Result<()> {
    put(&shown(text))
}

/// Writes a text to stdout; a reader that left early (`| head`) is not an error.
fn put(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{}", text.trim_end()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(e.into()),
        _ => Ok(()),
    }
}

/// Prints one sentence on stderr and returns the exit code: 130 when interrupted, 2 for everything else.
pub fn fail(error: &anyhow::Error) -> ExitCode {
    let interrupted = interrupted(error);
    eprintln!("{}{}", if interrupted { "" } else { "error: " }, shown(&format!("{error:#}")));
    ExitCode::from(if interrupted { 130 } else { 2 })
}

/// Formats a table with a header; the first column is text, the others are numbers.
pub fn table(header: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header.iter().copied());
    for row in rows {
        table.add_row(row);
    }
    for i in 1..header.len() {
        if let Some(column) = table.column_mut(i) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

/// Formats a table of text.
pub fn words(header: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header.iter().copied());
    for row in rows {
        table.add_row(row);
    }
    table.trim_fmt()
}

/// Formats 1234567 as `1,234,567`.
pub fn count(n: usize) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, d) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(d);
    }
    out
}

/// Formats bytes in decimal units.
pub fn bytes(n: usize) -> String {
    match n {
        0..1_000 => format!("{n} B"),
        1_000..1_000_000 => format!("{:.1} kB", n as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.2} MB", n as f64 / 1e6),
        _ => format!("{:.2} GB", n as f64 / 1e9),
    }
}

/// Formats a share in percent, with its interval if there is one.
pub fn percent(share: f64, half_width: Option<f64>) -> String {
    match half_width {
        Some(h) => format!("{:.2} ± {:.2}%", share * 100.0, h * 100.0),
        None => format!("{:.2}%", share * 100.0),
    }
}

/// Formats a density with as many digits as it needs.
pub fn density(d: f64) -> String {
    let text = if d >= 0.001 { format!("{d:.4}") } else { format!("{d:.2e}") };
    match text.contains('e') {
        true => text,
        false => text.trim_end_matches('0').trim_end_matches('.').to_string(),
    }
}

/// Set by Ctrl-C; a second Ctrl-C ends the program at once.
fn stop_flag() -> Result<Arc<AtomicBool>> {
    static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    if let Some(flag) = FLAG.get() {
        return Ok(flag.clone());
    }
    let stop = FLAG.get_or_init(Arc::default).clone();
    let flag = stop.clone();
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
    })?;
    Ok(stop)
}

/// Shows the progress of a run: a bar on a terminal, a line per network elsewhere.
pub struct Watch<'a> {
    ui: Ui<'a>,
    stop: Arc<AtomicBool>,
    bar: ProgressBar,
    label: String,
    index: usize,
    count: usize,
    drawn: Instant,
    started: Instant,
    /// Steps done before this process.
    resumed_at: Option<u64>,
}

impl<'a> Watch<'a> {
    /// A watch that stops the run when the command is to stop.
    ///
    /// # Errors
    /// When the system lets nobody handle Ctrl-C.
    pub fn new(ui: Ui<'a>) -> Result<Self> {
        let stop = ui.stop_flag()?;
        let bar = ProgressBar::with_draw_target(Some(1), ui.drawn());
        let style = ProgressStyle::with_template("{prefix:>16} {bar:24} {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        let now = Instant::now();
        let label = String::new();
        Ok(Self { ui, stop, bar, label, index: 0, count: 1, drawn: now, started: now, resumed_at: None })
    }

    /// Tells the caller how far the work is, if one listens; not more often than somebody reads.
    fn tell(&mut self, steps: (u64, u64), training: Option<&Progress>) -> bool {
        let Some(listener) = self.ui.listener() else { return false };
        if self.drawn.elapsed() > Duration::from_millis(80) || steps.0 == steps.1 {
            listener(Event::Progress { what: &self.label, of: (self.index, self.count), steps, training });
            self.drawn = Instant::now();
        }
        true
    }

    /// Removes the bar.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

impl Observer for Watch<'_> {
    fn part(&mut self, _: &str, done: u64, of: u64) -> bool {
        if self.tell((done, of), None) {
            return !self.stop.load(Ordering::SeqCst);
        }
        if self.drawn.elapsed() > Duration::from_millis(80) || done == of {
            self.drawn = Instant::now();
            self.bar.set_length(of);
            self.bar.set_position(done);
            self.bar.set_message(format!("{}/{} {done}/{of}", self.index + 1, self.count));
        }
        if done == of && self.bar.is_hidden() {
            self.ui.note(format!("[{}/{}] {}", self.index + 1, self.count, self.label));
        }
        !self.stop.load(Ordering::SeqCst)
    }

    fn note(&mut self, text: &str) {
        self.bar.suspend(|| self.ui.note(text));
    }

    fn begin(&mut self, arm: &str, seed: u64, index: usize, count: usize) {
        self.label = format!("{arm}, seed {seed}");
        (self.index, self.count, self.resumed_at) = (index, count, None);
        self.started = Instant::now();
        self.bar.set_prefix(shown(arm).into_owned());
        self.bar.set_position(0);
    }

    fn step(&mut self, _: &str, p: &Progress) -> bool {
        if self.tell(p.steps, Some(p)) {
            return !self.stop.load(Ordering::SeqCst);
        }
        let (step, steps) = p.steps;
        let first = *self.resumed_at.get_or_insert(step.saturating_sub(1));
        let accuracy = p.accuracy.map_or_else(String::new, |a| format!(", validation {}", percent(a, None)));
        let state = format!("loss {:.4}{accuracy}, density {}", p.loss, density(p.density));
        if self.drawn.elapsed() > Duration::from_millis(80) || step == steps {
            self.drawn = Instant::now();
            let done = (step - first).max(1) as f64;
            let left = self.started.elapsed().mul_f64((steps - step) as f64 / done);
            self.bar.set_length(steps);
            self.bar.set_position(step);
            let (index, count) = (self.index + 1, self.count);
            self.bar.set_message(format!(
                "{index}/{count} epoch {}/{}, {state}, {:#} left",
                p.epochs.0,
                p.epochs.1,
                HumanDuration(left)
            ));
        }
        if step == steps && self.bar.is_hidden() {
            let text = format!("[{}/{}] {}: {state}", self.index + 1, self.count, self.label);
            self.ui.note(text);
        }
        !self.stop.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_written_out() {
        assert_eq!(shown("a\u{1b}]0;title\u{7}\u{1b}[31mred\r"), "a\\u{1b}]0;title\\u{7}\\u{1b}[31mred\\r");
        assert_eq!(shown("\u{9b}2J \u{202e}gpj.exe"), "\\u{9b}2J \\u{202e}gpj.exe");
        assert_eq!(json("\"\u{7f}\u{9b}\""), "\"\\u007f\\u009b\"");
        for plain in ["two\nlines\tand ± é 漢 𝄞", ""] {
            assert!(matches!(shown(plain), Cow::Borrowed(same) if same == plain));
        }
    }
}
