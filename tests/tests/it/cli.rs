//! The command line as its users have it: real processes, their exit codes, and what stands on which output.

mod chat;
mod clients;
mod doctor;
mod files;
mod healthcheck;
mod hosts;
mod jobs;
mod lists;
mod models;
mod queue;
mod secrets;
mod terminals;
mod troubles;
mod up;
mod webhook;

use std::env;
use std::path::PathBuf;
use std::process::{Command, Output};

use foreman_tests::Process;

/// Runs `foreman` to its end with these settings and nothing else of our environment but `PATH`.
async fn foreman(arguments: &[&str], settings: &[(&str, &str)]) -> Output {
    let mut command = Command::new(program());
    command.args(arguments).env_clear().envs(env::var_os("PATH").map(|path| ("PATH", path)));
    command.envs(settings.iter().copied());
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

/// Beside the tests, built by the harness before the first process starts.
pub(crate) fn program() -> PathBuf {
    Process::start("foreman", &["--version"], &[]);
    env::current_exe().unwrap().ancestors().nth(2).unwrap().join("foreman")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// One line for people, which must be all that was said there.
fn sentence(output: &Output) -> String {
    let said = stderr(output);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 1, "{said}");
    lines[0].to_owned()
}
