//! `foreman doctor`: looks an installation over, and says what is wrong with it and how to mend that.
//!
//! It only looks: its transactions are read-only, and it shows no secret that was not asked for. Each check has a time
//! limit, and the report names every check that could not be made.

mod finding;
mod installation;
mod report;

mod api;
mod disk;
mod fleet;
mod ollama;
mod reach;
mod schema;
mod secrets;
mod server;
mod waiting;
mod work;

use std::process::ExitCode;
use std::time::Duration;

use foreman_runtime::Env;
use foreman_runtime::config::{SecretKeys, form};
use foreman_runtime::settings::{api as api_settings, cli, shared, worker};
use foreman_store::SchemaState;
use foreman_webhook::SigningSecret;

use crate::help;
use crate::terminal::PrintError;
use finding::Finding;
use fleet::Fleet;
use installation::{Database, Installation};
use reach::Postgres;
use report::Report;
use waiting::Waiting;

#[derive(Debug, clap::Args)]
#[command(after_help = help())]
pub(crate) struct Args {
    /// Print one JSON object a line: {"check","level","what","mend"}
    #[arg(long)]
    json: bool,
    /// Transactions on the database that are older are trouble
    #[arg(long, value_name = "AGE", default_value = "30m", value_parser = age)]
    oldest_transaction: Duration,
    /// Print FOREMAN_WEBHOOK_SECRET in the form that libraries of Standard Webhooks want
    #[arg(long)]
    show_secrets: bool,
}

fn age(text: &str) -> Result<Duration, String> {
    const A_YEAR: Duration = Duration::from_secs(366 * 24 * 3_600);
    form::duration(Duration::ZERO..=A_YEAR)(text)
}

/// The checks that are left out where there is no installation, no Postgres to ask, or no table that can be read.
const OF_SETTINGS: &[&str] = &["secret_key", "webhook_secret", "database", "pooler"];
const OF_POSTGRES: &[&str] = &[
    "postgres",
    "encoding",
    "durability",
    "vacuum",
    "idle_timeout",
    "clock",
    "transactions",
    "rights",
    "schema",
];
const OF_TABLES: &[&str] = &[
    "partitions",
    "rooms",
    "workers",
    "hosts",
    "models",
    "leases",
    "outbox",
    "deliveries",
    "connections",
    "secrets",
    "sealing",
    "signing",
];

fn help() -> String {
    help::after(
        "\
Examples:
  foreman doctor
  foreman doctor --json | jq 'select(.level == \"trouble\")'
  docker compose run --rm worker foreman doctor

Reads the settings of the api and the worker, so run it as they are run. Where DATABASE_URL is not set, it looks at the
`foreman up` of this machine. Exits with 0 where nothing is wrong, with 7 where something is; notes are not trouble.",
        &[
            shared::DATABASE_URL,
            shared::DATABASE_DIRECT_URL,
            shared::PGBOUNCER,
            shared::SECRET_KEY,
            shared::PREVIOUS_SECRET_KEY,
            shared::WEBHOOK_SECRET,
            api_settings::AUTH,
            worker::OLLAMA_HOST,
            cli::URL,
            cli::API_KEY,
            cli::HOME,
        ],
    )
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let site = Installation::find(Env::from_process());
    let mut report = Report::new(args.json);
    examine(&site, &args, &mut report).await?;
    Ok(report.end())
}

async fn examine(site: &Installation, args: &Args, report: &mut Report) -> Result<(), PrintError> {
    report.found("settings", site.where_from())?;
    report.found("settings", site.unknown_settings())?;
    let fleet = if site.is_there() {
        examine_installation(site, args, report).await?
    } else {
        report.left_out(
            &[OF_SETTINGS, OF_POSTGRES, OF_TABLES].concat(),
            "there is no installation to look at",
        )?;
        None
    };
    if !ollama::is_named() && fleet.is_some_and(|fleet| fleet.has_live_host()) {
        report.found("ollama", Finding::ok(ollama::SPOKEN_FOR))?;
    } else {
        report.look("ollama", ollama::look(site)).await?;
    }
    report.look("api", api::look(site)).await?;
    Ok(())
}

