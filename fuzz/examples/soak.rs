//! Reads valid files of which one to three fields were changed, some with noise, in each target: no panic, no signal, no more
//! memory than `limit` allows, no input that takes ten seconds. Nothing is traced, so it is faster than libFuzzer and blind to what is
//! new: it complements `run.sh`.
//!
//! ```sh
//! cargo run --release --example soak -- csv npz       # 10 million inputs each; all targets if none is named
//! RUNS=1000 SERIES=7 cargo run --release --example soak
//! cargo run --release --example soak -- --once csv 123456   # one input by its number; a panic shows where
//! ```
//!
//! Input n depends on the corpus, SERIES and n alone; FROM is the first n. Failing inputs go to `fuzz/artifacts/TARGET`, and the
//! program ends with 1. Under the address sanitizer:
//! `RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address cargo run --release --target x86_64-unknown-linux-gnu --example soak`.
#![forbid(unsafe_code)]

use nnz_fuzz::{fields, targets};
use peak_alloc::PeakAlloc;
use rustix::time::{ClockId, clock_gettime};
use std::io::{BufRead, BufReader, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio, exit};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Inputs between two reports of a child.
const BLOCK: u64 = 4096;
/// Seconds of computing that one input may take.
const SECONDS: f64 = 10.0;
/// Failures after which a target is given up.
const ENOUGH: usize = 20;

/// The last panic's message and place.
static SAID: Mutex<String> = Mutex::new(String::new());
/// The input that is being read.
static RUN: AtomicU64 = AtomicU64::new(0);

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |n| n.parse().unwrap_or_else(|_| panic!("{name} is no number")))
}

/// Files of a target, those with a name of their own repeated until they are half of all, since most of those are valid.
fn files(target: &str) -> Vec<Vec<u8>> {
    let found = |name: &str| name.len() >= 16 && name.bytes().all(|b| b.is_ascii_hexdigit());
    let (found, named): (Vec<_>, Vec<_>) = targets::corpus(root(), target).into_iter().partition(|(n, _)| found(n));
    let repeated = found.len().max(named.len());
    let named = named.iter().cycle().take(if named.is_empty() { 0 } else { repeated });
    found.iter().chain(named).map(|(_, bytes)| bytes.clone()).collect()
}

/// Processor seconds of this process.
fn seconds() -> f64 {
    let t = clock_gettime(ClockId::ProcessCPUTime);
    t.tv_sec as f64 + t.tv_nsec as f64 / 1e9
}

fn save(target: &str, run: u64, input: &[u8]) {
    let folder = root().join("artifacts").join(target);
    let series = number("SERIES", 0);
    std::fs::create_dir_all(&folder)
        .and_then(|()| std::fs::write(folder.join(format!("soak-{series}-{run}")), input))
        .unwrap_or_else(|e| println!("failed {run} cannot be saved: {e}"));
}

/// Reads inputs `from..to`, and says on standard output where it is before each `block`.
fn child(target: &'static str, from: u64, to: u64, block: u64) {
    // One thread, this one: nothing is handed over. Before files are made, which computes.
    nnz_kernels::threads::build_in_main(1).expect("the first pool");
    let (files, series) = (files(target), number("SERIES", 0));
    std::panic::set_hook(Box::new(|said| *SAID.lock().unwrap_or_else(PoisonError::into_inner) = said.to_string()));
    RUN.store(from, Relaxed);
    // Whatever a first use allocates for good.
    files.iter().for_each(|bytes| drop(catch_unwind(|| targets::read(target, bytes))));
    let kept = files.clone();
    std::thread::spawn(move || {
        let mut since = (RUN.load(Relaxed), seconds());
        loop {
            std::thread::sleep(Duration::from_millis(500));
            let (run, now) = (RUN.load(Relaxed), seconds());
            if run != since.0 {
                since = (run, now);
            } else if now - since.1 > SECONDS {
                save(target, run, &fields::input(&kept, series, run));
                println!("failed {run} takes more than {SECONDS} seconds");
                exit(3);
            }
        }
    });
    let (few, each) = targets::limit(target);
    let (mut slowest, mut largest, mut failed, mut accepted) = ((Duration::ZERO, from), (0.0, from), 0, 0u64);
    let tell = |run: u64, slowest: (Duration, u64), largest: (f64, u64), accepted: u64| {
        let mut out = std::io::stdout().lock();
        let told = writeln!(
            out,
            "at {run} {} {} {} {} {} {accepted}",
            seconds(),
            slowest.0.as_secs_f64(),
            slowest.1,
            largest.0,
            largest.1
        );
        told.and_then(|()| out.flush()).expect("a parent");
    };
    let mut before = Instant::now();
    for run in from..to {
        if (run - from).is_multiple_of(block) {
            tell(run, slowest, largest, accepted);
        }
        RUN.store(run, Relaxed);
        let input = fields::input(&files, series, run);
        let held = MEMORY.current_usage();
        MEMORY.reset_peak_usage();
        let read = catch_unwind(AssertUnwindSafe(|| targets::read(target, &input)));
        let taken = MEMORY.peak_usage().saturating_sub(held);
        let share = taken as f64 / ((few << 20) + each * input.len()) as f64;
        accepted += u64::from(matches!(read, Ok(true)));
        let why = match read {
            Err(_) => Some(SAID.lock().unwrap_or_else(PoisonError::into_inner).replace('\n', ": ")),
            Ok(_) => (share > 1.0).then(|| format!("takes {taken} bytes of memory for {}", input.len())),
        };
        if let Some(why) = why {
            save(target, run, &input);
            println!("failed {run} {why}");
            failed += 1;
            if failed == ENOUGH {
                exit(4);
            }
        }
        let now = Instant::now();
        slowest = slowest.max((now - before, run));
        if share > largest.0 {
            largest = (share, run);
        }
        before = now;
    }
    tell(to, slowest, largest, accepted);
}

