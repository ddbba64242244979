//! Writes what became of attempts. Whatever gathers while one batch is written goes with the next, so that the batches
//! grow with the load; only where that is high does one wait a moment for company.

use std::sync::Arc;
use std::time::Duration;

use foreman_runtime::background_error;
use foreman_store::{DeliveryReport, ReportSettled, Store, Verdict};
use metrics::{counter, histogram};
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::attempt::Attempted;
use super::{ATTEMPT_SECONDS, DELIVERIES, GATHER_FOR, LAG_SECONDS, UNDER_LOAD};
use crate::stale::STALE_WRITES;
use crate::worker::Worker;

/// Reports a statement.
const BATCH: usize = 256;

/// After a failure; Postgres is away, most likely.
const TRY_AGAIN: Duration = Duration::from_millis(500);

/// Writes until the last sender is gone. What cannot be written by the end of the grace lapses, and is sent again.
pub(super) async fn run(worker: Arc<Worker>, mut over: mpsc::Receiver<Attempted>) -> anyhow::Result<()> {
    let store = worker.store.on_own_connection();
    let mut batch: Vec<Attempted> = Vec::with_capacity(BATCH);
    while over.recv_many(&mut batch, BATCH).await > 0 {
        let (reports, lags): (Vec<DeliveryReport>, Vec<Option<Duration>>) =
            batch.drain(..).map(|attempted| (attempted.report, attempted.lag)).unzip();
        let Some(settled) = write(&worker, &store, &reports).await else { return Ok(()) };
        for ((report, lag), settled) in reports.iter().zip(lags).zip(settled) {
            record(report, lag, settled);
        }
        if reports.len() >= UNDER_LOAD {
            sleep(GATHER_FOR).await;
        }
    }
    Ok(())
}

/// Until it is written: a second time it finds what it wrote the first. `None` if the process must end before.
async fn write(worker: &Worker, store: &Store, reports: &[DeliveryReport]) -> Option<Vec<ReportSettled>> {
    loop {
        match store.settle_deliveries(reports).await {
            Ok(settled) => return Some(settled),
            Err(error) => background_error!("settle-deliveries", error, reports = reports.len()),
        }
        tokio::select! {
            () = worker.shutdown.hard().cancelled() => return None,
            () = sleep(TRY_AGAIN) => {}
        }
    }
}

fn record(report: &DeliveryReport, lag: Option<Duration>, settled: ReportSettled) {
    if settled == ReportSettled::Stale {
        counter!(STALE_WRITES.name).increment(1);
        tracing::warn!(job.id = %report.job, seq = report.seq, "a webhook's claim had lapsed; it is sent again");
        return;
    }
    let (outcome, code) = match report.verdict {
        Verdict::Delivered => ("delivered", "2xx"),
        Verdict::Retry { code, .. } => ("retry", code),
        Verdict::Failed { code } => ("failed", code),
        Verdict::Release { .. } => return,
    };
    counter!(DELIVERIES.name, "outcome" => outcome, "code" => code).increment(1);
    let took = report.ended.saturating_duration_since(report.started);
    histogram!(ATTEMPT_SECONDS.name).record(took.as_secs_f64());
    match (report.verdict, lag) {
        (Verdict::Delivered, Some(lag)) => histogram!(LAG_SECONDS.name).record(lag.as_secs_f64()),
        (Verdict::Failed { code }, _) => {
            tracing::warn!(job.id = %report.job, seq = report.seq, attempt = report.attempt, code, "a webhook is given up");
        }
        _ => {}
    }
}