/// Returns the workers and the hosts, if they can be read.
async fn examine_installation(
    site: &Installation,
    args: &Args,
    report: &mut Report,
) -> Result<Option<Fleet>, PrintError> {
    if let Some(home) = site.home() {
        report.look("disk", disk::look(home)).await?;
    }
    let (found, keys) = secrets::key(site);
    report.found("secret_key", found)?;
    let (found, webhook) = secrets::webhook(site, args.show_secrets);
    report.found("webhook_secret", found)?;
    let Some((database, postgres)) = reach_database(site, report).await? else {
        report.left_out(&[OF_POSTGRES, OF_TABLES].concat(), "the database cannot be reached")?;
        return Ok(None);
    };
    let fleet = examine_database(&database, &postgres, &Secrets { keys, webhook }, args, report).await?;
    postgres.store.close().await;
    Ok(fleet)
}

/// The secrets of the environment, to compare with those that the database holds.
struct Secrets {
    keys: Option<SecretKeys>,
    webhook: Option<SigningSecret>,
}

async fn reach_database(
    site: &Installation,
    report: &mut Report,
) -> Result<Option<(Database, Postgres)>, PrintError> {
    let database = match site.database() {
        Ok(database) => database,
        Err(error) => {
            report.found("database", Finding::trouble(format!("{error}."), "mend that setting"))?;
            return Ok(None);
        }
    };
    Ok(reach::reach(&database, report).await?.map(|postgres| (database, postgres)))
}

/// Returns the workers and the hosts, if they can be read.
async fn examine_database(
    database: &Database,
    postgres: &Postgres,
    secrets: &Secrets,
    args: &Args,
    report: &mut Report,
) -> Result<Option<Fleet>, PrintError> {
    let Postgres { store, address, reached } = postgres;
    let server = report.ask("postgres", store.server()).await?;
    if let Some(server) = &server {
        report.found("postgres", server::version(server))?;
        report.found("encoding", server::encoding(server))?;
        report.found("durability", server::durability(server))?;
        report.found("vacuum", server::vacuum(server))?;
    }
    report.look("clock", server::clock(store)).await?;
    report.look("transactions", server::transactions(store, args.oldest_transaction)).await?;

    let rights = report.look("rights", schema::rights(store, &address.role, &address.database)).await?;
    let state = report.ask("schema", store.schema_state()).await?;
    if let Some(state) = state {
        report.found("schema", schema::state(state))?;
    }
    // `foreman migrate` sets this bound, so it says nothing on a database that was never migrated.
    if let (Some(server), Some(state)) = (&server, state)
        && state != SchemaState::Absent
    {
        report.found("idle_timeout", server::idle_transactions(server))?;
    }
    if !(rights && state.is_some_and(schema::is_readable)) {
        report.left_out(OF_TABLES, "the tables cannot be read")?;
        return Ok(None);
    }

    report.look("partitions", schema::partitions(store)).await?;
    report.look("rooms", work::rooms(store)).await?;
    let fleet = report.ask("workers", Fleet::of(store)).await?;
    let waiting = report.ask("work", Waiting::of(store)).await?;
    let inventory = report.ask("models", store.inventory()).await?;
    if let (Some(fleet), Some(waiting), Some(inventory)) = (&fleet, &waiting, &inventory) {
        report.found("workers", fleet::workers(fleet, waiting))?;
        report.found("hosts", fleet::hosts(fleet))?;
        report.found("models", work::models(&waiting.models, inventory))?;
        report.found("leases", work::leases(waiting.leases, fleet))?;
        report.found("outbox", work::outbox(waiting.outbox, fleet))?;
        report.found("deliveries", work::deliveries(waiting.deliveries, fleet))?;
    }
    if let (Some(server), Some(fleet), false) = (&server, &fleet, reached.pooled) {
        // Behind a pooler, its pools bound the connections, not Postgres.
        report.found("connections", server::connections(server, database.pool, fleet.alive().count()))?;
    }
    report.look("secrets", secrets::stored(store, secrets.keys.as_ref())).await?;
    report.look("sealing", secrets::sealing(store, secrets.keys.as_ref())).await?;
    report.look("signing", secrets::unsigned(store, secrets.webhook.as_ref())).await?;
    Ok(fleet)
}
