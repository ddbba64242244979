//! A service that consists only of its frame. The tests send real signals to it.

use std::future::pending;
use std::process::ExitCode;

use foreman_runtime::config::form;
use foreman_runtime::{ConfigError, Env, Process, Program, Setting, settings};

/// The name does not have Foreman's prefix, so that the check for unknown variables ignores it.
const MODE: Setting =
    Setting::with_default("PROBE_MODE", "obedient", "obedient, stubborn, panics, fails or waits");

const PROGRAM: Program = Program {
    name: "probe",
    about: "A service with nothing in it.",
    version: "1.2.3",
    settings: &[settings::shared::PROCESS, &[MODE]],
    metrics: &[],
};

#[derive(Clone, Copy)]
enum Mode {
    Obedient,
    Stubborn,
    Panics,
    Fails,
    Waits,
}

fn main() -> ExitCode {
    PROGRAM.run(mode, start)
}

fn mode(env: &Env) -> Result<Mode, ConfigError> {
    let words = [
        ("obedient", Mode::Obedient),
        ("stubborn", Mode::Stubborn),
        ("panics", Mode::Panics),
        ("fails", Mode::Fails),
        ("waits", Mode::Waits),
    ];
    env.read(&MODE, form::choice(&words))
}

async fn start(mode: Mode, process: &Process) -> anyhow::Result<()> {
    let soft = process.shutdown.soft().clone();
    match mode {
        Mode::Obedient => process.shutdown.spawn("obedient", async move {
            soft.cancelled().await;
            anyhow::Ok(())
        }),
        Mode::Stubborn => process.shutdown.spawn("stubborn", pending::<anyhow::Result<()>>()),
        Mode::Panics => process.shutdown.spawn("panics", async { panic!("as told") as anyhow::Result<()> }),
        Mode::Fails => anyhow::bail!("the database\nis not there"),
        Mode::Waits => {
            tracing::info!("waiting");
            pending::<()>().await;
        }
    }
    tracing::info!("started");
    Ok(())
}
