//! Accepts jobs, many in one statement. Of several jobs with one idempotency key it accepts only the first.
//!
//! Must never say that a job was not accepted while the statement that accepts it may still run.

use std::{
    collections::{HashMap, HashSet},
    time::SystemTime,
};

use chrono::{DateTime, Utc};

use super::look_up::Flush;
use crate::db::conn::Conn;
use crate::db::connect::Store;
use crate::db::error::StoreError;
use crate::db::wake::Write;
use crate::id::{ApiId, ClientId, JobId};
use crate::job::new_job::{IDEMPOTENCY_HOURS, NewJob};

/// The answer about one job that was offered to [`Store::accept`](crate::Store::accept).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acceptance {
    /// The job is in the queue.
    Accepted(JobId),
    /// The key was used before, with the same body, for this job.
    Replayed(JobId),
    /// The key was used before with another body.
    KeyReused,
    /// The key was taken, but its holder expired while we looked, or could not be read.
    OfferAgain,
}

/// Why none of the jobs offered to [`Store::accept`](crate::Store::accept) got an answer of its own.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// None of the jobs is in the queue, and none will be.
    #[error(transparent)]
    Not(StoreError),
    /// None of the jobs is in the queue, and none will be. Postgres received them after the latest moment that the
    /// caller allows, by Postgres' own clock.
    #[error(
        "Postgres received the jobs too late to accept them; if this happens again, check its clock and the network to it"
    )]
    Late,
    /// The jobs may be in the queue, or arrive there in a moment. [`Store::look_up`](crate::Store::look_up) finds
    /// out.
    #[error("Postgres gave no answer about the jobs")]
    Unknown {
        #[source]
        error: StoreError,
        flush: Flush,
    },
}

impl Store {
    /// Accepts jobs in one statement, which writes the requests, the waiting rows, the first events and the keys. The
    /// answers stand in the order of `jobs`.
    pub async fn accept(&self, jobs: &[NewJob]) -> Result<Vec<Acceptance>, AcceptError> {
        // Of several jobs of one batch with the same key only the first is offered. The others are answered from the
        // stored key.
        let mut first_with_key: HashMap<(ClientId, &str), JobId> = HashMap::new();
        let offered: Vec<&NewJob> = jobs
            .iter()
            .filter(|job| match &job.idempotency {
                Some(key) => {
                    *first_with_key.entry((job.request.client, &key.key)).or_insert(job.id) == job.id
                }
                None => true,
            })
            .collect();
        let mut won = self.insert(&offered).await?;
        if won.is_none() {
            // Our estimate of Postgres' time was wrong; the answer has corrected it.
            won = self.insert(&offered).await?;
        }
        let won = won.ok_or(AcceptError::Late)?;
        self.tell(offered.iter().filter(|job| won.contains(&job.id)).map(|job| accepted(job)));
        let losers: Vec<&NewJob> = jobs.iter().filter(|job| !won.contains(&job.id)).collect();
        // The other jobs are accepted by now. Their callers must learn that even if this question fails.
        let mut winners = self.key_holders(&losers).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "the holder of an idempotency key could not be read");
            HashMap::new()
        });
        Ok(jobs
            .iter()
            .map(|job| match &job.idempotency {
                _ if won.contains(&job.id) => Acceptance::Accepted(job.id),
                Some(key) => match winners.remove(&job.id) {
                    Some((winner, digest)) if digest == key.body_digest => Acceptance::Replayed(winner),
                    Some(_) => Acceptance::KeyReused,
                    None => Acceptance::OfferAgain,
                },
                None => Acceptance::OfferAgain,
            })
            .collect())
    }

    /// The ids of the accepted jobs, or `None` if Postgres received the jobs too late.
    async fn insert(&self, offered: &[&NewJob]) -> Result<Option<HashSet<JobId>>, AcceptError> {
        let bytes: usize = offered.iter().map(|job| job.request.body.len()).sum();
        let mut conn = self.open_for(bytes as u64).await.map_err(AcceptError::Not)?;
        let until = self.clock().now() + conn.deadline().arrival();
        let flush = Flush {
            lock: offered.first().map_or(0, |job| job.id.uuid().as_u64_pair().1.cast_signed()),
            until,
        };
        let asked = SystemTime::now();
        let inserted = async {
            let inserted = insert_jobs(&mut conn, offered, &flush).await?;
            conn.done().await?;
            Ok::<_, StoreError>(inserted)
        };
        let inserted = inserted.await.map_err(|error| {
            if !error.outcome_is_unknown() {
                return AcceptError::Not(error);
            }
            let until = if error.is_the_last_word() { DateTime::UNIX_EPOCH } else { flush.until };
            AcceptError::Unknown { error, flush: Flush { until, ..flush } }
        })?;
        self.clock().learn(asked, inserted.now);
        Ok(inserted.ids)
    }

    /// For each job whose key was taken: the job that holds the key, and the digest of that job's body.
    async fn key_holders(&self, losers: &[&NewJob]) -> Result<HashMap<JobId, (JobId, Vec<u8>)>, StoreError> {
        if losers.is_empty() {
            return Ok(HashMap::new());
        }
        let ids: Vec<_> = losers.iter().map(|job| job.id.uuid()).collect();
        let clients: Vec<_> = losers.iter().map(|job| job.request.client.uuid()).collect();
        let keys: Vec<_> =
            losers.iter().map(|job| job.idempotency.as_ref().map(|key| key.key.as_str())).collect();
        let rows = sqlx::query!(
            r#"-- key_holders
            SELECT loser.job_id AS "loser!", k.job_id AS winner, k.body_digest
            FROM unnest($1::uuid[], $2::uuid[], $3::text[]) AS loser (job_id, client_id, key)
            JOIN idempotency_key k ON k.client_id = loser.client_id AND k.key = loser.key"#,
            &ids,
            &clients,
            &keys as &[Option<&str>],
        )
        .fetch_all(self.once())
        .await?;
        Ok(rows.into_iter().map(|row| (row.loser.into(), (row.winner.into(), row.body_digest))).collect())
    }
}

