//! Ends leases with the outcome of their jobs: done, failed, to be retried, or back to the queue.
//!
//! Must never accept an outcome under a lease number that is no longer the job's.

use std::{collections::HashMap, time::Duration};

use crate::db::connect::Store;
use crate::db::error::StoreError;
use crate::db::once::Once;
use crate::db::wake::Write;
use crate::id::LeaseNo;
use crate::job::lease::Lease;
use crate::job::state::JobState;
use crate::job::transition::Reason;
use crate::usage::used::Used;

/// How a holder ends its lease of a job.
#[derive(Debug)]
pub enum Exit {
    Done(Completion),
    Failed(Reason),
    /// Another attempt after `wait`. Counts as a failure.
    Retry {
        reason: Reason,
        wait: Duration,
    },
    /// Back to the queue at once. Counts as nothing.
    HandBack {
        reason: Reason,
    },
    Cancelled,
    Expired,
}

impl Exit {
    /// About how many bytes this exit sends to Postgres.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Done(done) => done.completion.len(),
            _ => 0,
        }
    }
}

/// The result of a successful run.
#[derive(Debug)]
pub struct Completion {
    /// The bytes that Ollama would have answered without streaming; for a sync call, the bytes that were given out.
    pub completion: Vec<u8>,
    pub content_type: String,
    pub prompt_tokens: Option<i64>,
    pub completion_tokens: Option<i64>,
}

/// What became of one lease that was to be settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// The job went from the lease to this state. It is `cancelled` if somebody asked for that meanwhile, unless the
    /// job succeeded.
    Into(JobState),
    /// The job's end had been written before under the same number; the answer to that COMMIT was lost.
    Already,
    /// The lease is there no more, or belongs to another holder, so the outcome was not written. Callers count these.
    Stale,
}

impl Store {
    /// Ends leases, each with its own exit, in one statement. The answers stand in the given order. If the outcome is
    /// unknown, call this again with the same exits: nothing is written twice under one number. The end of a job that was
    /// written before is found, and of a job that went back to the queue the answer is [`Settled::Stale`].
    ///
    /// `used` has what the attempts have used, except those that used nothing. It counts together with the exit.
    pub async fn settle(
        &self,
        exits: &[(Lease, Exit)],
        used: &HashMap<LeaseNo, Used>,
    ) -> Result<Vec<Settled>, StoreError> {
        let bytes: usize = exits.iter().map(|(_, exit)| exit.bytes()).sum();
        let left = leave_leases(self.once_for(bytes as u64), exits, used).await?;
        // Wake the waiters even if no lease was found: the answer to the statement that ended it may have been lost.
        self.tell(exits.iter().map(|(_, exit)| left_by(exit)));
        let missing: Vec<&Lease> =
            exits.iter().map(|(lease, _)| lease).filter(|lease| !left.contains_key(&lease.no)).collect();
        let already = if missing.is_empty() { Vec::new() } else { self.settled_already(&missing).await? };
        Ok(exits
            .iter()
            .map(|(lease, _)| match left.get(&lease.no) {
                Some(state) => Settled::Into(*state),
                None if already.contains(&lease.no) => Settled::Already,
                None => Settled::Stale,
            })
            .collect())
    }

    /// Which of these leases have an outcome in `job_done` under their own number.
    async fn settled_already(&self, leases: &[&Lease]) -> Result<Vec<LeaseNo>, StoreError> {
        let ids: Vec<_> = leases.iter().map(|lease| lease.job_id.uuid()).collect();
        let numbers: Vec<_> = leases.iter().map(|lease| lease.no.0).collect();
        let found = sqlx::query_scalar!(
            r#"-- settled_already
            SELECT d.lease_no AS "lease_no!: LeaseNo"
            FROM unnest($1::uuid[], $2::bigint[]) AS l (job_id, lease_no)
            JOIN job_done d ON d.job_id = l.job_id AND d.lease_no = l.lease_no"#,
            &ids,
            &numbers,
        )
        .fetch_all(self.once())
        .await?;
        Ok(found)
    }
}

fn left_by(exit: &Exit) -> Write {
    match exit {
        Exit::Done(_) | Exit::Failed(_) | Exit::Cancelled | Exit::Expired => Write::Ended,
        Exit::Retry { .. } => Write::PutOff,
        Exit::HandBack { .. } => Write::HandedBack,
    }
}

/// An exit in the form in which Postgres gets it.
struct ExitRow<'a> {
    /// The state to which the exit leads if nobody asked for a cancel.
    to: &'static str,
    /// Set for `Retry`, not for `HandBack`.
    wait: Option<Duration>,
    counts: i16,
    reason: Option<&'a Reason>,
    completion: Option<&'a Completion>,
}

