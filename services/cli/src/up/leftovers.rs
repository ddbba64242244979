//! What an earlier `foreman up` left running: it was killed, and its tethers with it or not yet done.

use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::sys::signal::{Signal, kill};

use super::home::Home;
use super::{API, POSTGRES, SIM, WORKER, lock};
use crate::terminal::say;

/// For each of the two signals. Nobody's work is lost: what a worker held is rescued, what Postgres held is in its log.
const PATIENCE: Duration = Duration::from_secs(10);

/// Ends every child whose lock is still held, clients of Postgres before Postgres.
pub(super) async fn end(home: &Home) -> anyhow::Result<()> {
    for (name, signals) in [
        (API, [Signal::SIGTERM, Signal::SIGKILL]),
        (WORKER, [Signal::SIGTERM, Signal::SIGKILL]),
        (SIM, [Signal::SIGTERM, Signal::SIGKILL]),
        (POSTGRES, [Signal::SIGINT, Signal::SIGQUIT]),
    ] {
        end_one(home, name, signals).await?;
    }
    Ok(())
}

async fn end_one(home: &Home, name: &str, signals: [Signal; 2]) -> anyhow::Result<()> {
    let path = home.lock_of(name);
    for signal in signals {
        match lock::try_take(&path).with_context(|| format!("{} cannot be locked", path.display()))? {
            Ok(_free) => return Ok(()),
            Err(Some(pid)) => {
                say(format_args!(
                    "An earlier {name} (process {pid}) still runs in {}; ending it.",
                    home.path().display()
                ));
                // The lock is held, so the id is that of its holder, or of one that has just ended.
                let _just_ended = kill(pid, signal);
            }
            // Killed between its start and the writing of its id: its tether still lives, and ends it.
            Err(None) => say(format_args!("An earlier {name} still runs; waiting for its end.")),
        }
        if lock::take_within(&path, PATIENCE).await.is_ok() {
            return Ok(());
        }
    }
    match lock::take_within(&path, PATIENCE).await {
        Ok(_free) => Ok(()),
        Err(error) => bail!(error.context(format!("an earlier {name} does not end"))),
    }
}
