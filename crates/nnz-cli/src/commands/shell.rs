use crate::ui::{self, Ui};
use anyhow::{Context, Result};
use clap::{Args as ClapArgs, Command};
use clap_complete::Shell;
use nnz_engine::file::write_atomically;
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;

/// Arguments of `nnz completions`.
#[derive(ClapArgs, Debug)]
#[command(after_help = "Examples:
  nnz completions bash > ~/.local/share/bash-completion/completions/nnz
  nnz completions zsh > ~/.zfunc/_nnz
  nnz completions fish > ~/.config/fish/completions/nnz.fish")]
pub struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// Arguments of `nnz man`.
#[derive(ClapArgs, Debug)]
#[command(after_help = "Examples:
  nnz man | man -l -
  nnz man --out ~/.local/share/man/man1")]
pub struct ManArgs {
    /// Write a page for every command into this directory
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Prints the completion script of a shell.
pub fn completions(args: &CompletionsArgs, mut program: Command, ui: Ui) -> Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut program, "nnz", &mut script);
    let script = String::from_utf8_lossy(&script);
    ui.answer(&json!({"shell": args.shell.to_string(), "script": script}), || script.to_string())?;
    Ok(ExitCode::SUCCESS)
}

/// A page in roff, with its name.
fn page(command: &Command, name: &str) -> Result<(String, Vec<u8>)> {
    let file = format!("{}.1", name.replace(' ', "-"));
    let mut text = Vec::new();
    clap_mangen::Man::new(command.clone()).title(name.replace(' ', "-")).render(&mut text)?;
    Ok((file, text))
}

/// Every page: the program's, then its commands'.
fn pages(command: &Command, name: &str, out: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
    out.push(page(command, name)?);
    for sub in command.get_subcommands().filter(|c| c.get_name() != "help") {
        pages(sub, &format!("{name} {}", sub.get_name()), out)?;
    }
    Ok(())
}

/// Prints the manual page, or writes all of them.
pub fn man(args: &ManArgs, mut program: Command, ui: Ui) -> Result<ExitCode> {
    program.build();
    match &args.out {
        None => {
            let (_, text) = page(&program, "nnz")?;
            let text = String::from_utf8_lossy(&text);
            ui.answer(&json!({"page": text}), || text.to_string())?;
        }
        Some(dir) => {
            std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
            let mut all = Vec::new();
            pages(&program, "nnz", &mut all)?;
            for (name, text) in &all {
                write_atomically(&dir.join(name), text)?;
            }
            let names: Vec<&String> = all.iter().map(|(n, _)| n).collect();
            ui.answer(&json!({"directory": dir, "pages": names}), || {
                format!("{} pages in {}", ui::count(names.len()), dir.display())
            })?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
