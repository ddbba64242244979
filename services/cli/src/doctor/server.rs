//! The Postgres itself: its version, what it promises to keep, its clock, and who holds it up.

use std::time::Duration;

use chrono::TimeDelta;
use foreman_store::{CLOCK_TOLERANCE, OpenTransaction, Server, Store, StoreError};

use super::finding::{Finding, plural};
use crate::moment::in_words;

/// The oldest that Foreman is tested on, as `server_version_num` says it.
const OLDEST: i32 = 150_000;

/// What `foreman migrate` sets for the role.
const IDLE_IN_TRANSACTION: Duration = Duration::from_secs(5);

/// What each process holds beside its pool: a connection for LISTEN, one for NOTIFY, and one for each hot loop; an api one
/// more for signing clients in, a worker one more for saying that it lives.
const BESIDE_POOL_OF_WORKER: i64 = 10;
const BESIDE_POOL_OF_API: i64 = 4;

pub(super) fn version(server: &Server) -> Finding {
    let (major, minor) = (server.version / 10_000, server.version % 10_000);
    if server.version < OLDEST {
        return Finding::trouble(
            format!("Postgres is {major}.{minor}; Foreman needs 15 or later."),
            "move the data to a newer one: pg_dump here, psql there, foreman migrate",
        );
    }
    if server.in_recovery {
        return Finding::trouble(
            format!("Postgres {major}.{minor} is a standby, on which nothing can be written."),
            "set DATABASE_URL to the primary, or promote this one: SELECT pg_promote()",
        );
    }
    Finding::ok(format!("Postgres {major}.{minor}."))
}

pub(super) fn encoding(server: &Server) -> Finding {
    match server.encoding.as_str() {
        "UTF8" => Finding::ok("The database holds text as UTF8."),
        other => Finding::trouble(
            format!("The database holds text as {other}; prompts in other characters cannot be stored."),
            format!(
                "createdb -E UTF8 -T template0 {0}_utf8 && pg_dump {0} | psql {0}_utf8  (then set DATABASE_URL to it)",
                server.database
            ),
        ),
    }
}

/// Accepted means kept: Postgres must not be told to promise less.
pub(super) fn durability(server: &Server) -> Vec<Finding> {
    let mut lost = Vec::new();
    for (name, on, loses) in [
        ("fsync", server.fsync, "a power cut can lose or damage the whole database"),
        ("full_page_writes", server.full_page_writes, "a power cut can damage the database"),
    ] {
        if !on {
            lost.push(Finding::trouble(
                format!("{name} is off: {loses}."),
                format!("ALTER SYSTEM SET {name} = on; SELECT pg_reload_conf();  (and take -c {name}=off off its command line)"),
            ));
        }
    }
    if server.synchronous_commit == "off" {
        let Server { role, database, .. } = server;
        lost.push(Finding::trouble(
            "synchronous_commit is off: a crash loses jobs that were accepted.",
            format!(
                "ALTER SYSTEM RESET synchronous_commit; ALTER DATABASE {database} RESET synchronous_commit; \
                     ALTER ROLE {role} RESET synchronous_commit; SELECT pg_reload_conf();"
            ),
        ));
    }
    if lost.is_empty() {
        lost.push(Finding::ok("What is committed outlives a crash."));
    }
    lost
}

pub(super) fn vacuum(server: &Server) -> Finding {
    if server.autovacuum {
        Finding::ok("Autovacuum is on.")
    } else {
        Finding::trouble(
            "Autovacuum is off: the queue grows slower and larger without end.",
            "ALTER SYSTEM SET autovacuum = on; SELECT pg_reload_conf();",
        )
    }
}

/// A client that dies inside a transaction must not hold its locks for ever.
pub(super) fn idle_transactions(server: &Server) -> Finding {
    let bound = server.idle_in_transaction;
    if bound == Duration::ZERO || bound > IDLE_IN_TRANSACTION {
        let bound =
            if bound.is_zero() { "without a bound".to_owned() } else { format!("for {}", in_words(bound)) };
        return Finding::trouble(
            format!(
                "The role {} may idle in a transaction {bound}, and hold up everybody meanwhile.",
                server.role
            ),
            format!(
                "foreman migrate  (as this role; or ALTER ROLE {} IN DATABASE {} SET idle_in_transaction_session_timeout = '5s')",
                server.role, server.database
            ),
        );
    }
    Finding::ok(format!("A transaction that idles is ended after {}.", in_words(bound)))
}

