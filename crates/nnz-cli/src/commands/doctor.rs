use crate::ui::{self, Ui};
use anyhow::Result;
use nnz_data::{State, Store};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

/// One check.
struct Finding {
    what: &'static str,
    found: String,
    /// The problem, and the way out.
    wrong: Option<String>,
}

/// Checks what nnz depends on. Exit code 1 if something will not work.
pub fn run(ui: Ui) -> Result<ExitCode> {
    let fine = |what, found: String| Finding { what, found, wrong: None };
    let isa = nnz_kernels::Isa::best();
    let cores = nnz_kernels::threads::available();
    let threads = rayon::current_num_threads();
    let mut findings = vec![
        fine("version", format!("nnz {}", env!("CARGO_PKG_VERSION"))),
        fine("system", format!("{} on {}", std::env::consts::OS, std::env::consts::ARCH)),
        fine("processor", cpu().unwrap_or_else(|| "unknown".into())),
        Finding {
            what: "kernels",
            found: format!("{isa:?} of {:?}", nnz_kernels::Isa::available()),
            wrong: (cfg!(target_arch = "x86_64") && isa == nnz_kernels::Isa::PORTABLE)
                .then(|| "no AVX2 or AVX-512: right results, but several times slower; use another machine".into()),
        },
        Finding {
            what: "threads",
            found: format!("{threads} of {cores} cores"),
            wrong: (threads > cores).then(|| format!("more threads than cores; --threads {cores} is faster")),
        },
    ];
    let memory = memory();
    findings.push(fine("memory", memory.map_or_else(|| "unknown".into(), |b| format!("{} free", ui::bytes(b)))));
    match Store::open() {
        Ok(store) => {
            let sets = store.list();
            let named = |state| {
                let names: Vec<&str> = sets.iter().filter(|s| s.state == state).map(|s| &*s.entry.name).collect();
                names.join(", ")
            };
            findings.push(Finding {
                what: "data",
                found: store.dir().display().to_string(),
                wrong: writable(store.dir()).err().map(|e| format!("{e}; set NNZ_DATA to a folder of yours")),
            });
            let named_or_none = |state| Some(named(state)).filter(|n| !n.is_empty()).unwrap_or_else(|| "none".into());
            findings.push(fine(
                "data sets",
                format!("embedded {}, installed {}", named(State::Embedded), named_or_none(State::Installed)),
            ));
            let incomplete = named(State::Incomplete);
            if !incomplete.is_empty() {
                findings.push(Finding {
                    what: "",
                    found: format!("{incomplete} in part"),
                    wrong: Some("some files are missing; `nnz data get NAME` completes it".into()),
                });
            }
        }
        Err(e) => findings.push(Finding { what: "data", found: "no directory".into(), wrong: Some(e.to_string()) }),
    }
    let here = PathBuf::from("runs");
    findings.push(Finding {
        what: "runs",
        found: std::env::current_dir().map_or_else(|_| "runs".into(), |d| d.join(&here).display().to_string()),
        wrong: writable(&here).err().map(|e| format!("{e}; give runs another place with --run-dir")),
    });
    findings.push(Finding {
        what: "pip",
        found: pip().unwrap_or_else(|| "none".into()),
        wrong: pip().is_none().then(|| "`nnz data get` needs Python with pip; data can be put in place by hand".into()),
    });
    let document: Vec<_> =
        findings.iter().map(|f| json!({"what": f.what, "found": f.found, "wrong": f.wrong})).collect();
    ui.answer(&document, || {
        let row = |f: &Finding| {
            let mark = if f.wrong.is_some() { "!" } else { "" };
            let text = f.wrong.as_ref().map_or_else(|| f.found.clone(), |w| format!("{}: {w}", f.found));
            vec![f.what.into(), mark.into(), text]
        };
        ui::words(&["what", "", "found"], findings.iter().map(row).collect())
    })?;
    Ok(if findings.iter().any(|f| f.wrong.is_some()) { ExitCode::from(1) } else { ExitCode::SUCCESS })
}

fn cpu() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    Some(text.lines().find(|l| l.starts_with("model name"))?.split_once(':')?.1.trim().into())
}

/// Bytes available without swapping.
fn memory() -> Option<usize> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|l| l.starts_with("MemAvailable:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<usize>().ok()? * 1024)
}

/// Whether files can be created in a directory, or, if it does not exist, in its nearest existing parent.
fn writable(dir: &Path) -> std::io::Result<()> {
    let absolute = std::path::absolute(dir)?;
    let there = absolute.ancestors().find(|d| d.exists()).unwrap_or(&absolute);
    tempfile::Builder::new().prefix(".nnz-").tempfile_in(there).map(drop)
}

fn pip() -> Option<String> {
    ["python3", "python"].iter().find_map(|python| {
        let out = Command::new(python).args(["-m", "pip", "--version"]).stdin(Stdio::null()).output().ok()?;
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let words: Vec<&str> = text.split_whitespace().take(2).collect();
        (out.status.success() && !words.is_empty()).then(|| words.join(" "))
    })
}
