//! `foreman completions`: what a shell needs to complete `foreman`'s arguments.

use std::process::ExitCode;

use clap::{Command, CommandFactory as _};
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
    let cli = Cli::command();
    // A shell would offer hidden commands too.
    let visible = cli.get_subcommands().filter(|command| !command.is_hide_set());
    let mut shown = Command::new("foreman").version(env!("CARGO_PKG_VERSION")).subcommands(visible);
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut shown, "foreman", &mut script);
    print_raw(&script)?;
    Ok(ExitCode::SUCCESS)
}
