//! The relay's one statement: it moves outbox rows into the history and makes the webhooks that follow from them.
//!
//! Everything it writes is derived from the rows that it deletes. So two relays never write the same row, whatever their
//! snapshots show.

use crate::db::clock::seconds;
use crate::db::connect::Store;
use crate::db::drain_bound::DrainBound;
use crate::db::error::StoreError;
use crate::db::partition::end_of_tomorrow;
use crate::db::wake::Write;
use crate::id::{ClientId, DeliveryId, EndpointId, JobId, LaneId};
use crate::job::artifact::ArtifactView;
use crate::job::history::JobEvent;
use crate::job::state::JobState;
use crate::webhook::claim::{Delivery, DeliveryClaim, DeliveryTerms, LIGHT, delivery_of};
use crate::webhook::receiver::{Receiver, SecretOwner, query_with_receivers};

/// What one turn of the relay did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Relayed {
    /// It moved this many transitions, and made this many webhooks of them.
    Moved { events: u64, deliveries: u64, ended: Vec<EndedJobs> },
    /// Another relay is at work at this moment.
    Busy,
}

/// What the relay claims of what it makes.
#[derive(Debug, Clone)]
pub struct ClaimOfNew {
    /// Lanes that are proven and have nothing due, as far as the caller knows. Each has room for [`AT_MOST`](Self::AT_MOST)
    /// webhooks.
    pub lanes: Vec<LaneId>,
    pub terms: DeliveryTerms,
}

impl ClaimOfNew {
    /// A turn claims no more webhooks than these. More are better looked for and claimed together.
    pub const AT_MOST: u32 = 16;
}

/// Jobs that ended, whoever ended them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndedJobs {
    /// As `/api/tags` names it.
    pub model_label: String,
    pub state: JobState,
    pub jobs: u64,
}

impl Store {
    /// Moves the oldest outbox rows, at most `limit`.
    pub async fn relay(&self, limit: i64) -> Result<Relayed, StoreError> {
        self.relay_from(&mut DrainBound::default(), limit).await
    }

    /// The same, for a relay that takes many turns. With `bound` a turn skips the index entries of rows that earlier turns
    /// took, which Postgres keeps while somebody holds an old snapshot.
    pub async fn relay_from(&self, bound: &mut DrainBound, limit: i64) -> Result<Relayed, StoreError> {
        self.relay_and_claim(bound, limit, None).await.map(|(relayed, _)| relayed)
    }

