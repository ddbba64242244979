//! Claims ready jobs for the worker that holds a host: each job moves from the queue to a lease with a number of its
//! own.
//!
//! Must never hand a job to a worker that has lost its host, or for a host that is drained.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::db::connect::Store;
use crate::db::error::StoreError;
use crate::db::wake::Write;
use crate::id::{ApiId, ClientId, JobId, LeaseNo};
use crate::job::lease::{Holder, Lease};
use crate::job::state::Phase;
use crate::job::user_name::UserName;

/// A claim brings the body of a job along if it has at most this many bytes, as most bodies have. Larger bodies are
/// read separately ([`Store::job_body`]), so that no claim takes long on a slow line.
const BODY_WITH_CLAIM: usize = 64 << 10;
/// The same limit for all bodies of one claim together.
const BODIES_WITH_CLAIM: usize = 2 << 20;

/// How many jobs a claim may take from one [`ReadyGroup`](crate::ReadyGroup). The claim serves its offers in the given
/// order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    pub load_key: Arc<str>,
    pub client: ClientId,
    pub user: UserName,
    pub priority: i16,
    pub sync: bool,
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
    pub user: UserName,
    /// Whether it is a sync call, by its row in the queue.
    pub sync: bool,
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
    pub permit: Permit,
    pub traceparent: Option<String>,
    pub eligible_at: DateTime<Utc>,
}

/// What its claim lets the holder of a job do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permit {
    /// The holder must ask with [`begin`](Store::begin) before it sends the job's request.
    Ask,
    /// The holder may send the request within [`AHEAD_FOR`] of the claim, and records with `begin` beside it that the job
    /// works. So a free slot waits for no commit. Until that is recorded, the job is `queued` for everybody outside.
    SendAhead,
    /// The claim has recorded that the job works. The holder sends the request as soon as it hears of the claim. This saves
    /// the commit of `begin`.
    Begun,
}

/// How long [`Permit::SendAhead`] counts, from before the claim was asked. A job must never begin after it has expired, so
/// a job that expires sooner than twice this time gets no such permit.
pub const AHEAD_FOR: Duration = Duration::from_secs(5);

