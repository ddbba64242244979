//! Writes the reports of attempts to deliver, in batches. A report is written only under the number of its claim.

use std::time::{Duration, Instant};

use crate::db::conn::Conn;
use crate::db::connect::Store;
use crate::db::error::StoreError;
use crate::db::wake::Write;
use crate::id::{DeliveryId, EndpointId, JobId};
use crate::job::state::JobState;
use crate::webhook::claim::DeliveryClaim;
use crate::webhook::lane::OPENS_AT;
use crate::webhook::lane_news::{LaneNews, of_lanes};
use crate::webhook::receiver::Receiver;

/// One attempt that is over.
#[derive(Debug)]
pub struct DeliveryReport {
    pub claim: DeliveryClaim,
    pub job: JobId,
    pub seq: i32,
    pub receiver: Receiver,
    /// The state that the webhook tells of.
    pub event: JobState,
    /// The number of the attempt.
    pub attempt: i16,
    pub started: Instant,
    pub ended: Instant,
    pub status: Option<u16>,
    /// The first bytes of the answer.
    pub response: Option<Vec<u8>>,
    pub outcome: DeliveryOutcome,
    /// What it says of the receiver.
    pub news: LaneNews,
    /// Whether the attempt tried out a lane that was held back.
    pub is_probe: bool,
}

/// What follows from an attempt. A registered endpoint that answered `gone` is disabled with the report, and gathers its
/// webhooks from then on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryOutcome {
    Delivered,
    /// Try again this long after the end of this attempt.
    Retry {
        wait: Duration,
        code: &'static str,
    },
    Failed {
        code: &'static str,
    },
    /// It was not sent, for a reason of ours, or it tried out an open lane in vain. The attempt is neither counted nor logged.
    /// Try again after the wait.
    Release {
        wait: Duration,
    },
}

/// What became of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReportSettled {
    Written,
    /// It was written before: the answer to an earlier COMMIT was lost.
    Already,
    /// The claim has lapsed, and another dispatcher may have the delivery. Nothing was written. The caller counts these.
    Stale,
}

impl DeliveryOutcome {
    fn outcome(&self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Retry { .. } => "retry",
            Self::Failed { .. } => "failed",
            Self::Release { .. } => "release",
        }
    }

    fn code(&self) -> Option<&'static str> {
        match self {
            Self::Retry { code, .. } | Self::Failed { code } => Some(code),
            Self::Delivered | Self::Release { .. } => None,
        }
    }

    fn wait(&self) -> Option<Duration> {
        match self {
            Self::Retry { wait, .. } | Self::Release { wait } => Some(*wait),
            Self::Delivered | Self::Failed { .. } => None,
        }
    }
}

impl Store {
    /// Writes reports in one statement, and answers in their order. After an error whose outcome is unknown, call it again
    /// with the same reports.
    pub async fn settle_deliveries(
        &self,
        reports: &[DeliveryReport],
    ) -> Result<Vec<ReportSettled>, StoreError> {
        let mut conn = self.open().await?;
        let written = write_reports(&mut conn, reports).await?;
        conn.done().await?;
        // Tell also of reports that were written before: the call that wrote them may have failed before it told.
        if reports.iter().any(frees_another) {
            self.tell([Write::Reported]);
        }
        let missing: Vec<&DeliveryReport> =
            reports.iter().filter(|report| !written.contains(&report.claim.id)).collect();
        let already = if missing.is_empty() { Vec::new() } else { self.reported_already(&missing).await? };
        Ok(reports
            .iter()
            .map(|report| match report.claim.id {
                id if written.contains(&id) => ReportSettled::Written,
                id if already.contains(&id) => ReportSettled::Already,
                // Nothing was sent, so the present holder of the delivery misses nothing.
                _ if matches!(report.outcome, DeliveryOutcome::Release { .. }) => ReportSettled::Already,
                _ => ReportSettled::Stale,
            })
            .collect())
    }

    /// Which of these attempts are in the log with the report of their own dispatcher.
    async fn reported_already(&self, reports: &[&DeliveryReport]) -> Result<Vec<DeliveryId>, StoreError> {
        let jobs: Vec<_> = reports.iter().map(|report| report.job.uuid()).collect();
        let ids: Vec<_> = reports.iter().map(|report| report.claim.id.uuid()).collect();
        let attempts: Vec<_> = reports.iter().map(|report| report.attempt).collect();
        let found = sqlx::query_scalar!(
            r#"-- reported_already
            SELECT a.delivery_id AS "id: DeliveryId"
            FROM unnest($1::uuid[], $2::uuid[], $3::smallint[]) AS r (job_id, delivery_id, attempt)
            JOIN webhook_attempt a
              ON a.job_id = r.job_id AND a.delivery_id = r.delivery_id AND a.attempt = r.attempt
            WHERE a.error_code IS DISTINCT FROM 'dispatcher_lost'"#,
            &jobs,
            &ids,
            &attempts,
        )
        .fetch_all(self.once())
        .await?;
        Ok(found)
    }
}

