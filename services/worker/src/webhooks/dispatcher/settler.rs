//! Writes the reports of attempts. Reports that arrive while one batch is written go with the next, so batches grow with the
//! load. Under high load the loop also waits a moment between two batches. Reports of what went badly wait a moment longer
//! for others: receivers that fail or drip must not keep Postgres busy by their number. When Postgres refuses a batch, its
//! reports are written one by one beside the loop.

use std::slice::from_ref;
use std::sync::Arc;
use std::time::Duration;

use foreman_runtime::background_error;
use foreman_store::{DeliveryOutcome, DeliveryReport, LaneNews, ReportSettled, Store, StoreError};
use metrics::{counter, histogram};
use tokio::sync::mpsc;

use super::attempt::Attempted;
use super::{ATTEMPT_SECONDS, DELIVERIES, GATHER, LAG_SECONDS};
use crate::alone::Alone;
use crate::gather::receive;
use crate::stale::STALE_WRITES;
use crate::tries::Tries;
use crate::worker::Worker;

const TASK: &str = "settle-deliveries";

/// Reports per statement.
const BATCH: usize = 256;

/// So long a batch in which all reports are bad waits for others.
const BAD_WAIT: Duration = Duration::from_millis(50);

/// Writes until the last sender is gone. When a report cannot be written by the end of the grace, its claim lapses, and the
/// webhook is sent again.
pub(super) async fn run(worker: Arc<Worker>, mut over: mpsc::Receiver<Attempted>) -> anyhow::Result<()> {
    let alone = Alone::new(&worker.shutdown);
    let settler = Settler { store: worker.store.on_own_connection(), worker };
    let mut batch: Vec<Attempted> = Vec::with_capacity(BATCH);
    let mut gather = GATHER;
    let is_bad = |attempted: &Attempted| attempted.report.news.is_bad();
    while receive(&mut over, &mut batch, BATCH, is_bad, BAD_WAIT).await {
        let (reports, (lags, seats)): (Vec<_>, (Vec<_>, Vec<_>)) =
            batch.drain(..).map(|attempted| (attempted.report, (attempted.lag, attempted.seat))).unzip();
        let written = reports.len();
        match settler.write(&reports, &lags, Tries::default()).await {
            Ok(()) => drop(seats),
            Err(Unwritten::EndOfGrace) => return Ok(()),
            Err(Unwritten::Refused(refused)) => {
                background_error!(TASK, refused, reports = written, "reports of webhooks were refused");
                for ((report, lag), seat) in reports.into_iter().zip(lags).zip(seats) {
                    alone.begin(TASK, settler.clone().write_alone(Attempted { report, lag, seat })).await;
                }
            }
        }
        gather.after(written).await;
    }
    Ok(())
}

#[derive(Clone)]
struct Settler {
    store: Store,
    worker: Arc<Worker>,
}

enum Unwritten {
    Refused(StoreError),
    EndOfGrace,
}

impl Settler {
    /// Writes one report. If Postgres refuses it, writes it without the receiver's answer. If that is refused too, the claim
    /// lapses, and the webhook is sent again.
    async fn write_alone(self, attempted: Attempted) {
        let Attempted { report, lag, seat: _seat } = attempted;
        let (job, seq) = (report.job, report.seq);
        let Err(Unwritten::Refused(refused)) =
            self.write(from_ref(&report), &[lag], Tries::of_a_row_alone()).await
        else {
            return;
        };
        background_error!(TASK, refused, job.id = %job, seq, "a report was refused; it is written without the answer");
        let report = DeliveryReport { status: None, response: None, ..report };
        let written = self.write(from_ref(&report), &[lag], Tries::default()).await;
        if let Err(Unwritten::Refused(refused)) = written {
            background_error!(TASK, refused, job.id = %job, seq, "the report was refused without the answer too; the webhook is sent again");
        }
    }

    /// Writes until Postgres takes or refuses the reports. Repeating is safe: the store recognises reports that it has.
    async fn write(
        &self,
        reports: &[DeliveryReport],
        lags: &[Option<Duration>],
        mut tries: Tries,
    ) -> Result<(), Unwritten> {
        loop {
            let error = match tries.store(&self.store).settle_deliveries(reports).await {
                Ok(settled) => {
                    for ((report, lag), settled) in reports.iter().zip(lags).zip(settled) {
                        record(report, *lag, settled);
                    }
                    return Ok(());
                }
                Err(error) => error,
            };
            tokio::select! {
                // First, also at the end of the grace: after a refusal the other reports of the batch may still be written.
                biased;
                told = tries.failed(TASK, error) => told.map_err(Unwritten::Refused)?,
                () = self.worker.shutdown.hard().cancelled() => return Err(Unwritten::EndOfGrace),
            }
        }
    }
}

fn record(report: &DeliveryReport, lag: Option<Duration>, settled: ReportSettled) {
    if settled == ReportSettled::Stale {
        counter!(STALE_WRITES.name).increment(1);
        tracing::warn!(job.id = %report.job, seq = report.seq, "a webhook's claim had lapsed; it is sent again");
        return;
    }
    let (outcome, code) = match report.outcome {
        DeliveryOutcome::Delivered => ("delivered", "2xx"),
        DeliveryOutcome::Retry { code, .. } => ("retry", code),
        DeliveryOutcome::Failed { code } => ("failed", code),
        DeliveryOutcome::Release { .. } => match report.news {
            LaneNews::Failed { code, .. } => ("probed", code),
            LaneNews::Unknown | LaneNews::Succeeded | LaneNews::SucceededWithoutEnd => return,
        },
    };
    counter!(DELIVERIES.name, "outcome" => outcome, "code" => code).increment(1);
    let took = report.ended.saturating_duration_since(report.started);
    histogram!(ATTEMPT_SECONDS.name).record(took.as_secs_f64());
    match (report.outcome, lag) {
        (DeliveryOutcome::Delivered, Some(lag)) => histogram!(LAG_SECONDS.name).record(lag.as_secs_f64()),
        (DeliveryOutcome::Failed { code }, _) => {
            tracing::warn!(job.id = %report.job, seq = report.seq, attempt = report.attempt, code, "a webhook is given up");
        }
        _ => {}
    }
}
