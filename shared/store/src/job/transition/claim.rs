//! Claims ready jobs for the worker that holds a host: each job moves from the queue to a lease with a number of its
//! own.
//!
//! Must never hand a job to a worker that has lost its host.

use chrono::{DateTime, Utc};

use crate::db::connect::Store;
use crate::db::error::StoreError;
use crate::db::wake::Write;
use crate::id::{ApiId, ClientId, JobId, LeaseNo};
use crate::job::lease::{Holder, Lease};
use crate::job::state::Phase;

/// A claim brings the body of a job along if it has at most this many bytes, as most bodies have. Larger bodies are
/// read separately ([`Store::job_body`]), so that no claim takes long on a slow line.
const BODY_WITH_CLAIM: usize = 64 << 10;
/// The same limit for all bodies of one claim together.
const BODIES_WITH_CLAIM: usize = 2 << 20;

/// How many jobs a claim may take from one client at one priority. The claim serves its offers in the given order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    pub client: ClientId,
    pub priority: i16,
    /// No claimable job of this group has a smaller id. The claim starts here to skip the index entries of jobs long
    /// gone.
    pub lower_bound: JobId,
    pub at_most: i32,
}

/// A claimed job, with everything that is needed to run it, except a large body.
#[derive(Debug)]
pub struct Claimed {
    pub lease: Lease,
    pub client: ClientId,
    /// The api process whose caller waits for the answer.
    pub api: Option<ApiId>,
    pub attempt: i32,
    pub failures: i16,
    /// `None` uses the worker's setting.
    pub max_attempts: Option<i16>,
    pub priority: i16,
    pub load_key: String,
    pub model_label: String,
    pub path: String,
    /// The size of the body.
    pub bytes: u32,
    /// `None` for a large body, which [`Store::job_body`](crate::Store::job_body) reads.
    pub body: Option<String>,
    /// Whether the claim has also recorded that the job begins.
    pub begun: bool,
    pub traceparent: Option<String>,
    pub eligible_at: DateTime<Utc>,
}

impl Store {
    /// Takes ready jobs of one load key: the offers in their order, within each offer the oldest jobs first, at most
    /// `limit` jobs.
    ///
    /// The same statement proves that the worker lives and holds the host. So an empty answer may also mean that it
    /// does not.
    pub async fn claim(
        &self,
        holder: &Holder,
        load_key: &str,
        offers: &[Offer],
        limit: usize,
    ) -> Result<Vec<Claimed>, StoreError> {
        self.take(holder, load_key, offers, limit, Phase::Held).await
    }

    /// Like [`claim`](Self::claim), for jobs that are sent as soon as the answer arrives: they are `working` at once,
    /// as if [`begin`](Self::begin) had followed in the same moment. This saves a commit between a free slot and its
    /// next request. A job whose body must still be read is only held ([`Claimed::begun`] is false).
    pub async fn claim_and_begin(
        &self,
        holder: &Holder,
        load_key: &str,
        offers: &[Offer],
        limit: usize,
    ) -> Result<Vec<Claimed>, StoreError> {
        self.take(holder, load_key, offers, limit, Phase::Working).await
    }