async fn write_reports(
    conn: &mut Conn,
    reports: &[DeliveryReport],
) -> Result<std::collections::HashSet<DeliveryId>, StoreError> {
    // A wait runs from the end of the attempt. Since then the report has waited for this statement.
    let now = Instant::now();
    let ago = |moment: Instant| now.saturating_duration_since(moment).as_secs_f64();
    // Dispatchers claim from a lower bound on. A time in the past may lie below it, where only their rare looks without a
    // bound would find it.
    let wait =
        |report: &DeliveryReport| Some((report.outcome.wait()?.as_secs_f64() - ago(report.ended)).max(0.0));
    let lanes = of_lanes(reports.iter().map(|report| {
        let Receiver { lane, endpoint, url, .. } = &report.receiver;
        ((*lane, endpoint.map(|_| url.as_str())), report.news, report.is_probe)
    }));
    let ids: Vec<_> = reports.iter().map(|report| report.claim.id.uuid()).collect();
    let numbers: Vec<_> = reports.iter().map(|report| report.claim.no).collect();
    let outcomes: Vec<_> = reports.iter().map(|report| report.outcome.outcome()).collect();
    let statuses: Vec<_> = reports.iter().map(|report| report.status.map(|status| status as i16)).collect();
    let codes: Vec<_> = reports.iter().map(|report| report.outcome.code()).collect();
    let latencies: Vec<_> = reports.iter().map(latency_ms).collect();
    let responses: Vec<_> = reports.iter().map(|report| report.response.as_deref()).collect();
    let started_ago: Vec<_> = reports.iter().map(|report| ago(report.started)).collect();
    let waits: Vec<_> = reports.iter().map(wait).collect();
    let urls: Vec<_> = reports.iter().map(|report| report.receiver.url.as_str()).collect();
    let states: Vec<_> = reports.iter().map(|report| report.event.as_str()).collect();
    let endpoints: Vec<_> =
        reports.iter().map(|report| report.receiver.endpoint.map(EndpointId::uuid)).collect();
    let lane_ids: Vec<_> = lanes.iter().map(|lane| lane.id.uuid()).collect();
    let lane_urls: Vec<_> = lanes.iter().map(|lane| lane.url).collect();
    let succeeded: Vec<_> = lanes.iter().map(|lane| lane.succeeded).collect();
    let unproven: Vec<_> = lanes.iter().map(|lane| lane.unproven).collect();
    let failures: Vec<_> = lanes.iter().map(|lane| lane.failures).collect();
    let holds: Vec<_> = lanes.iter().map(|lane| lane.hold.map(|hold| hold.as_secs_f64())).collect();
    let errors: Vec<_> = lanes.iter().map(|lane| lane.last_error).collect();
    let probed: Vec<_> = lanes.iter().map(|lane| lane.probed).collect();
    // In `followers`: when an event must wait for a retry, postpone the job's later events with it, and bring them forward
    // when it has ended. This is for speed only: the claim checks the order itself.
    // In `changed`: lock the lanes in the order of their ids, so that two settlers cannot wait for each other. A lane that
    // goes on as before is left alone. A report that was written before says nothing again, and an answer from an endpoint's
    // former URL says nothing of the new one, unless the URL changes at this very moment. In `news`: only probes make a lane
    // worse than just open, so that many attempts that were under way together do not make it wait for longer. Only a probe
    // ends the time in which a lane is held back.
    let rows = sqlx::query_scalar!(
        r#"-- settle_deliveries
        WITH input AS (
            SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::smallint[], $5::text[], $6::integer[],
                                 $7::bytea[], $8::float8[], $9::float8[], $10::text[], $11::text[], $14::uuid[])
            AS t (id, claim_no, outcome, status, error_code, latency_ms, response, started_ago, wait, url, state,
                  endpoint_id)
        ), held AS MATERIALIZED (
            SELECT i.*, d.job_id, d.lane_id, d.seq, d.attempts, d.redelivery
            FROM input i JOIN webhook_delivery d ON d.id = i.id AND d.claim_no = i.claim_no
            ORDER BY d.id FOR UPDATE OF d
        ), logged AS (
            INSERT INTO webhook_attempt (job_id, delivery_id, attempt, seq, lane_id, endpoint_id, url, state, at, outcome,
                                         status, error_code, latency_ms, response)
            SELECT job_id, id, attempts, seq, lane_id, endpoint_id, url, state, now() - make_interval(secs => started_ago), outcome,
                   status, error_code, latency_ms, response
            FROM held WHERE outcome <> 'release'
        ), ended AS (
            DELETE FROM webhook_delivery d USING held h WHERE d.id = h.id AND h.outcome IN ('delivered', 'failed')
        ), waiting AS (
            UPDATE webhook_delivery d
            SET claim_no = NULL, claimed_at = NULL, claimed_until = NULL,
                attempts = d.attempts - (h.outcome = 'release')::integer,
                next_attempt_at = now() + make_interval(secs => h.wait)
            FROM held h WHERE d.id = h.id AND h.outcome IN ('retry', 'release')
            RETURNING d.job_id, d.lane_id, d.seq, d.redelivery, d.next_attempt_at
        ), leader AS (
            SELECT job_id, lane_id, seq, true AS waits, next_attempt_at AS until FROM waiting WHERE NOT redelivery
            UNION ALL
            SELECT job_id, lane_id, seq, false, now() FROM held
            WHERE outcome IN ('delivered', 'failed') AND NOT redelivery
        ), followers AS (
            UPDATE webhook_delivery f SET next_attempt_at = l.until
            FROM leader l
            WHERE f.job_id = l.job_id AND f.seq > l.seq AND (f.lane_id = l.lane_id) IS TRUE
              AND f.claim_no IS NULL AND NOT f.redelivery
              AND CASE WHEN l.waits THEN f.next_attempt_at < l.until
                       ELSE f.next_attempt_at > l.until AND f.attempts = 0 END
        ), changed AS MATERIALIZED (
            SELECT l.id, l.not_before, l.healthy, n.succeeded, n.hold, n.last_error, n.probed, n.failures > 0 AS failed, n.unproven,
                   CASE WHEN n.succeeded THEN n.failures
                        WHEN n.probed THEN l.failures + n.failures
                        ELSE least(l.failures + n.failures, greatest(l.failures, $19)) END AS failures
            FROM unnest($12::uuid[], $13::boolean[], $15::integer[], $16::float8[], $17::text[], $18::boolean[],
                        $20::boolean[], $21::text[])
                AS n (id, succeeded, failures, hold, last_error, probed, unproven, url)
            JOIN webhook_lane l ON l.id = n.id
            WHERE (n.failures > 0 OR n.unproven OR l.failures > 0 OR l.not_before IS NOT NULL OR l.healthy IS DISTINCT FROM true
                   OR l.last_used_at < now() - interval '1 hour')
              AND n.id IN (SELECT lane_id FROM held)
              AND (n.url IS NULL OR EXISTS (SELECT FROM webhook_endpoint w WHERE w.id = n.id AND w.url = n.url))
            ORDER BY l.id FOR NO KEY UPDATE OF l
        ), lanes AS (
            UPDATE webhook_lane l
            SET failures = c.failures, last_used_at = now(), last_error = coalesce(c.last_error, l.last_error),
                healthy = CASE WHEN c.failures >= 3 THEN false
                               WHEN c.succeeded THEN CASE WHEN NOT c.unproven THEN true END
                               ELSE l.healthy END,
                not_before = CASE
                    WHEN c.failed AND (c.hold IS NOT NULL OR c.failures >= $19)
                        THEN greatest(CASE WHEN c.probed THEN NULL ELSE l.not_before END,
                                      now() + make_interval(secs => c.hold),
                                      CASE WHEN c.failures >= $19
                                           THEN now() + least(interval '5 seconds' * 2 ^ least(c.failures - $19, 10),
                                                              interval '5 minutes') END)
                    WHEN c.probed AND (c.failed OR c.succeeded) THEN NULL
                    WHEN c.probed THEN now()
                    ELSE l.not_before END
            FROM changed c WHERE l.id = c.id
        ), refused_for_ever AS (
            UPDATE webhook_endpoint w SET disabled_at = now(), disabled_because = 'gone', updated_at = now()
            FROM held h WHERE w.id = h.endpoint_id AND w.url = h.url AND h.error_code = 'gone' AND w.disabled_at IS NULL
              AND w.deleted_at IS NULL
        )
        SELECT id AS "id!: DeliveryId" FROM held"#,
        &ids,                           // $1 id
        &numbers,                       // $2 claim_no
        &outcomes as &[&str],           // $3 outcome
        &statuses as &[Option<i16>],    // $4 status
        &codes as &[Option<&str>],      // $5 error_code
        &latencies,                     // $6 latency_ms
        &responses as &[Option<&[u8]>], // $7 response
        &started_ago,                   // $8 started_ago
        &waits as &[Option<f64>],       // $9 wait
        &urls as &[&str],               // $10 url
        &states as &[&str],             // $11 state
        &lane_ids,                      // $12 lane_id
        &succeeded,                     // $13 succeeded
        &endpoints as &[Option<uuid::Uuid>], // $14 endpoint_id
        &failures,                      // $15 failures in a row
        &holds as &[Option<f64>],       // $16 seconds to hold it back
        &errors as &[Option<&str>],     // $17 last_error
        &probed,                        // $18 probed
        OPENS_AT,                       // $19 failures of an open lane
        &unproven,                      // $20 the last success does not prove the lane
        &lane_urls as &[Option<&str>],  // $21 where an endpoint was then
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().collect())
}

/// Whether a webhook may be sent because of this report, at once or after its wait.
fn frees_another(report: &DeliveryReport) -> bool {
    match report.outcome {
        DeliveryOutcome::Delivered | DeliveryOutcome::Failed { .. } => {
            report.is_probe || !report.event.is_terminal()
        }
        DeliveryOutcome::Retry { .. } | DeliveryOutcome::Release { .. } => true,
    }
}

fn latency_ms(report: &DeliveryReport) -> i32 {
    let latency = report.ended.saturating_duration_since(report.started);
    i32::try_from(latency.as_millis()).unwrap_or(i32::MAX)
}