/// Has children read all inputs of a target, another one after each that ends early. Returns the number of failures.
fn soak(target: &str) -> usize {
    let (from, runs, begun) = (number("FROM", 0), number("RUNS", 10_000_000), Instant::now());
    let (to, series, mut told) = (from + runs, number("SERIES", 0), Instant::now());
    let (mut next, mut block, mut spent, mut failed) = (from, BLOCK, 0.0, 0);
    let (mut slowest, mut largest, mut accepted) = ((0.0, 0), (0.0, 0), 0);
    while next < to && failed < ENOUGH {
        let until = if block == 1 { to.min(next + BLOCK) } else { to };
        let me = std::env::current_exe().expect("a program");
        let words = [target.to_string(), next.to_string(), until.to_string(), block.to_string()];
        let mut child = Command::new(me).arg("--child").args(words).stdout(Stdio::piped()).spawn().expect("a child");
        let (mut at, mut stuck, mut used, mut read) = (next, false, 0.0, 0);
        for line in BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok) {
            let words: Vec<&str> = line.split(' ').collect();
            let float = |i: usize| words[i].parse().unwrap_or(0.0);
            let whole = |i: usize| words[i].parse().unwrap_or(0);
            match words[0] {
                "at" => {
                    (at, used, read) = (whole(1), float(2), whole(7));
                    slowest = if float(3) > slowest.0 { (float(3), whole(4)) } else { slowest };
                    largest = if float(5) > largest.0 { (float(5), whole(6)) } else { largest };
                    if told.elapsed() > Duration::from_secs(30) {
                        told = Instant::now();
                        let rate = (at - from) as f64 / (spent + used);
                        println!("{target}: {} of {runs} inputs, {rate:.0} a second of computing", at - from);
                    }
                }
                _ => {
                    println!("{target}: {line}");
                    stuck = line.ends_with("seconds");
                    at = if stuck { whole(1) } else { at };
                    failed += 1;
                }
            }
        }
        (spent, accepted) = (spent + used, accepted + read);
        let status = child.wait().expect("a child");
        if status.success() {
            if block == 1 {
                println!("{target}: failed between {next} and {until}, but not again");
                failed += 1;
            }
            (next, block) = (until, BLOCK);
        } else if stuck || failed >= ENOUGH {
            (next, block) = (at + 1, BLOCK);
        } else if block > 1 {
            (next, block) = (at, 1);
        } else {
            println!("{target}: failed {at} {status}");
            save(target, at, &fields::input(&files(target), series, at));
            failed += 1;
            (next, block) = (at + 1, BLOCK);
        }
    }
    let done = next.min(to) - from;
    println!(
        "{target}: {done} inputs in {spent:.0} s of computing ({:.0} s passed), {:.0} a second; {:.0}% accepted, {failed} failed; slowest {:.1} \
         ms ({}), memory at most {:.0}% of what is allowed ({})",
        begun.elapsed().as_secs_f64(),
        done as f64 / spent.max(1e-9),
        100.0 * accepted as f64 / done.max(1) as f64,
        slowest.0 * 1e3,
        slowest.1,
        100.0 * largest.0,
        largest.1
    );
    failed
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let known = |name: &String| {
        let of = targets::ALL.into_iter().find(|t| *t == name.as_str());
        of.unwrap_or_else(|| panic!("no target is named `{name}`"))
    };
    let whole = |text: &String| text.parse().expect("a number");
    match &args[..] {
        [word, target, from, to, block] if word == "--child" => {
            child(known(target), whole(from), whole(to), whole(block));
            ExitCode::SUCCESS
        }
        [word, target, run] if word == "--once" => {
            targets::read(known(target), &fields::input(&files(target), number("SERIES", 0), whole(run)));
            ExitCode::SUCCESS
        }
        _ => {
            let chosen: Vec<_> = if args.is_empty() { targets::ALL.to_vec() } else { args.iter().map(known).collect() };
            let failed: usize = chosen.into_iter().map(soak).sum();
            ExitCode::from(u8::from(failed > 0))
        }
    }
}