    /// The same, and claims for the caller some of the webhooks that it makes, as [`Store::claim_deliveries`] would a moment later: an
    /// idle receiver is told of an event without two more statements.
    ///
    /// An advisory lock lets one relay work at a time, which keeps the order and saves work. The `DELETE … RETURNING` makes
    /// the result exact: a relay with an old snapshot still sees rows that another relay took, but deletes none of them.
    pub async fn relay_and_claim(
        &self,
        bound: &mut DrainBound,
        limit: i64,
        claim: Option<&ClaimOfNew>,
    ) -> Result<(Relayed, Vec<Delivery>), StoreError> {
        let lanes: Vec<_> = claim.iter().flat_map(|claim| &claim.lanes).map(|lane| lane.uuid()).collect();
        let lease = claim.map_or(0.0, |claim| claim.terms.lease.as_secs_f64());
        let inline_limit = claim.map_or(0, |claim| claim.terms.inline_limit);
        // In `claimed`:
        // - What the claim asks of a webhook, in short, because every turn pays for it. So it takes only what is small and goes to
        //   a receiver that nothing holds back. In a CASE each question is asked of one row; as joins they might read whole
        //   tables.
        // - No earlier event of the job may wait or be under way to that receiver. This turn's snapshot may be older than the turn
        //   before it, and then shows none of its webhooks. But of every turn whose history it shows, it shows the webhooks. So
        //   the event before must be in the history already.
        // In `deliveries`:
        // - Build the ULID timestamp once per statement: doing it per row was most of the cost. It has twelve bits more than
        //   that of other ids, so that no two turns have the same one (`TURN` in `lane.rs`).
        // - When an earlier event of the job waits for a retry, the new event waits until the same time, so that the claim
        //   does not meet it before. Lock the earlier event until this commits. Otherwise it might be brought forward and
        //   sent meanwhile: that brings its later events forward, but not the ones made here, which would wait in vain.
        // - Lanes are compared with IS TRUE, because no index matches that form. By an index on the lane, every delivery of
        //   a lane would be read for each one that is made.
        let rows = query_with_receivers!(
            r#"-- relay_outbox
            WITH turn AS MATERIALIZED (
                SELECT pg_try_advisory_xact_lock(hashtext('foreman relay')) AS mine,
                       lpad(to_hex(floor(extract(epoch FROM clock_timestamp()) * 4096000)::bigint), 15, '0') AS stamp,
                       pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS oldest_running
            ), gone AS (
                DELETE FROM outbox
                WHERE id = ANY(ARRAY(SELECT id FROM outbox
                                     WHERE (SELECT mine FROM turn) AND id >= $2 ORDER BY id LIMIT $1))
                RETURNING *
            ), history AS (
                INSERT INTO job_event (job_id, seq, attempt, state, previous_state, error, at)
                SELECT job_id, seq, attempt, state, previous_state, error, at FROM gone ORDER BY id
            ), known AS MATERIALIZED (
                SELECT g.*, g.state IN ('done', 'failed', 'cancelled', 'expired') AS terminal, j.*
                FROM gone g
                CROSS JOIN LATERAL (
                    SELECT client_id, model, model_label, metadata, traceparent,
                           webhook_lane, webhook_origin, webhook_url, webhook_events
                    FROM job WHERE id = g.job_id LIMIT 1
                ) AS j
            ), ended AS MATERIALIZED (
                SELECT model_label, state, count(*) AS jobs FROM known WHERE terminal GROUP BY model_label, state
            ), wanted AS MATERIALIZED (
                SELECT j.*, receiver.lane_id, receiver.origin, receiver.url, receiver.signed_by, receiver.endpoint_id,
                       receiver.changed_at
                FROM known j JOIN "# + RECEIVERS + r#"
                  ON NOT receiver.deleted
                 AND (receiver.events IS NULL OR j.state = ANY(receiver.events))
                 AND (receiver.models IS NULL OR lower(j.model_label) = ANY(receiver.models))
            ), lanes AS (
                INSERT INTO webhook_lane (id, client_id, origin)
                SELECT DISTINCT lane_id, client_id, origin FROM wanted ORDER BY lane_id
                ON CONFLICT DO NOTHING
            ), claimed AS MATERIALIZED (
                SELECT w.*, made.*
                FROM (SELECT * FROM wanted WHERE lane_id = ANY($3) AND job_id < $7 ORDER BY id LIMIT $8) AS w
                CROSS JOIN LATERAL (
                    SELECT coalesce(sum(size) FILTER (WHERE size <= $5), 0)::bigint AS bytes, array_agg(name) AS names,
                           array_agg(content_type) AS content_types, array_agg(size) AS sizes, array_agg(sha256) AS digests,
                           array_agg(data) AS data
                    FROM (SELECT name, content_type, size, sha256,
                                 CASE WHEN size <= least($5, $6::bigint) THEN data END AS data
                          FROM artifact
                          WHERE w.state = 'done' AND job_id = w.job_id AND attempt = w.attempt AND job_id < $7
                          ORDER BY name) AS a
                ) AS made
                WHERE CASE WHEN made.bytes <= $6 THEN
                    (w.seq = 1 OR EXISTS (
                        SELECT FROM job_event WHERE job_id = w.job_id AND seq = w.seq - 1 AND job_id < $7))
                    AND NOT EXISTS (
                        SELECT FROM webhook_delivery e
                        WHERE e.job_id = w.job_id AND (e.lane_id = w.lane_id) IS TRUE AND NOT e.redelivery)
                    AND NOT EXISTS (
                        SELECT FROM webhook_attempt a
                        WHERE a.job_id = w.job_id AND a.outcome = 'failed' AND a.error_code = 'gone'
                          AND (a.lane_id = w.lane_id) IS TRUE AND a.job_id < $7)
                    AND EXISTS (SELECT FROM webhook_lane WHERE id = w.lane_id AND healthy AND not_before IS NULL)
                    AND NOT EXISTS (
                        SELECT FROM webhook_endpoint
                        WHERE id = w.lane_id AND (disabled_at IS NOT NULL OR rate_limit IS NOT NULL))
                END
            ), deliveries AS (
                INSERT INTO webhook_delivery (id, lane_id, job_id, seq, terminal, next_attempt_at,
                                              attempts, claim_no, claimed_at, claimed_until)
                SELECT (turn.stamp || right(replace(gen_random_uuid()::text, '-', ''), 17))::uuid,
                       w.lane_id, w.job_id, w.seq, w.terminal,
                       greatest(now(), (
                           SELECT max(waiting.next_attempt_at)
                           FROM (SELECT e.next_attempt_at FROM webhook_delivery e
                                 WHERE e.job_id = w.job_id AND (e.lane_id = w.lane_id) IS TRUE
                                   AND e.claim_no IS NULL AND e.attempts > 0 AND NOT e.redelivery
                                 FOR SHARE) AS waiting)),
                       CASE WHEN c.id IS NULL THEN 0 ELSE 1 END,
                       CASE WHEN c.id IS NOT NULL THEN nextval('delivery_claim_no') END,
                       CASE WHEN c.id IS NOT NULL THEN now() END,
                       CASE WHEN c.id IS NOT NULL THEN now() + make_interval(secs => $4) END
                FROM turn CROSS JOIN wanted w LEFT JOIN claimed c ON c.id = w.id AND c.lane_id = w.lane_id
                ORDER BY w.id
                RETURNING id, lane_id, job_id, seq, attempts, claim_no
            ), to_send AS (
                SELECT d.id AS delivery_id, d.attempts AS number, d.claim_no, c.*
                FROM deliveries d JOIN claimed c ON c.job_id = d.job_id AND c.seq = d.seq AND c.lane_id = d.lane_id
                WHERE d.claim_no IS NOT NULL
            )
            SELECT turn.mine AS "mine!", (SELECT count(*) FROM gone) AS "events!",
                   (SELECT count(*) FROM deliveries) AS "deliveries!",
                   turn.oldest_running AS "oldest_running!", (SELECT max(id) FROM gone) AS highest,
                   CASE WHEN EXISTS (SELECT FROM gone) THEN pg_current_xact_id()::text::bigint END AS own_number,
                   ended.model_label AS "ended_model?", ended.state AS "ended_state?: JobState", ended.jobs AS "ended_jobs?",
                   s.delivery_id AS "id?: DeliveryId", s.claim_no AS "no?", s.number AS "number?",
                   s.lane_id AS "lane?: LaneId", s.client_id AS "client?: ClientId", s.terminal AS "terminal?",
                   false AS redelivery, 0::float8 AS age, extract(epoch FROM now() - s.at)::float8 AS "event_age?",
                   s.url AS "url?", s.signed_by AS "signed_by?: SecretOwner", s.endpoint_id AS "endpoint?: EndpointId",
                   s.changed_at AS "changed_at?", s.traceparent AS "traceparent?", s.job_id AS "job?: JobId",
                   s.model AS "model?", s.metadata AS "metadata?", s.seq AS "seq?", s.attempt AS "attempt?",
                   s.state AS "state?: JobState", s.previous_state AS "previous_state?", s.error AS "error?", s.at AS "at?",
                   s.bytes AS "bytes?", false AS is_open, false AS is_probe, true AS is_complete, s.names AS "names?",
                   s.content_types AS "content_types?", s.sizes AS "sizes?", s.digests AS "digests?",
                   s.data AS "data?: Vec<Option<Vec<u8>>>"
            FROM turn LEFT JOIN (ended FULL JOIN to_send AS s ON false) ON true"#,
            limit,        // $1 limit
            bound.from(), // $2 from
            &lanes,       // $3 lanes to claim of
            lease,        // $4 seconds of the lease
            inline_limit, // $5 inline_limit
            LIGHT,        // $6 bytes of a light one
            end_of_tomorrow(self.clock().now()).uuid(), // $7 no job is of a later day
            i64::from(ClaimOfNew::AT_MOST), // $8 webhooks to claim
        )
        .fetch_all(self.once())
        .await?;
        let Some(turn) = rows.first().filter(|row| row.mine) else { return Ok((Relayed::Busy, Vec::new())) };
        let taken = turn.highest.zip(turn.own_number);
        bound.learn(taken, turn.events >= limit, turn.oldest_running);
        let (events, deliveries) = (turn.events.unsigned_abs(), turn.deliveries.unsigned_abs());
        let ended = rows.iter().filter_map(|row| {
            Some(EndedJobs {
                model_label: row.ended_model.clone()?,
                state: row.ended_state?,
                jobs: row.ended_jobs?.unsigned_abs(),
            })
        });
        let ended = ended.collect();
        let to_send: Vec<Delivery> = rows.into_iter().filter_map(|row| Some(delivery_of!(row))).collect();
        if deliveries > to_send.len() as u64 {
            self.tell([Write::Relayed]);
        }
        Ok((Relayed::Moved { events, deliveries, ended }, to_send))
    }
}
