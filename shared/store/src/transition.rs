//! Every way a job moves: the named transitions, all here, each one statement that changes the job's room and writes
//! its outbox row together. The `CHECK`s of the migrations say the same once more.
//!
//! ```text
//!            accept                      claim            begin
//! (client) ─────────▶ ready / scheduled ──────▶ lease: held ──▶ loading ──▶ working
//!                       ▲      │ promote          │                 │          │
//!                       │      ▼                  └──────── settle ─┴──────────┤
//!                       └── hand back, retry, rescue ◀──────────────────────────┤
//!                                                                              ▼
//!            cancel, expire, want of model ────────────────────────────────▶ done
//! ```
//!
//! A holder proves its lease number with every write. What it takes away is derived from the rows that the statement
//! itself deleted, never from what the caller believed: stale members of a batch fall out one by one and are counted.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, SystemTime},
};

use chrono::{DateTime, Utc};

use crate::upkeep::Swept;
use crate::worker::columns;
use crate::{
    AcceptError, Acceptance, Begin, Claimed, ClientId, Completion, Conn, Exit, Flush, Heartbeat, Holder,
    JobId, JobState, LaneId, Lease, LeaseNo, NewJob, Offer, Phase, Reason, Settled, Store, StoreError,
    WorkerId, wake::Write,
};

/// How often a job may lose its worker before it is taken for the cause: the fifth rescue fails it.
pub const MAX_RESCUES: i16 = 5;

/// A claim brings the bodies of its jobs along up to so many bytes each, which is most of them; larger ones are read by
/// themselves ([`Store::job_body`]), so that no claim is ever long on a thin line.
const BODY_WITH_CLAIM: usize = 64 << 10;
/// The same for all bodies of one claim together.
const BODIES_WITH_CLAIM: usize = 2 << 20;

/// How long an idempotency key holds its job.
pub(crate) const IDEMPOTENCY_HOURS: i32 = 24;

/// What a request to cancel found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancelling {
    /// It was waiting and is cancelled.
    Cancelled,
    /// A worker holds it and has been asked.
    Asked,
    /// It had ended before.
    Ended,
    /// No such job.
    Missing,
}

/// What a rescue moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rescued {
    /// Workers that were found dead.
    pub workers: usize,
    /// Leases that were taken from them.
    pub leases: usize,
}

/// The widest gap between two rooms that a cancel can fall into is one commit; many rounds mean a defect.
const CANCEL_ROUNDS: usize = 100;

impl Store {
    /// Accepts jobs in one statement: the requests, where they wait, their first events and their keys. Answers stand in
    /// the order of `jobs`.
    pub async fn accept(&self, jobs: &[NewJob]) -> Result<Vec<Acceptance>, AcceptError> {
        // The first of several with one key in a batch goes in; the others are judged against what it left behind.
        let mut first_with_key: HashMap<(ClientId, &str), JobId> = HashMap::new();
        let offered: Vec<&NewJob> = jobs
            .iter()
            .filter(|job| match &job.idempotency {
                Some(key) => *first_with_key.entry((job.client, &key.key)).or_insert(job.id) == job.id,
                None => true,
            })
            .collect();
        let mut won = self.insert(&offered).await?;
        if won.is_none() {
            // Our idea of Postgres' time was wrong, and the answer has mended it.
            won = self.insert(&offered).await?;
        }
        let won = won.ok_or(AcceptError::Late)?;
        self.tell(offered.iter().filter(|job| won.contains(&job.id)).map(|job| accepted(job)));
        let losers: Vec<&NewJob> = jobs.iter().filter(|job| !won.contains(&job.id)).collect();
        // The others are accepted by now, and must hear that, whatever becomes of this question.
        let mut winners = self.key_holders(&losers).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "who holds an idempotency key could not be read");
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