/// Whether all processes together find room. Apis leave no trace, so one is counted.
pub(super) fn connections(server: &Server, pool: u32, workers: usize) -> Finding {
    let workers = i64::try_from(workers).unwrap_or(i64::MAX).max(1);
    let processes = workers + 1;
    let beside = workers * BESIDE_POOL_OF_WORKER + BESIDE_POOL_OF_API;
    let wanted = processes * i64::from(pool) + beside;
    let room = i64::from(server.connections);
    let what = format!(
        "{} with pools of {pool} may want {wanted} connections; Postgres has {room}, {} of them taken now",
        plural(processes, "process", "processes"),
        server.connected
    );
    if wanted > room {
        let mend =
            format!("FOREMAN_DB_POOL={}, or max_connections = {}", (room - beside) / processes, wanted + 20);
        return Finding::trouble(
            format!("{what}."),
            format!("{mend} in postgresql.conf and a restart of Postgres"),
        );
    }
    Finding::ok(format!("{what}."))
}

pub(super) async fn clock(store: &Store) -> Result<Finding, StoreError> {
    let offset = store.learn_time().await?;
    let apart = offset.num_milliseconds().abs() as f64 / 1_000.0;
    let way = if offset > TimeDelta::zero() { "behind" } else { "ahead of" };
    Ok(if offset.abs() > CLOCK_TOLERANCE {
        Finding::trouble(
            format!(
                "This machine's clock is {apart:.1} s {way} Postgres'; api and worker are not ready beyond 5 s."
            ),
            "timedatectl set-ntp true  (on this machine and on that of Postgres)",
        )
    } else {
        Finding::ok(format!("This machine's clock is {apart:.1} s from Postgres'."))
    })
}

/// Old transactions keep what was deleted from being cleaned away, and the queue deletes all the time.
pub(super) async fn transactions(store: &Store, limit: Duration) -> Result<Finding, StoreError> {
    let Some(oldest) = store.oldest_open_transaction().await? else {
        return Ok(Finding::ok("No other transaction is open on this database."));
    };
    let OpenTransaction { pid, role, application, state, age } = oldest;
    let who = match application.as_str() {
        "" => format!("process {pid} of {role}"),
        name => format!("process {pid} of {role} ({name})"),
    };
    Ok(if age >= limit {
        Finding::trouble(
            format!(
                "A transaction has been open for {}: {who}, {state}. It slows the queue more and more.",
                in_words(age)
            ),
            format!("SELECT pg_terminate_backend({pid});  (unless it is a backup, which ends by itself)"),
        )
    } else {
        Finding::ok(format!("The oldest transaction has been open for {}: {who}, {state}.", in_words(age)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Level;

    fn server() -> Server {
        Server {
            version: 150_014,
            database: "foreman".to_owned(),
            role: "foreman".to_owned(),
            encoding: "UTF8".to_owned(),
            in_recovery: false,
            fsync: true,
            full_page_writes: true,
            synchronous_commit: "on".to_owned(),
            autovacuum: true,
            connections: 97,
            connected: 20,
            idle_in_transaction: IDLE_IN_TRANSACTION,
        }
    }

    /// Neither an old Postgres nor a standby is at hand where the suite runs.
    #[test]
    fn an_old_postgres_and_a_standby_are_trouble() {
        assert_eq!(version(&server()).level, Level::Ok);
        for broken in [Server { version: 140_011, ..server() }, Server { in_recovery: true, ..server() }] {
            assert_eq!(version(&broken).level, Level::Trouble);
        }
    }

    #[test]
    fn the_pool_that_is_advised_finds_room() {
        let tight = Server { connections: 62, ..server() };
        let advised = connections(&tight, 40, 3).mend.unwrap();
        assert!(advised.starts_with("FOREMAN_DB_POOL=7,"), "{advised}");
        assert_eq!(connections(&tight, 7, 3).level, Level::Ok);
    }
}