fn accepted(job: &NewJob) -> Write {
    if job.run_at.is_none() { Write::Accepted } else { Write::AcceptedForLater }
}

/// The ids of the accepted jobs, unless they arrived too late, and Postgres' time.
struct Inserted {
    ids: Option<HashSet<JobId>>,
    now: DateTime<Utc>,
}

async fn insert_jobs(conn: &mut Conn, jobs: &[&NewJob], flush: &Flush) -> Result<Inserted, StoreError> {
    let column = |of: fn(&NewJob) -> uuid::Uuid| jobs.iter().map(|job| of(job)).collect::<Vec<_>>();
    let texts = |of: fn(&NewJob) -> &str| jobs.iter().map(|job| of(job)).collect::<Vec<_>>();
    let maybe_texts = |of: fn(&NewJob) -> Option<&str>| jobs.iter().map(|job| of(job)).collect::<Vec<_>>();
    let metadata = maybe_texts(|job| job.request.metadata.as_deref());
    let traceparents = maybe_texts(|job| job.traceparent.as_deref());
    let priorities: Vec<_> = jobs.iter().map(|job| job.request.priority).collect();
    let max_attempts: Vec<_> = jobs.iter().map(|job| job.request.max_attempts).collect();
    let run_at: Vec<_> = jobs.iter().map(|job| job.run_at).collect();
    let expires_at: Vec<_> = jobs.iter().map(|job| job.expires_at).collect();
    let retry_of: Vec<_> = jobs.iter().map(|job| job.retry_of.map(JobId::uuid)).collect();
    let apis: Vec<_> = jobs.iter().map(|job| job.api.map(ApiId::uuid)).collect();
    let urls = maybe_texts(|job| Some(job.request.receiver.as_ref()?.url.as_str()));
    let origins = maybe_texts(|job| Some(job.request.receiver.as_ref()?.origin.as_str()));
    let events: Vec<Option<String>> =
        jobs.iter().map(|job| job.request.receiver.as_ref()?.event_names()).collect();
    let lane = |job: &NewJob| Some(job.request.receiver.as_ref()?.lane(job.request.client).uuid());
    let lanes: Vec<Option<uuid::Uuid>> = jobs.iter().map(|job| lane(job)).collect();
    let keys = maybe_texts(|job| Some(job.idempotency.as_ref()?.key.as_str()));
    let digests: Vec<Option<&[u8]>> =
        jobs.iter().map(|job| job.idempotency.as_ref().map(|key| key.body_digest.as_slice())).collect();
    let rows = sqlx::query!(
        r#"-- accept_jobs
        -- Take the lock before reading the time: whoever gets the lock after `until` knows that this flush accepts
        -- nothing any more.
        WITH flush AS MATERIALIZED (
            SELECT pg_advisory_xact_lock($22)
        ), arrived AS MATERIALIZED (
            SELECT clock_timestamp() <= $23 AS in_time FROM flush
        ), input AS (
            SELECT t.* FROM arrived CROSS JOIN unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[],
                                 $8::smallint[], $9::smallint[], $10::text[], $11::text[], $12::uuid[], $13::text[],
                                 $14::text[], $15::timestamptz[], $16::timestamptz[], $17::uuid[], $18::text[],
                                 $19::text[], $20::bytea[], $24::uuid[], $25::text[])
            AS t (job_id, client_id, model, model_label, load_key, path, body, priority, max_attempts, metadata,
                  webhook_url, webhook_lane, webhook_origin, webhook_events, run_at, expires_at, retry_of, traceparent,
                  key, body_digest, api_id, user_name)
            WHERE arrived.in_time
        ), keyed AS (
            INSERT INTO idempotency_key AS k (client_id, key, job_id, body_digest, expires_at)
            SELECT client_id, key, job_id, body_digest, now() + make_interval(hours => $21)
            FROM input WHERE key IS NOT NULL ORDER BY client_id, key
            ON CONFLICT (client_id, key) DO UPDATE
                SET job_id = excluded.job_id, body_digest = excluded.body_digest, expires_at = excluded.expires_at
                WHERE k.expires_at <= now()
            RETURNING job_id
        ), won AS MATERIALIZED (
            SELECT * FROM input WHERE key IS NULL OR job_id IN (SELECT job_id FROM keyed)
        ), requests AS (
            INSERT INTO job (id, client_id, model, model_label, load_key, path, body, priority, max_attempts, metadata,
                             webhook_url, webhook_lane, webhook_origin, webhook_events, run_at, expires_at, retry_of,
                             traceparent, api_id, user_name)
            SELECT job_id, client_id, model, model_label, load_key, path, body, priority, max_attempts, metadata,
                   webhook_url, webhook_lane, webhook_origin, string_to_array(webhook_events, ','), run_at, expires_at,
                   retry_of, traceparent, api_id, user_name
            FROM won
        ), ready AS (
            INSERT INTO job_ready (client_id, job_id, load_key, user_name, priority, sync, seq, bytes, eligible_at, expires_at)
            SELECT client_id, job_id, load_key, user_name, priority, api_id IS NOT NULL, 1, octet_length(body), now(),
                   expires_at
            FROM won WHERE run_at IS NULL OR run_at <= now()
        ), scheduled AS (
            INSERT INTO job_scheduled (client_id, job_id, load_key, user_name, priority, sync, seq, bytes, due_at, eligible_at,
                                       expires_at)
            SELECT client_id, job_id, load_key, user_name, priority, api_id IS NOT NULL, 1, octet_length(body), run_at,
                   run_at, expires_at
            FROM won WHERE run_at > now()
        ), noted AS (
            INSERT INTO outbox (job_id, seq, attempt, state, previous_state, at)
            SELECT job_id, 1, 0, 'queued', '', now() FROM won ORDER BY job_id
        )
        SELECT job_id AS "job_id?: JobId", in_time AS "in_time!", clock_timestamp() AS "now!"
        FROM arrived LEFT JOIN won ON true"#,
        &column(|job| job.id.uuid()),              // $1 job_id
        &column(|job| job.request.client.uuid()),          // $2 client_id
        &texts(|job| &job.request.model) as &[&str],       // $3 model
        &texts(|job| &job.request.model_label) as &[&str], // $4 model_label
        &texts(|job| &job.request.load_key) as &[&str],    // $5 load_key
        &texts(|job| &job.request.path) as &[&str],        // $6 path
        &texts(|job| &job.request.body) as &[&str],        // $7 body
        &priorities,                               // $8 priority
        &max_attempts as &[Option<i16>],           // $9 max_attempts
        &metadata as &[Option<&str>],              // $10 metadata
        &urls as &[Option<&str>],                  // $11 webhook_url
        &lanes as &[Option<uuid::Uuid>],           // $12 webhook_lane
        &origins as &[Option<&str>],               // $13 webhook_origin
        &events as &[Option<String>],              // $14 webhook_events
        &run_at as &[Option<DateTime<Utc>>],       // $15 run_at
        &expires_at,                               // $16 expires_at
        &retry_of as &[Option<uuid::Uuid>],        // $17 retry_of
        &traceparents as &[Option<&str>],          // $18 traceparent
        &keys as &[Option<&str>],                  // $19 key
        &digests as &[Option<&[u8]>],              // $20 body_digest
        IDEMPOTENCY_HOURS,                         // $21 hours that a key holds
        flush.lock,                                // $22 lock of the flush
        flush.until,                               // $23 latest arrival
        &apis as &[Option<uuid::Uuid>],            // $24 api_id
        &texts(|job| job.request.user.as_str()) as &[&str], // $25 user_name
    )
    .fetch_all(conn)
    .await?;
    let first = rows.first().ok_or(sqlx::Error::RowNotFound)?;
    let (now, in_time) = (first.now, first.in_time);
    let ids = in_time.then(|| rows.into_iter().filter_map(|row| row.job_id).collect());
    Ok(Inserted { ids, now })
}
