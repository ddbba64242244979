//! Requeues the jobs of dead workers.
//!
//! Must never take a lease from a worker that has renewed its row since it was seen.

use std::time::Duration;

use crate::db::connect::Store;
use crate::db::error::StoreError;
use crate::db::wake::Write;
use crate::fleet::heartbeat::{Heartbeat, dead_columns};
use crate::id::WorkerId;

/// How often a job may lose its worker before the job counts as the cause: the fifth rescue fails it.
pub const MAX_RESCUES: i16 = 5;

/// What a rescue found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rescued {
    /// Workers that were dead.
    pub workers: usize,
    /// Leases that were taken from them.
    pub leases: usize,
}

/// How long a sync call waits after it has lost its worker in the middle of its run. Its api looks at its calls more than
/// once in this time, and renews its row.
const CALLS_WAIT: Duration = Duration::from_secs(1);

impl Store {
    /// Requeues the leases of the `dead` workers, except those that have renewed since they were seen, and the leases
    /// that have no worker row. It is one transaction, which locks the rows of the dead workers first, so that none
    /// of them can claim meanwhile.
    ///
    /// A lease that may begin counts as one that has begun: its holder may have sent the request and died before it could
    /// record that.
    ///
    /// A sync call that was, or may have been, `working` is requeued only while its api lives by its own row, and cancelled otherwise: its
    /// caller may have got bytes, so it may run again only if an api is left that can cancel it. It waits for
    /// a moment first, so that its api sees it leave the worker and cancels it in time. If the api has not renewed in the
    /// last moment, it may have died together with the worker: then the call waits until a janitor has decided that.
    /// Postgres' clock decides here whether the api lives. A clock that was set can at worst cancel a call that lost its worker.
    pub async fn rescue(&self, dead: &[Heartbeat<WorkerId>]) -> Result<Rescued, StoreError> {
        let (dead, seen) = dead_columns(dead);
        let mut conn = self.open_transaction().await?;
        let dead = sqlx::query_scalar!(
            "-- lock_dead_workers
            SELECT w.id FROM worker w
            JOIN unnest($1::uuid[], $2::timestamptz[]) AS dead (id, renewed_at)
              ON dead.id = w.id AND dead.renewed_at = w.renewed_at
            ORDER BY w.id FOR UPDATE OF w SKIP LOCKED",
            &dead,
            &seen,
        )
        .fetch_all(&mut conn)
        .await?;
        let leases = sqlx::query!(
            r#"-- rescue_leases
            WITH orphaned AS MATERIALIZED (
                SELECT l.job_id FROM job_lease l
                WHERE l.worker_id = ANY($1) OR NOT EXISTS (SELECT FROM worker w WHERE w.id = l.worker_id)
                ORDER BY l.job_id FOR UPDATE SKIP LOCKED
            ), gone AS (
                DELETE FROM job_lease l USING orphaned o WHERE l.job_id = o.job_id
                RETURNING l.*, (l.phase <> 'held')::integer AS had_begun,
                          (l.phase <> 'held' OR l.may_begin)::integer AS may_have_run, clock_timestamp() AS at,
                          CASE l.phase WHEN 'held' THEN 'queued' ELSE l.phase END AS left_state
            ), fate AS (
                SELECT gone.*, (phase = 'working' OR may_begin) AND EXISTS (
                           SELECT FROM job j WHERE j.id = gone.job_id AND j.api_id IS NOT NULL) AS may_have_spoken,
                       CASE WHEN cancel THEN 'cancelled'
                                    WHEN (phase = 'working' OR may_begin) AND EXISTS (
                                        SELECT FROM job j WHERE j.id = gone.job_id AND j.api_id IS NOT NULL
                                          AND NOT EXISTS (
                                              SELECT FROM api_process a WHERE a.id = j.api_id
                                                AND clock_timestamp() BETWEEN a.renewed_at - a.ttl AND a.renewed_at + a.ttl)
                                    ) THEN 'cancelled'
                                    WHEN rescues + may_have_run >= $2 THEN 'failed'
                                    ELSE 'queued' END AS state
                FROM gone
            ), requeued AS (
                INSERT INTO job_ready (client_id, job_id, load_key, user_name, priority, sync, attempt, failures, rescues, seq, bytes,
                                       eligible_at, expires_at)
                SELECT client_id, job_id, load_key, user_name, priority, sync, attempt, failures, rescues + may_have_run, seq + had_begun,
                       bytes, eligible_at, expires_at
                FROM fate WHERE state = 'queued' AND NOT may_have_spoken
            ), delayed AS (
                INSERT INTO job_scheduled (client_id, job_id, load_key, user_name, priority, sync, attempt, failures, rescues, seq, bytes,
                                           due_at, eligible_at, expires_at)
                SELECT client_id, job_id, load_key, user_name, priority, sync, attempt, failures, rescues + may_have_run, seq + had_begun,
                       bytes, greatest(at + make_interval(secs => $4), (
                           SELECT a.renewed_at + a.ttl + make_interval(secs => 2 * $4)
                           FROM job j JOIN api_process a ON a.id = j.api_id
                           WHERE j.id = fate.job_id AND a.renewed_at < at - make_interval(secs => $4))),
                       eligible_at, expires_at
                FROM fate WHERE state = 'queued' AND may_have_spoken
            ), ended AS (
                INSERT INTO job_done (job_id, client_id, state, lease_no, seq, attempt, failures, rescues, error,
                                      error_code, eligible_at, loading_at, working_at, completed_at)
                SELECT job_id, client_id, state, NULL, seq + 1, attempt, failures, rescues + may_have_run,
                       CASE state WHEN 'failed' THEN $3 END, CASE state WHEN 'failed' THEN 'worker_lost' END,
                       eligible_at, loading_at, working_at, at
                FROM fate WHERE state <> 'queued'
            ), used AS (
                -- Nobody knows how long the lost attempts have run.
                INSERT INTO usage_entry (hour, client_id, user_name, model, failed, cancelled)
                SELECT date_trunc('hour', at, 'UTC'), client_id, user_name, split_part(load_key, ' ', 1),
                       count(*) FILTER (WHERE state = 'failed'), count(*) FILTER (WHERE state = 'cancelled')
                FROM fate WHERE state <> 'queued' GROUP BY 1, 2, 3, 4
            ), noted AS (
                INSERT INTO outbox (job_id, seq, attempt, state, previous_state, error, at)
                SELECT job_id, seq + 1, attempt, state, left_state,
                       CASE state WHEN 'failed' THEN $3 WHEN 'queued' THEN 'the worker that ran the job is gone' END, at
                FROM fate WHERE state <> 'queued' OR had_begun = 1
                ORDER BY job_id
            )
            SELECT job_id FROM gone"#,
            &dead,
            i32::from(MAX_RESCUES),
            format!("the job lost its worker {MAX_RESCUES} times while it ran; check what the job does to the machine with the GPU"),
            CALLS_WAIT.as_secs_f64(),
        )
        .fetch_all(&mut conn)
        .await?;
        sqlx::query!(
            "-- bury_workers
            DELETE FROM worker WHERE id = ANY($1)",
            &dead
        )
        .execute(&mut conn)
        .await?;
        conn.done().await?;
        let rescued = Rescued { workers: dead.len(), leases: leases.len() };
        if rescued != Rescued::default() {
            self.tell([Write::Rescued]);
        }
        Ok(rescued)
    }
}
