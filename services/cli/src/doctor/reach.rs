//! The way to Postgres: whether Postgres can be reached, and whether through a pooler.

use std::time::Duration;

use anyhow::Context as _;
use foreman_store::{ConnectOptions, DatabaseAddress, Reached, Store, Unreachable};
use tokio::time::timeout;

use super::finding::Finding;
use super::installation::{Database, is_in_container};
use super::report::Report;
use crate::terminal::PrintError;

/// A Postgres that is there takes a connection at once; a firewall that drops packets says nothing for minutes.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// A Postgres that answers.
pub(super) struct Postgres {
    pub(super) store: Store,
    pub(super) address: DatabaseAddress,
    pub(super) reached: Reached,
}

/// Connects, and reports how that went.
pub(super) async fn reach(database: &Database, report: &mut Report) -> Result<Option<Postgres>, PrintError> {
    let direct = database.direct_url.as_deref();
    let Some(looking) = report.ask("database", options(&database.url, direct)).await? else {
        return Ok(None);
    };
    let address = looking.address();
    match within(looking.reach()).await {
        Ok(reached) => {
            let at = format!("Postgres answers at {}.", described(&address));
            report.found("database", Finding::ok(at))?;
            report.found("pooler", pooler(database, &looking, &reached).await)?;
            Ok(Some(Postgres { store: Store::new(looking), address, reached }))
        }
        Err(why) => {
            let what = format!("Postgres cannot be reached at {}: {why}.", described(&address));
            report.found("database", Finding::trouble(what, mend(&why, &address)))?;
            Ok(None)
        }
    }
}

async fn options(url: &str, direct: Option<&str>) -> anyhow::Result<ConnectOptions> {
    ConnectOptions::for_checkup(url, direct).context(
        "DATABASE_URL or DATABASE_DIRECT_URL is no URL of a Postgres; write it as postgres://user:password@host:5432/database, \
         with %40 for @, %2F for / and %23 for # in the password",
    )
}

async fn within<T>(connecting: impl Future<Output = Result<T, Unreachable>>) -> Result<T, Unreachable> {
    timeout(CONNECT_WITHIN, connecting).await.unwrap_or_else(|_elapsed| {
        Err(Unreachable::NoAnswer(std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer within 5 s")))
    })
}

fn described(DatabaseAddress { host, port, role, database }: &DatabaseAddress) -> String {
    format!("{host}:{port}, database {database}, as {role}")
}

fn mend(why: &Unreachable, address: &DatabaseAddress) -> String {
    let DatabaseAddress { host, port, role, database } = address;
    match why {
        Unreachable::NoAnswer(_) => {
            let hint = if is_own_container(host) {
                format!("; in a container {host} is the container itself")
            } else {
                String::new()
            };
            format!("pg_isready -h {host} -p {port}  (tells whether it listens; start it, or mend DATABASE_URL{hint})")
        }
        Unreachable::Tls(_) => {
            "mend its certificate or name its authority in DATABASE_URL (?sslrootcert=/path/to/ca.pem); without TLS: \
             ?sslmode=disable"
                .to_owned()
        }
        Unreachable::Password => format!(
            "mend the password in DATABASE_URL, or set a new one: psql -h {host} -p {port} -U postgres -c '\\password {role}'"
        ),
        Unreachable::NotAdmitted(_) => format!(
            "createuser -h {host} -p {port} -U postgres -P {role}  (if it is missing; else admit it: GRANT CONNECT ON \
             DATABASE {database} TO {role}, and a line in pg_hba.conf)"
        ),
        Unreachable::NoDatabase => format!(
            "createdb -h {host} -p {port} -U postgres -O {role} -E UTF8 -T template0 {database} && foreman migrate"
        ),
        Unreachable::Full => format!(
            "psql -h {host} -p {port} -U postgres -c 'SELECT usename, application_name, count(*) FROM pg_stat_activity \
             GROUP BY 1, 2'  (shows who has them; then lower FOREMAN_DB_POOL or raise max_connections)"
        ),
        Unreachable::NotReady => "wait for it; if that lasts, its log says why".to_owned(),
        Unreachable::Pooler(_) => {
            "take that out of DATABASE_URL, or name it in ignore_startup_parameters of pgbouncer.ini".to_owned()
        }
        Unreachable::Other(_) => "mend DATABASE_URL, or what Postgres complains of".to_owned(),
    }
}

fn is_own_container(host: &str) -> bool {
    matches!(host, "localhost" | "127.0.0.1" | "::1") && is_in_container()
}

/// What stands between us and Postgres, and whether the services know.
async fn pooler(database: &Database, looking: &ConnectOptions, reached: &Reached) -> Vec<Finding> {
    let mut found = Vec::new();
    match (reached.pooled, database.pgbouncer) {
        (true, false) => found.push(Finding::trouble(
            "DATABASE_URL leads through a transaction pooler, and FOREMAN_PGBOUNCER is not set: statements may run on a \
             server that does not know them.",
            "FOREMAN_PGBOUNCER=yes  (for api, worker and every foreman command)",
        )),
        (true, true) => found.push(Finding::ok("A transaction pooler is known of: FOREMAN_PGBOUNCER is yes.")),
        (false, true) => found.push(Finding::note(
            "FOREMAN_PGBOUNCER is yes, and no pooler was seen: statements are slower than they need be.",
            "unset FOREMAN_PGBOUNCER, unless there is a PgBouncer",
        )),
        // A busy pooler may have looked like Postgres. It still refuses what it does not know, so try that as well.
        (false, false) => match as_services_connect(database).await {
            Ok(()) => found.push(Finding::ok("No pooler stands in between.")),
            Err(why) => found.push(Finding::trouble(
                format!("A connection as the services make it is refused: {why}."),
                "FOREMAN_PGBOUNCER=yes if a pooler stands in between; else mend what Postgres says",
            )),
        },
    }
    match &database.direct_url {
        Some(_) => found.push(directly(looking, reached).await),
        None if reached.pooled => found.push(Finding::trouble(
            "DATABASE_DIRECT_URL is not set, and LISTEN and migrations do not work through a transaction pooler.",
            "DATABASE_DIRECT_URL=postgres://…  (the same database, past the pooler; for api, worker and migrate)",
        )),
        None => {}
    }
    found
}

async fn as_services_connect(database: &Database) -> anyhow::Result<()> {
    let direct = database.direct_url.as_deref();
    let options = ConnectOptions::new(&database.url, direct, database.pool, database.pgbouncer)?;
    Ok(within(options.try_once()).await?)
}

async fn directly(looking: &ConnectOptions, reached: &Reached) -> Finding {
    match within(looking.reach_directly()).await {
        Ok(Reached { pooled: true, .. }) | Err(Unreachable::Pooler(_)) => Finding::trouble(
            "DATABASE_DIRECT_URL leads through a transaction pooler too; LISTEN and migrations do not work there.",
            "set DATABASE_DIRECT_URL to Postgres' own address",
        ),
        Ok(direct) if direct.database != reached.database => Finding::trouble(
            "DATABASE_DIRECT_URL leads to another database than DATABASE_URL.",
            "set both to the same database",
        ),
        Ok(_) => Finding::ok("DATABASE_DIRECT_URL leads to the same database, past any pooler."),
        Err(why) => Finding::trouble(
            format!("Postgres cannot be reached by DATABASE_DIRECT_URL: {why}."),
            "mend DATABASE_DIRECT_URL; without a pooler unset it",
        ),
    }
}
