//! `foreman secrets`: what is stored encrypted, and the change of the key that encrypts it.

use std::collections::BTreeSet;
use std::process::ExitCode;

use foreman_runtime::Env;
use foreman_runtime::settings::{cli, shared};
use foreman_store::Resealed;

use crate::terminal::{print, say};
use crate::{database, exit, help};

/// Owners that are named when their secrets cannot be opened.
const NAMED: usize = 10;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Encrypt every stored secret with FOREMAN_SECRET_KEY; safe twice, and safe to interrupt
    #[command(after_help = "\
Example: foreman secrets rotate

FOREMAN_PREVIOUS_SECRET_KEY is the key of before. First give both to every worker, then to every api, and restart them;
then run this; then take the old key away. Keys and webhook secrets of clients stay as they are.")]
    Rotate,
}

pub(crate) fn help() -> String {
    help::after(
        "Example: foreman secrets rotate",
        &[shared::DATABASE_URL, shared::SECRET_KEY, shared::PREVIOUS_SECRET_KEY, cli::HOME],
    )
}

pub(crate) async fn run(command: Command) -> anyhow::Result<ExitCode> {
    let Command::Rotate = command;
    let (store, seal) = database::open_with_key(&Env::from_process())?;
    let seal = database::needs_key(seal)?;
    let Resealed { changed, unchanged, unopened } = store.reseal(&seal).await?;
    store.close().await;
    let key = seal.key_id();
    print(format_args!("{changed} encrypted anew with the key {key}, {unchanged} were already"))?;
    if unopened.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    let owners: BTreeSet<String> =
        unopened.iter().map(|place| format!("{} of {}", place.column, place.owner)).collect();
    let named: Vec<&str> = owners.iter().take(NAMED).map(String::as_str).collect();
    let more = if owners.len() > NAMED { ", …" } else { "" };
    say(format_args!(
        "foreman: {} can be opened by neither key ({}{more}); set FOREMAN_PREVIOUS_SECRET_KEY to the key they were encrypted \
         with and run this again, or make new secrets with `foreman client rotate` and `foreman webhook rotate`",
        unopened.len(),
        named.join(", "),
    ));
    Ok(exit::FAILED.into())
}
