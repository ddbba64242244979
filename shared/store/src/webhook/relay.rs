//! The relay's one statement: it moves outbox rows into the history and makes the webhooks that follow from them.
//!
//! Everything it writes is derived from the rows that it deletes. So two relays never write the same row, whatever their
//! snapshots show.

use crate::db::connect::Store;
use crate::db::drain_bound::DrainBound;
use crate::db::error::StoreError;
use crate::db::wake::Write;
use crate::job::state::JobState;
use crate::webhook::receiver::query_with_receivers;

/// What one turn of the relay did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Relayed {
    /// It moved this many transitions, and made this many webhooks of them.
    Moved { events: u64, deliveries: u64, ended: Vec<EndedJobs> },
    /// Another relay is at work at this moment.
    Busy,
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
    ///
    /// An advisory lock lets one relay work at a time, which keeps the order and saves work. The `DELETE … RETURNING` makes
    /// the result exact: a relay with an old snapshot still sees rows that another relay took, but deletes none of them.
    pub async fn relay_from(&self, bound: &mut DrainBound, limit: i64) -> Result<Relayed, StoreError> {
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
                SELECT g.id, g.job_id, g.seq, g.state, g.state IN ('done', 'failed', 'cancelled', 'expired') AS terminal, j.*
                FROM gone g
                CROSS JOIN LATERAL (
                    SELECT client_id, model_label, webhook_lane, webhook_origin, webhook_url, webhook_events
                    FROM job WHERE id = g.job_id LIMIT 1
                ) AS j
            ), ended AS MATERIALIZED (
                SELECT model_label, state, count(*) AS jobs FROM known WHERE terminal GROUP BY model_label, state
            ), wanted AS MATERIALIZED (
                SELECT j.id, j.job_id, j.seq, j.terminal, j.client_id, receiver.lane_id, receiver.origin
                FROM known j JOIN "# + RECEIVERS + r#"
                  ON NOT receiver.deleted
                 AND (receiver.events IS NULL OR j.state = ANY(receiver.events))
                 AND (receiver.models IS NULL OR lower(j.model_label) = ANY(receiver.models))
            ), lanes AS (
                INSERT INTO webhook_lane (id, client_id, origin)
                SELECT DISTINCT lane_id, client_id, origin FROM wanted ORDER BY lane_id
                ON CONFLICT DO NOTHING
            ), deliveries AS (
                INSERT INTO webhook_delivery (id, lane_id, job_id, seq, terminal, next_attempt_at)
                SELECT (turn.stamp || right(replace(gen_random_uuid()::text, '-', ''), 17))::uuid,
                       w.lane_id, w.job_id, w.seq, w.terminal,
                       greatest(now(), (
                           SELECT max(waiting.next_attempt_at)
                           FROM (SELECT e.next_attempt_at FROM webhook_delivery e
                                 WHERE e.job_id = w.job_id AND (e.lane_id = w.lane_id) IS TRUE
                                   AND e.claim_no IS NULL AND e.attempts > 0 AND NOT e.redelivery
                                 FOR SHARE) AS waiting))
                FROM wanted w, turn ORDER BY w.id
                RETURNING 1
            )
            SELECT turn.mine AS "mine!", (SELECT count(*) FROM gone) AS "events!",
                   (SELECT count(*) FROM deliveries) AS "deliveries!",
                   turn.oldest_running AS "oldest_running!", (SELECT max(id) FROM gone) AS highest,
                   CASE WHEN EXISTS (SELECT FROM gone) THEN pg_current_xact_id()::text::bigint END AS own_number,
                   ended.model_label AS "model_label?", ended.state AS "state?: JobState", ended.jobs AS "jobs?"
            FROM turn LEFT JOIN ended ON true"#,
            limit,
            bound.from(),
        )
        .fetch_all(self.once())
        .await?;
        let Some(turn) = rows.first().filter(|row| row.mine) else { return Ok(Relayed::Busy) };
        let taken = turn.highest.zip(turn.own_number);
        bound.learn(taken, turn.events >= limit, turn.oldest_running);
        let (events, deliveries) = (turn.events.unsigned_abs(), turn.deliveries.unsigned_abs());
        if deliveries > 0 {
            self.tell([Write::Relayed]);
        }
        let ended = rows.into_iter().filter_map(|row| {
            Some(EndedJobs {
                model_label: row.model_label?,
                state: row.state?,
                jobs: row.jobs?.unsigned_abs(),
            })
        });
        Ok(Relayed::Moved { events, deliveries, ended: ended.collect() })
    }
}