impl<'a> From<&'a Exit> for ExitRow<'a> {
    fn from(exit: &'a Exit) -> Self {
        let row = Self { to: "queued", wait: None, counts: 0, reason: None, completion: None };
        match exit {
            Exit::Done(completion) => Self { to: "done", completion: Some(completion), ..row },
            Exit::Failed(reason) => Self { to: "failed", counts: 1, reason: Some(reason), ..row },
            Exit::Retry { reason, wait } => {
                Self { wait: Some(*wait), counts: 1, reason: Some(reason), ..row }
            }
            Exit::HandBack { reason } => Self { reason: Some(reason), ..row },
            Exit::Cancelled => Self { to: "cancelled", ..row },
            Exit::Expired => Self { to: "expired", ..row },
        }
    }
}

/// Deletes the leases that still belong to their holders, and writes what follows from the deleted rows. Returns the
/// new state by lease number, not by job: a batch may contain a stale lease and a valid lease of the same job.
async fn leave_leases(
    once: Once<'_>,
    exits: &[(Lease, Exit)],
    used: &HashMap<LeaseNo, Used>,
) -> Result<HashMap<LeaseNo, JobState>, StoreError> {
    use sha2::{Digest, Sha256};
    let ids: Vec<_> = exits.iter().map(|(lease, _)| lease.job_id.uuid()).collect();
    let numbers: Vec<_> = exits.iter().map(|(lease, _)| lease.no.0).collect();
    let rows: Vec<ExitRow<'_>> = exits.iter().map(|(_, exit)| exit.into()).collect();
    let to: Vec<_> = rows.iter().map(|row| row.to).collect();
    let waits: Vec<_> = rows.iter().map(|row| row.wait.map(|wait| wait.as_secs_f64())).collect();
    let counts: Vec<_> = rows.iter().map(|row| row.counts).collect();
    let errors: Vec<_> = rows.iter().map(|row| row.reason.map(|reason| reason.error.as_str())).collect();
    let codes: Vec<_> = rows.iter().map(|row| row.reason.map(|reason| reason.code.as_str())).collect();
    let data: Vec<_> = rows.iter().map(|row| row.completion.map(|done| done.completion.as_slice())).collect();
    let content_types: Vec<_> =
        rows.iter().map(|row| row.completion.map(|done| done.content_type.as_str())).collect();
    let digests: Vec<_> = data.iter().map(|data| data.map(|data| Sha256::digest(data).to_vec())).collect();
    let prompt: Vec<_> = rows.iter().map(|row| row.completion.and_then(|done| done.prompt_tokens)).collect();
    let completion: Vec<_> =
        rows.iter().map(|row| row.completion.and_then(|done| done.completion_tokens)).collect();
    let used: Vec<_> =
        exits.iter().map(|(lease, _)| used.get(&lease.no).copied().unwrap_or_default()).collect();
    let gpu: Vec<_> = used.iter().map(|used| used.gpu.as_secs_f64()).collect();
    let loads: Vec<_> = used.iter().map(|used| used.loads).collect();
    let contexts: Vec<_> = used.iter().map(|used| used.context).collect();
    let rows = sqlx::query!(
        r#"-- leave_leases
        WITH input AS (
            SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::float8[], $5::smallint[], $6::text[],
                                 $7::text[], $8::bytea[], $9::bytea[], $10::bigint[], $11::bigint[],
                                 $12::text[], $13::float8[], $14::integer[], $15::bigint[])
            AS t (job_id, lease_no, wanted, wait, counts, error, error_code, data, sha256, prompt_tokens,
                  completion_tokens, content_type, gpu_seconds, loads, context)
        ), locked AS MATERIALIZED (
            SELECT i.* FROM job_lease l JOIN input i ON i.job_id = l.job_id AND i.lease_no = l.lease_no
            ORDER BY l.job_id FOR UPDATE OF l
        ), gone AS (
            DELETE FROM job_lease l USING locked k WHERE l.job_id = k.job_id AND l.lease_no = k.lease_no
            RETURNING l.*, k.wanted, k.wait, k.counts, k.error, k.error_code, k.data, k.sha256, k.prompt_tokens,
                      k.completion_tokens, k.content_type, k.gpu_seconds, k.loads, k.context
        ), fate AS MATERIALIZED (
            SELECT g.job_id, g.client_id, g.lease_no, g.load_key, g.user_name, g.priority, g.sync, g.attempt, g.rescues, g.seq, g.bytes,
                   g.eligible_at, g.expires_at, g.loading_at, g.working_at, clock_timestamp() AS at,
                   CASE WHEN g.wanted = 'done' THEN 'done' WHEN g.cancel THEN 'cancelled' ELSE g.wanted END AS state,
                   CASE g.phase WHEN 'held' THEN 'queued' ELSE g.phase END AS left_state,
                   -- A held job that goes back was `queued` for everybody outside all along.
                   (g.phase <> 'held' OR g.cancel OR g.wanted <> 'queued')::integer AS noted,
                   CASE WHEN g.cancel AND g.wanted <> 'done' THEN 0 ELSE g.counts END + g.failures AS failures,
                   CASE WHEN g.cancel AND g.wanted <> 'done' THEN NULL ELSE g.error END AS error,
                   CASE WHEN g.cancel AND g.wanted <> 'done' THEN NULL ELSE g.error_code END AS error_code,
                   g.wait, g.data, g.sha256, g.prompt_tokens, g.completion_tokens, g.content_type,
                   g.gpu_seconds, g.loads,
                   CASE WHEN g.phase = 'working' THEN g.context END AS context
            FROM gone g
        ), ended AS (
            INSERT INTO job_done (job_id, client_id, state, lease_no, seq, attempt, failures, rescues, error, error_code,
                                  prompt_tokens, completion_tokens, context, eligible_at, loading_at, working_at,
                                  completed_at)
            SELECT job_id, client_id, state, lease_no, seq + 1, attempt, failures, rescues, error, error_code,
                   prompt_tokens, completion_tokens, context, eligible_at, loading_at, working_at, at
            FROM fate WHERE state <> 'queued'
        ), kept AS (
            INSERT INTO artifact (job_id, name, attempt, content_type, size, sha256, data)
            SELECT job_id, 'completion', attempt, content_type, octet_length(data), sha256, data
            FROM fate WHERE state = 'done'
        ), waiting AS (
            INSERT INTO job_scheduled (client_id, job_id, load_key, user_name, priority, sync, attempt, failures, rescues, seq, bytes,
                                       due_at, eligible_at, expires_at)
            SELECT client_id, job_id, load_key, user_name, priority, sync, attempt, failures, rescues, seq + noted, bytes,
                   at + make_interval(secs => wait), eligible_at, expires_at
            FROM fate WHERE state = 'queued' AND wait IS NOT NULL
        ), requeued AS (
            INSERT INTO job_ready (client_id, job_id, load_key, user_name, priority, sync, attempt, failures, rescues, seq, bytes,
                                   eligible_at, expires_at)
            SELECT client_id, job_id, load_key, user_name, priority, sync, attempt, failures, rescues, seq + noted, bytes, eligible_at,
                   expires_at
            FROM fate WHERE state = 'queued' AND wait IS NULL
        ), used AS (
            INSERT INTO usage_entry (hour, client_id, user_name, model, done, failed, cancelled, expired, gpu_seconds,
                                     loads, prompt_tokens, completion_tokens)
            SELECT date_trunc('hour', at, 'UTC'), client_id, user_name, split_part(load_key, ' ', 1),
                   count(*) FILTER (WHERE state = 'done'), count(*) FILTER (WHERE state = 'failed'),
                   count(*) FILTER (WHERE state = 'cancelled'), count(*) FILTER (WHERE state = 'expired'),
                   sum(gpu_seconds), sum(loads), coalesce(sum(prompt_tokens), 0), coalesce(sum(completion_tokens), 0)
            FROM fate WHERE state <> 'queued' OR gpu_seconds > 0 OR loads > 0
            GROUP BY 1, 2, 3, 4
        ), noted AS (
            INSERT INTO outbox (job_id, seq, attempt, state, previous_state, error, at)
            SELECT job_id, seq + 1, attempt, state, left_state, error, at FROM fate WHERE noted = 1 ORDER BY job_id
        )
        SELECT lease_no AS "lease_no: LeaseNo", state AS "state!: JobState" FROM fate"#,
        &ids,                           // $1 job_id
        &numbers,                       // $2 lease_no
        &to as &[&str],                 // $3 wanted
        &waits as &[Option<f64>],       // $4 wait
        &counts,                        // $5 counts
        &errors as &[Option<&str>],     // $6 error
        &codes as &[Option<&str>],      // $7 error_code
        &data as &[Option<&[u8]>],      // $8 data
        &digests as &[Option<Vec<u8>>], // $9 sha256
        &prompt as &[Option<i64>],      // $10 prompt_tokens
        &completion as &[Option<i64>],  // $11 completion_tokens
        &content_types as &[Option<&str>], // $12 content_type
        &gpu,                           // $13 gpu_seconds
        &loads,                         // $14 loads
        &contexts as &[Option<i64>],    // $15 context
    )
    .fetch_all(once)
    .await?;
    Ok(rows.into_iter().map(|row| (row.lease_no, row.state)).collect())
}