    /// Which of them went in, or `None` if Postgres got them too late.
    async fn insert(&self, offered: &[&NewJob]) -> Result<Option<HashSet<JobId>>, AcceptError> {
        let bytes: usize = offered.iter().map(|job| job.body.len()).sum();
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

    /// Which of these jobs of a flush whose answer was lost are in the queue; `None` while that may still change.
    ///
    /// Whoever is told "no" may not find the job done later. So this waits for the moment after which Postgres begins
    /// the flush no more, and for the lock that the flush holds until it has ended.
    pub async fn look_up(&self, flush: &Flush, ids: &[JobId]) -> Result<Option<Vec<JobId>>, StoreError> {
        let ids: Vec<_> = ids.iter().map(|id| id.uuid()).collect();
        let mut conn = self.open().await?;
        let is_over = sqlx::query_scalar!(
            r#"-- flush_is_over
            SELECT CASE WHEN clock_timestamp() > $2 THEN pg_try_advisory_xact_lock($1) ELSE false END AS "is_over!""#,
            flush.lock,
            flush.until,
        )
        .fetch_one(&mut conn)
        .await?;
        // Asked after that, by a snapshot of its own.
        let found = sqlx::query_scalar!(
            r#"-- accepted
            SELECT j.id AS "id: JobId" FROM unnest($1::uuid[]) AS wanted (id)
            CROSS JOIN LATERAL (SELECT id FROM job WHERE id = wanted.id LIMIT 1) AS j"#,
            &ids
        )
        .fetch_all(&mut conn)
        .await?;
        conn.done().await?;
        if !found.is_empty() {
            self.tell([Write::AcceptedForLater]);
        }
        // A flush goes in as a whole.
        Ok((is_over || !found.is_empty()).then_some(found))
    }

    /// For each job that lost its key: who holds it, and the digest of the bytes it came with.
    async fn key_holders(&self, losers: &[&NewJob]) -> Result<HashMap<JobId, (JobId, Vec<u8>)>, StoreError> {
        if losers.is_empty() {
            return Ok(HashMap::new());
        }
        let ids: Vec<_> = losers.iter().map(|job| job.id.uuid()).collect();
        let clients: Vec<_> = losers.iter().map(|job| job.client.uuid()).collect();
        let keys: Vec<_> =
            losers.iter().map(|job| job.idempotency.as_ref().map(|key| key.key.as_str())).collect();
        let mut conn = self.open().await?;
        let rows = sqlx::query!(
            r#"-- key_holders
            SELECT loser.job_id AS "loser!", k.job_id AS winner, k.body_digest
            FROM unnest($1::uuid[], $2::uuid[], $3::text[]) AS loser (job_id, client_id, key)
            JOIN idempotency_key k ON k.client_id = loser.client_id AND k.key = loser.key"#,
            &ids,
            &clients,
            &keys as &[Option<&str>],
        )
        .fetch_all(&mut conn)
        .await?;
        conn.done().await?;
        Ok(rows.into_iter().map(|row| (row.loser.into(), (row.winner.into(), row.body_digest))).collect())
    }

    /// Takes ready jobs of one load key: the offers in order, within each the oldest first, at most `limit` in all.
    ///
    /// The claim proves in the same statement that the worker lives and holds the host. An empty answer may also mean
    /// that it does not.
    pub async fn claim(
        &self,
        holder: &Holder,
        load_key: &str,
        offers: &[Offer],
        limit: usize,
    ) -> Result<Vec<Claimed>, StoreError> {
        self.take(holder, load_key, offers, limit, Phase::Held).await
    }

    /// The same for jobs that are sent as soon as the answer is there: they are `working` at once, as by a
    /// [`begin`](Self::begin) in the same moment, and one commit less stands between a free slot and its next request. A
    /// job whose body has yet to be read is only held ([`Claimed::begun`]).
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
        let mut conn = self.open().await?;
        // Key shares on the two rows keep a rescue and a change of holder apart from this claim: whoever takes either
        // over locks it FOR UPDATE first.
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
                -- Numbered in the order of the offers, which the answer keeps.
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
                   j.load_key, j.model_label, j.path, j.max_attempts, j.traceparent
            FROM leased l JOIN job j ON j.id = l.job_id
            ORDER BY l.lease_no"#,
            holder.worker.uuid(),
            holder.host,
            holder.fence,
            &clients,
            &priorities,
            &bounds,
            &quotas,
            load_key,
            i64::try_from(limit).unwrap_or(i64::MAX),
            phase.as_str(),
            i32::try_from(body_at_most).unwrap_or(i32::MAX),
        )
        .fetch_all(&mut conn)
        .await?;
        conn.done().await?;
        if phase == Phase::Working && !rows.is_empty() {
            self.tell([Write::Begun]);
        }
        Ok(rows
            .into_iter()
            .map(|row| Claimed {
                lease: Lease { job_id: row.job_id, no: row.lease_no },
                client: row.client_id,
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

    /// Records that holders begin: `Loading` before a preload, `Working` after it, and for a resident model
    /// `Working` at once, which writes both events. The answer decides whether the request may be sent.
    pub async fn begin(&self, beginnings: &[(&Lease, Phase)]) -> Result<Vec<Begin>, StoreError> {
        let ids: Vec<_> = beginnings.iter().map(|(lease, _)| lease.job_id.uuid()).collect();
        let numbers: Vec<_> = beginnings.iter().map(|(lease, _)| lease.no.0).collect();
        let phases: Vec<_> = beginnings.iter().map(|(_, phase)| phase.as_str()).collect();
        let mut conn = self.open().await?;
        let rows = sqlx::query!(
            r#"-- begin_jobs
            WITH input AS (
                SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::text[]) AS t (job_id, lease_no, phase)
            ), held AS MATERIALIZED (
                SELECT l.job_id, l.lease_no, l.phase, l.seq, l.attempt, l.cancel, i.phase AS target,
                       l.phase = 'held' AND l.expires_at <= clock_timestamp() AS expired
                FROM job_lease l JOIN input i ON i.job_id = l.job_id AND i.lease_no = l.lease_no
                ORDER BY l.job_id FOR UPDATE OF l
            ), moving AS (
                SELECT held.*, (held.phase = 'held')::integer AS loads, (held.target = 'working')::integer AS works
                FROM held
                WHERE NOT cancel AND NOT expired
                  AND (held.phase, held.target) IN (('held', 'loading'), ('held', 'working'), ('loading', 'working'))
            ), moved AS (
                UPDATE job_lease l
                SET phase = m.target, seq = l.seq + m.loads + m.works,
                    loading_at = coalesce(l.loading_at, clock_timestamp()),
                    working_at = CASE WHEN m.works = 1 THEN clock_timestamp() END
                FROM moving m WHERE l.job_id = m.job_id AND l.lease_no = m.lease_no
                RETURNING l.job_id, l.seq, l.attempt, l.loading_at, l.working_at, m.loads, m.works
            ), noted AS (
                INSERT INTO outbox (job_id, seq, attempt, state, previous_state, at)
                SELECT m.job_id, m.seq - m.works, m.attempt, 'loading', 'queued', m.loading_at
                FROM moved m WHERE m.loads = 1
                UNION ALL
                SELECT m.job_id, m.seq, m.attempt, 'working', 'loading', m.working_at
                FROM moved m WHERE m.works = 1
                ORDER BY 1, 2
            )
            SELECT lease_no AS "lease_no: LeaseNo", cancel, expired AS "expired!" FROM held"#,
            &ids,
            &numbers,
            &phases as &[&str],
        )
        .fetch_all(&mut conn)
        .await?;
        conn.done().await?;
        self.tell([Write::Begun]);
        let found: HashMap<LeaseNo, Begin> = rows
            .into_iter()
            .map(|row| {
                let begin = match (row.cancel, row.expired) {
                    (true, _) => Begin::Cancelled,
                    (false, true) => Begin::Expired,
                    (false, false) => Begin::Go,
                };
                (row.lease_no, begin)
            })
            .collect();
        Ok(beginnings
            .iter()
            .map(|(lease, _)| found.get(&lease.no).copied().unwrap_or(Begin::Stale))
            .collect())
    }

    /// Lets go of leases, each its own way, in one statement. Answers stand in the order given. After an unknown
    /// outcome call it again with the same exits: what was written under the same number is found and not repeated.
    pub async fn settle(&self, exits: &[(Lease, Exit)]) -> Result<Vec<Settled>, StoreError> {
        let bytes: usize = exits.iter().map(|(_, exit)| exit.bytes()).sum();
        let mut conn = self.open_for(bytes as u64).await?;
        let left = leave_leases(&mut conn, exits).await?;
        conn.done().await?;
        // Also where nothing was found to write: the answer to the write may have been lost.
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

    /// Which of these leases stand in `job_done` under their own number.
    async fn settled_already(&self, leases: &[&Lease]) -> Result<Vec<LeaseNo>, StoreError> {
        let ids: Vec<_> = leases.iter().map(|lease| lease.job_id.uuid()).collect();
        let numbers: Vec<_> = leases.iter().map(|lease| lease.no.0).collect();
        let mut conn = self.open().await?;
        let found = sqlx::query_scalar!(
            r#"-- settled_already
            SELECT d.lease_no AS "lease_no!: LeaseNo"
            FROM unnest($1::uuid[], $2::bigint[]) AS l (job_id, lease_no)
            JOIN job_done d ON d.job_id = l.job_id AND d.lease_no = l.lease_no"#,
            &ids,
            &numbers,
        )
        .fetch_all(&mut conn)
        .await?;
        conn.done().await?;
        Ok(found)
    }

    /// Takes away the leases of a worker whose requests are gone, with the day that they were dropped with or by hand: there
    /// is nothing to run, and nobody could be shown an outcome. Returns the jobs.
    pub async fn drop_leases_without_request(&self, worker: WorkerId) -> Result<Vec<JobId>, StoreError> {
        let mut conn = self.open().await?;
        let dropped = sqlx::query_scalar!(
            r#"-- drop_leases_without_request
            DELETE FROM job_lease l
            WHERE l.worker_id = $1 AND NOT EXISTS (SELECT FROM job j WHERE j.id = l.job_id)
            RETURNING l.job_id AS "job_id: JobId""#,
            worker.uuid(),
        )
        .fetch_all(&mut conn)
        .await?;
        conn.done().await?;
        if !dropped.is_empty() {
            self.tell([Write::LeaseDropped]);
        }
        Ok(dropped)
    }

    /// Cancels a job wherever it stands. Separate statements, over and over until one hits: a statement's snapshot
    /// cannot see the room that the job is moving to.
    pub async fn cancel(&self, client: ClientId, job: JobId) -> Result<Cancelling, StoreError> {
        for _ in 0..CANCEL_ROUNDS {
            if self.cancel_waiting(client, job).await? {
                return Ok(Cancelling::Cancelled);
            }
            if self.cancel_leased(client, job).await? {
                return Ok(Cancelling::Asked);
            }
            match self.has_ended(client, job).await? {
                Some(true) => return Ok(Cancelling::Ended),
                Some(false) => {}
                None => return Ok(Cancelling::Missing),
            }
        }
        Err(StoreError::Contended(sqlx::Error::RowNotFound))
    }

    async fn cancel_waiting(&self, client: ClientId, job: JobId) -> Result<bool, StoreError> {
        let mut conn = self.open().await?;
        let hit = sqlx::query!(
            r#"-- cancel_waiting
            WITH ready AS (
                DELETE FROM job_ready WHERE client_id = $1 AND job_id = $2
                RETURNING job_id, client_id, seq + 1 AS seq, attempt, failures, rescues, eligible_at
            ), scheduled AS (
                DELETE FROM job_scheduled WHERE client_id = $1 AND job_id = $2
                RETURNING job_id, client_id, seq + 1 AS seq, attempt, failures, rescues, eligible_at
            ), gone AS MATERIALIZED (
                SELECT *, clock_timestamp() AS at FROM (TABLE ready UNION ALL TABLE scheduled) AS waiting
            ), ended AS (
                INSERT INTO job_done (job_id, client_id, state, seq, attempt, failures, rescues, eligible_at, completed_at)
                SELECT job_id, client_id, 'cancelled', seq, attempt, failures, rescues, eligible_at, at FROM gone
            )
            INSERT INTO outbox (job_id, seq, attempt, state, previous_state, at)
            SELECT job_id, seq, attempt, 'cancelled', 'queued', at FROM gone"#,
            client.uuid(),
            job.uuid(),
        )
        .execute(&mut conn)
        .await?;
        conn.done().await?;
        let hit = hit.rows_affected() > 0;
        if hit {
            self.tell([Write::EndedUnclaimed]);
        }
        Ok(hit)
    }

    async fn cancel_leased(&self, client: ClientId, job: JobId) -> Result<bool, StoreError> {
        let mut conn = self.open().await?;
        let hit = sqlx::query!(
            "-- cancel_leased
            UPDATE job_lease SET cancel = true WHERE job_id = $1 AND client_id = $2",
            job.uuid(),
            client.uuid(),
        )
        .execute(&mut conn)
        .await?;
        conn.done().await?;
        let hit = hit.rows_affected() > 0;
        if hit {
            self.tell([Write::CancelAsked]);
        }
        Ok(hit)
    }

    /// Whether the job has ended, or `None` if this client has no such job.
    async fn has_ended(&self, client: ClientId, job: JobId) -> Result<Option<bool>, StoreError> {
        let mut conn = self.open().await?;
        let ended = sqlx::query_scalar!(
            r#"-- has_ended
            SELECT EXISTS (SELECT FROM job_done d WHERE d.job_id = j.id) AS "ended!"
            FROM job j WHERE j.id = $1 AND j.client_id = $2"#,
            job.uuid(),
            client.uuid(),
        )
        .fetch_optional(&mut conn)
        .await?;
        conn.done().await?;
        Ok(ended)
    }

    /// Ends waiting jobs whose time has passed, at most `limit` of each room. Returns how many.
    pub async fn expire(&self, limit: i64) -> Result<u64, StoreError> {
        Ok(self.expire_since(DateTime::UNIX_EPOCH, limit).await?.rows)
    }

    /// The same for those alone whose time has passed since this moment: steps over the entries of jobs long gone.
    pub async fn expire_since(&self, since: DateTime<Utc>, limit: i64) -> Result<Swept, StoreError> {
        let mut conn = self.open().await?;
        // Of two rooms, each up to the limit: nothing is left before the earlier of the two last ones.
        let expired = sqlx::query!(
            r#"-- expire_jobs
            WITH late_ready AS MATERIALIZED (
                SELECT client_id, job_id FROM job_ready WHERE expires_at <= now() AND expires_at >= $2
                ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED
            ), late_scheduled AS MATERIALIZED (
                SELECT client_id, job_id FROM job_scheduled WHERE expires_at <= now() AND expires_at >= $2
                ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED
            ), ready AS (
                DELETE FROM job_ready r USING late_ready l WHERE r.client_id = l.client_id AND r.job_id = l.job_id
                RETURNING r.job_id, r.client_id, r.seq + 1 AS seq, r.attempt, r.failures, r.rescues, r.eligible_at,
                          r.expires_at
            ), scheduled AS (
                DELETE FROM job_scheduled s USING late_scheduled l
                WHERE s.client_id = l.client_id AND s.job_id = l.job_id
                RETURNING s.job_id, s.client_id, s.seq + 1 AS seq, s.attempt, s.failures, s.rescues, s.eligible_at,
                          s.expires_at
            ), gone AS MATERIALIZED (
                SELECT *, clock_timestamp() AS at FROM (TABLE ready UNION ALL TABLE scheduled) AS waiting
            ), ended AS (
                INSERT INTO job_done (job_id, client_id, state, seq, attempt, failures, rescues, eligible_at, completed_at)
                SELECT job_id, client_id, 'expired', seq, attempt, failures, rescues, eligible_at, at FROM gone
            ), noted AS (
                INSERT INTO outbox (job_id, seq, attempt, state, previous_state, at)
                SELECT job_id, seq, attempt, 'expired', 'queued', at FROM gone
            )
            SELECT (SELECT count(*) FROM gone) AS "rows!",
                   least((SELECT max(expires_at) FROM ready), (SELECT max(expires_at) FROM scheduled)) AS last"#,
            limit,
            since,
        )
        .fetch_one(&mut conn)
        .await?;
        conn.done().await?;
        if expired.rows > 0 {
            self.tell([Write::EndedUnclaimed]);
        }
        Ok(Swept::new(expired.rows.cast_unsigned(), limit, expired.last))
    }

    /// Fails ready jobs of these models for this reason each, at most `limit`, and proves in the same statement that no
    /// host has their model, live or dead. Returns which jobs, and the model of each.
    ///
    /// Jobs that wait for a time are left alone: the model may be there when it comes.
    pub async fn fail_for_want_of_model(
        &self,
        models: &[(String, Reason)],
        limit: i64,
    ) -> Result<Vec<(JobId, String)>, StoreError> {
        let names: Vec<_> = models.iter().map(|(model, _)| model.as_str()).collect();
        let errors: Vec<_> = models.iter().map(|(_, reason)| reason.error.as_str()).collect();
        let codes: Vec<_> = models.iter().map(|(_, reason)| reason.code.as_str()).collect();
        let mut conn = self.open().await?;
        let rows = sqlx::query!(
            r#"-- fail_for_want_of_model
            WITH missing AS MATERIALIZED (
                SELECT * FROM unnest($1::text[], $2::text[], $3::text[]) AS t (model, error, error_code)
                WHERE EXISTS (SELECT FROM host WHERE published_at IS NOT NULL)
                  AND NOT EXISTS (SELECT FROM host_model m WHERE m.canonical = t.model)
            ), picked AS MATERIALIZED (
                SELECT r.client_id, r.job_id, missing.*
                FROM missing CROSS JOIN LATERAL (
                    -- Of the model alone, or with what it is loaded with behind a blank; `!` comes after the blank.
                    SELECT q.client_id, q.job_id FROM job_ready q
                    WHERE q.load_key >= missing.model COLLATE "C" AND q.load_key < (missing.model || '!') COLLATE "C"
                    LIMIT $4 FOR UPDATE SKIP LOCKED
                ) AS r
                LIMIT $4
            ), gone AS (
                DELETE FROM job_ready r USING picked p WHERE r.client_id = p.client_id AND r.job_id = p.job_id
                RETURNING r.*, p.model, p.error, p.error_code, clock_timestamp() AS at
            ), ended AS (
                INSERT INTO job_done (job_id, client_id, state, seq, attempt, failures, rescues, error, error_code,
                                      eligible_at, completed_at)
                SELECT job_id, client_id, 'failed', seq + 1, attempt, failures, rescues, error, error_code, eligible_at, at
                FROM gone
            ), noted AS (
                INSERT INTO outbox (job_id, seq, attempt, state, previous_state, error, at)
                SELECT job_id, seq + 1, attempt, 'failed', 'queued', error, at FROM gone ORDER BY job_id
            )
            SELECT job_id AS "job: JobId", model AS "model!" FROM gone"#,
            &names as &[&str],
            &errors as &[&str],
            &codes as &[&str],
            limit,
        )
        .fetch_all(&mut conn)
        .await?;
        conn.done().await?;
        if !rows.is_empty() {
            self.tell([Write::EndedUnclaimed]);
        }
        Ok(rows.into_iter().map(|row| (row.job, row.model)).collect())
    }

    /// Moves scheduled jobs whose time has come to the ready ones, at most `limit`. Not a transition: both are
    /// `queued`. Returns how many, and when the next is due.
    pub async fn promote(&self, limit: i64) -> Result<(u64, Option<DateTime<Utc>>), StoreError> {
        let (promoted, next) = self.promote_since(DateTime::UNIX_EPOCH, limit).await?;
        Ok((promoted.rows, next))
    }

    /// The same for those alone that came due since this moment: steps over the entries of jobs long gone.
    pub async fn promote_since(
        &self,
        since: DateTime<Utc>,
        limit: i64,
    ) -> Result<(Swept, Option<DateTime<Utc>>), StoreError> {
        let mut conn = self.open().await?;
        let promoted = sqlx::query!(
            r#"-- promote_jobs
            WITH due AS MATERIALIZED (
                SELECT client_id, job_id FROM job_scheduled WHERE due_at <= now() AND due_at >= $2
                ORDER BY due_at LIMIT $1 FOR UPDATE SKIP LOCKED
            ), gone AS (
                DELETE FROM job_scheduled s USING due WHERE s.client_id = due.client_id AND s.job_id = due.job_id
                RETURNING s.*
            ), moved AS (
                INSERT INTO job_ready (client_id, job_id, load_key, priority, attempt, failures, rescues, seq, bytes,
                                       eligible_at, expires_at)
                SELECT client_id, job_id, load_key, priority, attempt, failures, rescues, seq, bytes, eligible_at,
                       expires_at
                FROM gone
            )
            SELECT count(*) AS "rows!", max(due_at) AS last FROM gone"#,
            limit,
            since,
        )
        .fetch_one(&mut conn)
        .await?;
        let next = sqlx::query_scalar!(
            "-- next_due
            SELECT min(due_at) FROM job_scheduled WHERE due_at >= $1",
            since,
        )
        .fetch_one(&mut conn)
        .await?;
        conn.done().await?;
        if promoted.rows > 0 {
            self.tell([Write::Promoted]);
        }
        Ok((Swept::new(promoted.rows.cast_unsigned(), limit, promoted.last), next))
    }

    /// Takes the leases of the `dead`, unless they have renewed since they were seen, and any lease without a worker, back to
    /// the queue. One transaction: the dead are locked first, so that none of them can claim in between.
    pub async fn rescue(&self, dead: &[Heartbeat]) -> Result<Rescued, StoreError> {
        let (dead, seen) = columns(dead);
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
                RETURNING l.*, (l.phase <> 'held')::integer AS had_begun, clock_timestamp() AS at,
                          CASE l.phase WHEN 'held' THEN 'queued' ELSE l.phase END AS left_state
            ), fate AS (
                SELECT gone.*, CASE WHEN cancel THEN 'cancelled'
                                    WHEN rescues + had_begun >= $2 THEN 'failed'
                                    ELSE 'queued' END AS state
                FROM gone
            ), requeued AS (
                INSERT INTO job_ready (client_id, job_id, load_key, priority, attempt, failures, rescues, seq, bytes,
                                       eligible_at, expires_at)
                SELECT client_id, job_id, load_key, priority, attempt, failures, rescues + had_begun, seq + had_begun,
                       bytes, eligible_at, expires_at
                FROM fate WHERE state = 'queued'
            ), ended AS (
                INSERT INTO job_done (job_id, client_id, state, lease_no, seq, attempt, failures, rescues, error,
                                      error_code, eligible_at, loading_at, working_at, completed_at)
                SELECT job_id, client_id, state, NULL, seq + 1, attempt, failures, rescues + had_begun,
                       CASE state WHEN 'failed' THEN $3 END, CASE state WHEN 'failed' THEN 'worker_lost' END,
                       eligible_at, loading_at, working_at, at
                FROM fate WHERE state <> 'queued'
            ), noted AS (
                INSERT INTO outbox (job_id, seq, attempt, state, previous_state, error, at)
                SELECT job_id, seq + 1, attempt, state, left_state,
                       CASE state WHEN 'failed' THEN $3 WHEN 'queued' THEN 'the worker that ran it is gone' END, at
                FROM fate WHERE state <> 'queued' OR had_begun = 1
                ORDER BY job_id
            )
            SELECT job_id FROM gone"#,
            &dead,
            i32::from(MAX_RESCUES),
            format!("its worker was lost {MAX_RESCUES} times while it ran; look at what the job does to the GPU box"),
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

fn accepted(job: &NewJob) -> Write {
    if job.run_at.is_none() { Write::Accepted } else { Write::AcceptedForLater }
}

fn left_by(exit: &Exit) -> Write {
    match exit {
        Exit::Done(_) | Exit::Failed(_) | Exit::Cancelled | Exit::Expired => Write::Ended,
        Exit::Retry { .. } => Write::PutOff,
        Exit::HandBack { .. } => Write::HandedBack,
    }
}

/// What [`insert_jobs`] put in, unless it came too late, and the time that Postgres said.
struct Inserted {
    ids: Option<HashSet<JobId>>,
    now: DateTime<Utc>,
}

async fn insert_jobs(conn: &mut Conn, jobs: &[&NewJob], flush: &Flush) -> Result<Inserted, StoreError> {
    let column = |of: fn(&NewJob) -> uuid::Uuid| jobs.iter().map(|job| of(job)).collect::<Vec<_>>();
    let texts = |of: fn(&NewJob) -> &str| jobs.iter().map(|job| of(job)).collect::<Vec<_>>();
    let maybe_texts = |of: fn(&NewJob) -> Option<&str>| jobs.iter().map(|job| of(job)).collect::<Vec<_>>();
    let events: Vec<Option<String>> = jobs
        .iter()
        .map(|job| {
            let events = job.receiver.as_ref()?.events.as_ref()?;
            Some(events.iter().map(|state| state.as_str()).collect::<Vec<_>>().join(","))
        })
        .collect();
    let lanes: Vec<Option<uuid::Uuid>> = jobs
        .iter()
        .map(|job| job.receiver.as_ref().map(|receiver| LaneId::derive(job.client, &receiver.origin).uuid()))
        .collect();
    let digests: Vec<Option<&[u8]>> =
        jobs.iter().map(|job| job.idempotency.as_ref().map(|key| key.body_digest.as_slice())).collect();
    let rows = sqlx::query!(
        r#"-- accept_jobs
        -- First the lock, then the time: whoever gets the lock after `until` knows that nothing goes in any more.
        WITH flush AS MATERIALIZED (
            SELECT pg_advisory_xact_lock($22)
        ), arrived AS MATERIALIZED (
            SELECT clock_timestamp() <= $23 AS in_time FROM flush
        ), input AS (
            SELECT t.* FROM arrived CROSS JOIN unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[],
                                 $8::smallint[], $9::smallint[], $10::text[], $11::text[], $12::uuid[], $13::text[],
                                 $14::text[], $15::timestamptz[], $16::timestamptz[], $17::uuid[], $18::text[],
                                 $19::text[], $20::bytea[])
            AS t (job_id, client_id, model, model_label, load_key, path, body, priority, max_attempts, metadata,
                  webhook_url, webhook_lane, webhook_origin, webhook_events, run_at, expires_at, retry_of, traceparent,
                  key, body_digest)
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
                             traceparent)
            SELECT job_id, client_id, model, model_label, load_key, path, body, priority, max_attempts, metadata,
                   webhook_url, webhook_lane, webhook_origin, string_to_array(webhook_events, ','), run_at, expires_at,
                   retry_of, traceparent
            FROM won
        ), ready AS (
            INSERT INTO job_ready (client_id, job_id, load_key, priority, seq, bytes, eligible_at, expires_at)
            SELECT client_id, job_id, load_key, priority, 1, octet_length(body), now(), expires_at
            FROM won WHERE run_at IS NULL OR run_at <= now()
        ), scheduled AS (
            INSERT INTO job_scheduled (client_id, job_id, load_key, priority, seq, bytes, due_at, eligible_at, expires_at)
            SELECT client_id, job_id, load_key, priority, 1, octet_length(body), run_at, run_at, expires_at
            FROM won WHERE run_at > now()
        ), noted AS (
            INSERT INTO outbox (job_id, seq, attempt, state, previous_state, at)
            SELECT job_id, 1, 0, 'queued', '', now() FROM won ORDER BY job_id
        )
        SELECT job_id AS "job_id?: JobId", in_time AS "in_time!", clock_timestamp() AS "now!"
        FROM arrived LEFT JOIN won ON true"#,
        &column(|job| job.id.uuid()),
        &column(|job| job.client.uuid()),
        &texts(|job| &job.model) as &[&str],
        &texts(|job| &job.model_label) as &[&str],
        &texts(|job| &job.load_key) as &[&str],
        &texts(|job| &job.path) as &[&str],
        &texts(|job| &job.body) as &[&str],
        &jobs.iter().map(|job| job.priority).collect::<Vec<_>>(),
        &jobs.iter().map(|job| job.max_attempts).collect::<Vec<_>>() as &[Option<i16>],
        &maybe_texts(|job| job.metadata.as_deref()) as &[Option<&str>],
        &maybe_texts(|job| Some(job.receiver.as_ref()?.url.as_str())) as &[Option<&str>],
        &lanes as &[Option<uuid::Uuid>],
        &maybe_texts(|job| Some(job.receiver.as_ref()?.origin.as_str())) as &[Option<&str>],
        &events as &[Option<String>],
        &jobs.iter().map(|job| job.run_at).collect::<Vec<_>>() as &[Option<DateTime<Utc>>],
        &jobs.iter().map(|job| job.expires_at).collect::<Vec<_>>(),
        &jobs.iter().map(|job| job.retry_of.map(JobId::uuid)).collect::<Vec<_>>() as &[Option<uuid::Uuid>],
        &maybe_texts(|job| job.traceparent.as_deref()) as &[Option<&str>],
        &maybe_texts(|job| Some(job.idempotency.as_ref()?.key.as_str())) as &[Option<&str>],
        &digests as &[Option<&[u8]>],
        IDEMPOTENCY_HOURS,
        flush.lock,
        flush.until,
    )
    .fetch_all(conn)
    .await?;
    let first = rows.first().ok_or(sqlx::Error::RowNotFound)?;
    let (now, in_time) = (first.now, first.in_time);
    let ids = in_time.then(|| rows.into_iter().filter_map(|row| row.job_id).collect());
    Ok(Inserted { ids, now })
}

/// An exit in the form in which it goes to Postgres.
struct ExitRow<'a> {
    /// The state it leads to if nobody asked for a cancel.
    to: &'static str,
    /// `retry` waits, `hand_back` does not.
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

/// Deletes the leases that are still their holders' and writes what follows from the deleted rows. Returns for each of
/// them the state it came to, by its number: one batch may hold a job's stale lease beside its fresh one.
async fn leave_leases(
    conn: &mut Conn,
    exits: &[(Lease, Exit)],
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
    let digests: Vec<_> = data.iter().map(|data| data.map(|data| Sha256::digest(data).to_vec())).collect();
    let prompt: Vec<_> = rows.iter().map(|row| row.completion.and_then(|done| done.prompt_tokens)).collect();
    let completion: Vec<_> =
        rows.iter().map(|row| row.completion.and_then(|done| done.completion_tokens)).collect();
    let rows = sqlx::query!(
        r#"-- leave_leases
        WITH input AS (
            SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::float8[], $5::smallint[], $6::text[],
                                 $7::text[], $8::bytea[], $9::bytea[], $10::bigint[], $11::bigint[])
            AS t (job_id, lease_no, wanted, wait, counts, error, error_code, data, sha256, prompt_tokens,
                  completion_tokens)
        ), locked AS MATERIALIZED (
            SELECT i.* FROM job_lease l JOIN input i ON i.job_id = l.job_id AND i.lease_no = l.lease_no
            ORDER BY l.job_id FOR UPDATE OF l
        ), gone AS (
            DELETE FROM job_lease l USING locked k WHERE l.job_id = k.job_id AND l.lease_no = k.lease_no
            RETURNING l.*, k.wanted, k.wait, k.counts, k.error, k.error_code, k.data, k.sha256, k.prompt_tokens,
                      k.completion_tokens
        ), fate AS MATERIALIZED (
            SELECT g.job_id, g.client_id, g.lease_no, g.load_key, g.priority, g.attempt, g.rescues, g.seq, g.bytes,
                   g.eligible_at, g.expires_at, g.loading_at, g.working_at, clock_timestamp() AS at,
                   CASE WHEN g.wanted = 'done' THEN 'done' WHEN g.cancel THEN 'cancelled' ELSE g.wanted END AS state,
                   CASE g.phase WHEN 'held' THEN 'queued' ELSE g.phase END AS left_state,
                   -- A held job that goes back was queued to the world all along.
                   (g.phase <> 'held' OR g.cancel OR g.wanted <> 'queued')::integer AS noted,
                   CASE WHEN g.cancel AND g.wanted <> 'done' THEN 0 ELSE g.counts END + g.failures AS failures,
                   CASE WHEN g.cancel AND g.wanted <> 'done' THEN NULL ELSE g.error END AS error,
                   CASE WHEN g.cancel AND g.wanted <> 'done' THEN NULL ELSE g.error_code END AS error_code,
                   g.wait, g.data, g.sha256, g.prompt_tokens, g.completion_tokens
            FROM gone g
        ), ended AS (
            INSERT INTO job_done (job_id, client_id, state, lease_no, seq, attempt, failures, rescues, error, error_code,
                                  prompt_tokens, completion_tokens, eligible_at, loading_at, working_at, completed_at)
            SELECT job_id, client_id, state, lease_no, seq + 1, attempt, failures, rescues, error, error_code,
                   prompt_tokens, completion_tokens, eligible_at, loading_at, working_at, at
            FROM fate WHERE state <> 'queued'
        ), kept AS (
            INSERT INTO artifact (job_id, name, attempt, content_type, size, sha256, data)
            SELECT job_id, 'completion', attempt, 'application/json', octet_length(data), sha256, data
            FROM fate WHERE state = 'done'
        ), waiting AS (
            INSERT INTO job_scheduled (client_id, job_id, load_key, priority, attempt, failures, rescues, seq, bytes,
                                       due_at, eligible_at, expires_at)
            SELECT client_id, job_id, load_key, priority, attempt, failures, rescues, seq + noted, bytes,
                   at + make_interval(secs => wait), eligible_at, expires_at
            FROM fate WHERE state = 'queued' AND wait IS NOT NULL
        ), requeued AS (
            INSERT INTO job_ready (client_id, job_id, load_key, priority, attempt, failures, rescues, seq, bytes,
                                   eligible_at, expires_at)
            SELECT client_id, job_id, load_key, priority, attempt, failures, rescues, seq + noted, bytes, eligible_at,
                   expires_at
            FROM fate WHERE state = 'queued' AND wait IS NULL
        ), noted AS (
            INSERT INTO outbox (job_id, seq, attempt, state, previous_state, error, at)
            SELECT job_id, seq + 1, attempt, state, left_state, error, at FROM fate WHERE noted = 1 ORDER BY job_id
        )
        SELECT lease_no AS "lease_no: LeaseNo", state AS "state!: JobState" FROM fate"#,
        &ids,
        &numbers,
        &to as &[&str],
        &waits as &[Option<f64>],
        &counts,
        &errors as &[Option<&str>],
        &codes as &[Option<&str>],
        &data as &[Option<&[u8]>],
        &digests as &[Option<Vec<u8>>],
        &prompt as &[Option<i64>],
        &completion as &[Option<i64>],
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(|row| (row.lease_no, row.state)).collect())
}
