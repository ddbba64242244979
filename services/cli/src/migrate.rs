//! `foreman migrate`: brings the database up to date. Several may run at the same time.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use foreman_runtime::Env;
use foreman_runtime::settings::shared;
use foreman_store::{MigrateError, StoreError, schema_version_needed};
use tokio::time::{Instant, sleep};

use crate::terminal::{say, sentence};
use crate::{database, help};

const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// A Postgres that starts at the same time is up sooner than this, so only a longer wait is mentioned.
const SAY_AFTER: Duration = Duration::from_secs(2);
/// How long to wait for tables that somebody holds. Another `foreman migrate` is done sooner than this; a backup may not be.
const BUSY_FOR: Duration = Duration::from_secs(60);

#[derive(Debug, clap::Args)]
#[command(after_help = help::after(
    "Example: DATABASE_URL=postgres://foreman@db.lan/foreman foreman migrate",
    &[shared::DATABASE_URL, shared::DATABASE_DIRECT_URL],
))]
pub(crate) struct Args {
    /// Say nothing where all goes well at once
    #[arg(short, long)]
    quiet: bool,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let store = database::open(&Env::from_process())?;
    let began = Instant::now();
    let mut told = false;
    loop {
        match store.migrate().await {
            Ok(()) => break,
            Err(MigrateError::Store(error @ (StoreError::Unreached(_) | StoreError::Away(_)))) => {
                if !told && began.elapsed() > SAY_AFTER {
                    told = true;
                    say(format_args!("Waiting for Postgres: {}.", sentence(&error.into())));
                }
            }
            Err(MigrateError::TablesBusy) if began.elapsed() < BUSY_FOR => {}
            Err(error) => return Err(error).context("the database that DATABASE_URL names cannot be used"),
        }
        sleep(LOOK_AGAIN).await;
    }
    store.close().await;
    if !args.quiet {
        say(format_args!("The database is at schema version {}.", schema_version_needed()));
    }
    Ok(ExitCode::SUCCESS)
}
