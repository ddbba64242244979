//! The rate of pgbench on the same Postgres: eight clients, whose transactions are one statement each, which writes a
//! row with a body and an outbox row. There is no HTTP and no batch.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use foreman_tests::Db;

use crate::measure::Sample;

const TABLES: &str = "
    CREATE TABLE plain_job (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        body text NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now()
    );
    CREATE TABLE plain_outbox (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        job_id bigint NOT NULL,
        state text NOT NULL,
        at timestamptz NOT NULL DEFAULT now()
    );";

const STATEMENT: &str = "WITH job AS (INSERT INTO plain_job (body) VALUES (:body) RETURNING id) \
                         INSERT INTO plain_outbox (job_id, state) SELECT id, 'queued' FROM job;\n";

const BODY: usize = 600;

/// Runs pgbench for `length` in a database of its own.
pub(crate) fn run(db: &Db, length: Duration) -> anyhow::Result<Sample> {
    let script = std::env::temp_dir().join(format!("foreman-load-{}.sql", std::process::id()));
    std::fs::write(&script, STATEMENT)?;
    let output = Command::new("pgbench")
        .args(["--no-vacuum", "-M", "prepared", "-c", "8", "-j", "2"])
        .args(["-T", &length.as_secs().to_string(), "-D", &format!("body={}", "x".repeat(BODY))])
        .arg("-f")
        .arg(&script)
        .arg(db.url())
        .stderr(Stdio::inherit())
        .output()
        .context("pgbench cannot be started: apt-get install postgresql")?;
    std::fs::remove_file(&script)?;
    ensure!(output.status.success(), "pgbench failed");
    let report = String::from_utf8(output.stdout)?;
    let figure = |name: &str| -> anyhow::Result<f64> {
        let line = report.lines().find_map(|line| line.strip_prefix(name));
        let word = line.and_then(|line| line.split_whitespace().next());
        Ok(word.with_context(|| format!("pgbench says no `{name}`: {report}"))?.parse()?)
    };
    let failed = figure("number of failed transactions:")?;
    ensure!(failed == 0.0, "pgbench had {failed} failures");
    Ok(Sample { rate: figure("tps =")?, own_cpu: None, postgres_cpu: None, latency: None })
}

pub(crate) async fn make_tables(db: &Db) {
    db.run(TABLES).await;
}