impl Store {
    /// Takes ready jobs: the offers in their order, within each offer the oldest jobs first, at most `limit` jobs. `permit`
    /// is the most that a job gets: one that expires soon is not sent ahead, and one whose body must still be read does not
    /// begin with its claim.
    ///
    /// The same statement proves that the worker lives and holds the host, and that the host is not drained. So an
    /// empty answer may also mean that one of these is not so.
    pub async fn claim(
        &self,
        holder: &Holder,
        offers: &[Offer],
        limit: usize,
        permit: Permit,
    ) -> Result<Vec<Claimed>, StoreError> {
        let load_keys: Vec<&str> = offers.iter().map(|offer| &*offer.load_key).collect();
        let clients: Vec<_> = offers.iter().map(|offer| offer.client.uuid()).collect();
        let users: Vec<_> = offers.iter().map(|offer| offer.user.as_str()).collect();
        let syncs: Vec<_> = offers.iter().map(|offer| offer.sync).collect();
        let priorities: Vec<_> = offers.iter().map(|offer| offer.priority).collect();
        let bounds: Vec<_> = offers.iter().map(|offer| offer.lower_bound.uuid()).collect();
        let quotas: Vec<_> = offers.iter().map(|offer| offer.at_most).collect();
        let phase = if permit == Permit::Begun { Phase::Working } else { Phase::Held };
        let body_at_most = BODY_WITH_CLAIM.min(BODIES_WITH_CLAIM / limit.max(1));
        // The key-share locks on the two rows exclude a rescue, a change of holder and a drain during this claim,
        // because these lock the row FOR UPDATE first.
        let rows = sqlx::query!(
            r#"-- claim_jobs
            WITH holder AS MATERIALIZED (
                SELECT w.id FROM worker w JOIN host h ON h.holder = w.id
                WHERE w.id = $1 AND h.id = $2 AND h.fence = $3 AND h.drained_at IS NULL
                FOR KEY SHARE
            ), picked AS MATERIALIZED (
                SELECT r.client_id, r.job_id, offer.turn
                FROM holder
                CROSS JOIN unnest($4::text[], $5::uuid[], $6::text[], $7::smallint[], $8::boolean[], $9::uuid[], $10::integer[])
                    WITH ORDINALITY AS offer (load_key, client_id, user_name, priority, sync, lower_bound, at_most, turn)
                CROSS JOIN LATERAL (
                    SELECT q.client_id, q.job_id FROM job_ready q
                    WHERE q.load_key = offer.load_key AND q.client_id = offer.client_id AND q.user_name = offer.user_name
                      AND q.priority = offer.priority AND q.sync = offer.sync AND q.job_id >= offer.lower_bound
                      AND q.expires_at > clock_timestamp()
                    ORDER BY q.job_id LIMIT offer.at_most FOR UPDATE SKIP LOCKED
                ) AS r
                ORDER BY offer.turn, r.job_id LIMIT $11
            ), taken AS (
                DELETE FROM job_ready r USING picked p
                WHERE r.client_id = p.client_id AND r.job_id = p.job_id
                RETURNING r.*, p.turn
            ), leased AS (
                -- Lease numbers follow the order of the offers, and the answer is sorted by them.
                INSERT INTO job_lease (job_id, client_id, lease_no, worker_id, phase, load_key, user_name, priority, sync,
                                       attempt, failures, rescues, seq, bytes, eligible_at, expires_at, may_begin,
                                       loading_at, working_at)
                SELECT job_id, client_id, nextval('lease_no'), $1, phase, load_key, user_name, priority, sync,
                       attempt + 1, failures, rescues, seq + CASE phase WHEN 'working' THEN 2 ELSE 0 END, bytes, eligible_at, expires_at,
                       $14 AND expires_at > clock_timestamp() + make_interval(secs => $15),
                       CASE phase WHEN 'working' THEN clock_timestamp() END,
                       CASE phase WHEN 'working' THEN clock_timestamp() END
                FROM (SELECT *, CASE WHEN bytes <= $13 THEN $12 ELSE 'held' END AS phase
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
                   l.client_id AS "client_id: ClientId", l.user_name AS "user: UserName", l.priority, l.sync, l.eligible_at,
                   l.phase = 'working' AS "begun!", l.may_begin,
                   l.bytes, CASE WHEN l.bytes <= $13 THEN j.body END AS body,
                   j.load_key, j.model_label, j.path, j.max_attempts, j.traceparent,
                   j.api_id AS "api: ApiId"
            FROM leased l JOIN job j ON j.id = l.job_id
            ORDER BY l.lease_no"#,
            holder.worker.uuid(),                            // $1 worker
            holder.host,                                     // $2 host
            holder.fence,                                    // $3 fence
            &load_keys as &[&str],                           // $4 load_key
            &clients,                                        // $5 client_id
            &users as &[&str],                               // $6 user_name
            &priorities,                                     // $7 priority
            &syncs,                                          // $8 sync
            &bounds,                                         // $9 lower_bound
            &quotas,                                         // $10 at_most
            i64::try_from(limit).unwrap_or(i64::MAX),        // $11 limit
            phase.as_str(),                                  // $12 phase
            i32::try_from(body_at_most).unwrap_or(i32::MAX), // $13 body_at_most
            permit == Permit::SendAhead,                     // $14 may_begin
            2.0 * AHEAD_FOR.as_secs_f64(),                   // $15 expires_later_than
        )
        .fetch_all(self.once())
        .await?;
        if permit == Permit::Begun && !rows.is_empty() {
            self.tell([Write::Begun]);
        }
        Ok(rows
            .into_iter()
            .map(|row| Claimed {
                lease: Lease { job_id: row.job_id, no: row.lease_no },
                client: row.client_id,
                user: row.user,
                sync: row.sync,
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
                permit: match (row.begun, row.may_begin) {
                    (true, _) => Permit::Begun,
                    (false, true) => Permit::SendAhead,
                    (false, false) => Permit::Ask,
                },
                traceparent: row.traceparent,
                eligible_at: row.eligible_at,
            })
            .collect())
    }
}