    async fn take(
        &self,
        holder: &Holder,
        load_key: &str,
        offers: &[Offer],
        limit: usize,
        phase: Phase,
    ) -> Result<Vec<Claimed>, StoreError> {
        let clients: Vec<_> = offers.iter().map(|offer| offer.client.uuid()).collect();
        let priorities: Vec<_> = offers.iter().map(|offer| offer.priority).collect();
        let bounds: Vec<_> = offers.iter().map(|offer| offer.lower_bound.uuid()).collect();
        let quotas: Vec<_> = offers.iter().map(|offer| offer.at_most).collect();
        let body_at_most = BODY_WITH_CLAIM.min(BODIES_WITH_CLAIM / limit.max(1));
        // The key-share locks on the two rows exclude a rescue and a change of holder during this claim, because both
        // lock the row FOR UPDATE first.
        let rows = sqlx::query!(
            r#"-- claim_jobs
            WITH holder AS MATERIALIZED (
                SELECT w.id FROM worker w JOIN host h ON h.holder = w.id
                WHERE w.id = $1 AND h.id = $2 AND h.fence = $3
                FOR KEY SHARE
            ), picked AS MATERIALIZED (
                SELECT r.client_id, r.job_id, offer.turn
                FROM holder
                CROSS JOIN unnest($4::uuid[], $5::smallint[], $6::uuid[], $7::integer[])
                    WITH ORDINALITY AS offer (client_id, priority, lower_bound, at_most, turn)
                CROSS JOIN LATERAL (
                    SELECT q.client_id, q.job_id FROM job_ready q
                    WHERE q.load_key = $8 AND q.client_id = offer.client_id AND q.priority = offer.priority
                      AND q.job_id >= offer.lower_bound AND q.expires_at > clock_timestamp()
                    ORDER BY q.job_id LIMIT offer.at_most FOR UPDATE SKIP LOCKED
                ) AS r
                ORDER BY offer.turn, r.job_id LIMIT $9
            ), taken AS (
                DELETE FROM job_ready r USING picked p
                WHERE r.client_id = p.client_id AND r.job_id = p.job_id
                RETURNING r.*, p.turn
            ), leased AS (
                -- Lease numbers follow the order of the offers, and the answer is sorted by them.
                INSERT INTO job_lease (job_id, client_id, lease_no, worker_id, phase, load_key, priority, attempt,
                                       failures, rescues, seq, bytes, eligible_at, expires_at, loading_at, working_at)
                SELECT job_id, client_id, nextval('lease_no'), $1, phase, load_key, priority, attempt + 1, failures,
                       rescues, seq + CASE phase WHEN 'working' THEN 2 ELSE 0 END, bytes, eligible_at, expires_at,
                       CASE phase WHEN 'working' THEN clock_timestamp() END,
                       CASE phase WHEN 'working' THEN clock_timestamp() END
                FROM (SELECT *, CASE WHEN bytes <= $11 THEN $10 ELSE 'held' END AS phase
                      FROM taken ORDER BY turn, job_id) AS t
                RETURNING *
            ), noted AS (
                INSERT INTO outbox (job_id, seq, attempt, state, previous_state, at)
                SELECT job_id, seq - 1, attempt, 'loading', 'queued', loading_at FROM leased WHERE phase = 'working'
                UNION ALL
                SELECT job_id, seq, attempt, 'working', 'loading', working_at FROM leased WHERE phase = 'working'
                ORDER BY 1, 2
            )
            SELECT l.job_id AS "job_id: JobId", l.lease_no AS "lease_no: LeaseNo", l.attempt, l.failures,
                   l.client_id AS "client_id: ClientId", l.priority, l.eligible_at, l.phase = 'working' AS "begun!",
                   l.bytes, CASE WHEN l.bytes <= $11 THEN j.body END AS body,
                   j.load_key, j.model_label, j.path, j.max_attempts, j.traceparent,
                   j.api_id AS "api: ApiId"
            FROM leased l JOIN job j ON j.id = l.job_id
            ORDER BY l.lease_no"#,
            holder.worker.uuid(),                            // $1 worker
            holder.host,                                     // $2 host
            holder.fence,                                    // $3 fence
            &clients,                                        // $4 client_id
            &priorities,                                     // $5 priority
            &bounds,                                         // $6 lower_bound
            &quotas,                                         // $7 at_most
            load_key,                                        // $8 load_key
            i64::try_from(limit).unwrap_or(i64::MAX),        // $9 limit
            phase.as_str(),                                  // $10 phase
            i32::try_from(body_at_most).unwrap_or(i32::MAX), // $11 body_at_most
        )
        .fetch_all(self.once())
        .await?;
        if phase == Phase::Working && !rows.is_empty() {
            self.tell([Write::Begun]);
        }
        Ok(rows
            .into_iter()
            .map(|row| Claimed {
                lease: Lease { job_id: row.job_id, no: row.lease_no },
                client: row.client_id,
                api: row.api,
                attempt: row.attempt,
                failures: row.failures,
                max_attempts: row.max_attempts,
                priority: row.priority,
                load_key: row.load_key,
                model_label: row.model_label,
                path: row.path,
                bytes: row.bytes.unsigned_abs(),
                body: row.body,
                begun: row.begun,
                traceparent: row.traceparent,
                eligible_at: row.eligible_at,
            })
            .collect())
    }
}
