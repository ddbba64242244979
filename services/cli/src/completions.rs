//! `foreman completions`: what a shell needs to complete `foreman`'s arguments.

use std::process::ExitCode;

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::Cli;
use crate::terminal::print_raw;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  foreman completions bash > ~/.local/share/bash-completion/completions/foreman
  foreman completions zsh > ~/.zfunc/_foreman     # with fpath+=~/.zfunc before compinit in ~/.zshrc
  foreman completions fish > ~/.config/fish/completions/foreman.fish

Or for one session: source <(foreman completions bash)")]
pub(crate) struct Args {
    shell: Shell,
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "foreman", &mut script);
    print_raw(&script)?;
    Ok(ExitCode::SUCCESS)
}
