//! Adds up what attempts and jobs have used, by the hour, and forgets hours of long ago.
//!
//! Must never count an entry twice: the sums follow from the entries that the same statement deletes.

use std::time::Duration;

use crate::db::connect::Store;
use crate::db::drain_bound::DrainBound;
use crate::db::error::StoreError;

impl Store {
    /// Moves the oldest entries into the sums of their hours, at most `limit`. Returns how many, 0 also while another janitor
    /// does this. `bound` is what a janitor remembers between two turns.
    pub async fn add_up_usage(&self, bound: &mut DrainBound, limit: i64) -> Result<u64, StoreError> {
        // The advisory lock keeps two janitors from waiting for the row of the same hour.
        let turn = sqlx::query!(
            r#"-- add_up_usage
            WITH turn AS MATERIALIZED (
                SELECT pg_try_advisory_xact_lock(hashtext('foreman usage')) AS mine,
                       pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS oldest_running
            ), gone AS (
                DELETE FROM usage_entry
                WHERE id = ANY(ARRAY(SELECT id FROM usage_entry
                                     WHERE (SELECT mine FROM turn) AND id >= $2 ORDER BY id LIMIT $1))
                RETURNING *
            ), added AS (
                INSERT INTO usage_hour AS u (client_id, hour, user_name, model, done, failed, cancelled, expired,
                                             gpu_seconds, loads, prompt_tokens, completion_tokens)
                SELECT client_id, hour, user_name, model, sum(done), sum(failed), sum(cancelled), sum(expired),
                       sum(gpu_seconds), sum(loads), sum(prompt_tokens), sum(completion_tokens)
                FROM gone GROUP BY client_id, hour, user_name, model
                ON CONFLICT (client_id, hour, user_name, model) DO UPDATE
                SET done = u.done + excluded.done, failed = u.failed + excluded.failed,
                    cancelled = u.cancelled + excluded.cancelled, expired = u.expired + excluded.expired,
                    gpu_seconds = u.gpu_seconds + excluded.gpu_seconds, loads = u.loads + excluded.loads,
                    prompt_tokens = u.prompt_tokens + excluded.prompt_tokens,
                    completion_tokens = u.completion_tokens + excluded.completion_tokens
            )
            SELECT mine AS "mine!", oldest_running AS "oldest_running!", (SELECT count(*) FROM gone) AS "entries!",
                   (SELECT max(id) FROM gone) AS highest,
                   CASE WHEN EXISTS (SELECT FROM gone) THEN pg_current_xact_id()::text::bigint END AS own_number
            FROM turn"#,
            limit,
            bound.from(),
        )
        .fetch_one(self.once())
        .await?;
        if turn.mine {
            bound.learn(turn.highest.zip(turn.own_number), turn.entries >= limit, turn.oldest_running);
        }
        Ok(turn.entries.unsigned_abs())
    }

    /// Forgets the sums of the oldest hour, if it was over before the last `kept_for`. Returns how many these were.
    pub async fn prune_usage(&self, kept_for: Duration) -> Result<u64, StoreError> {
        let pruned = sqlx::query!(
            "-- prune_usage
            DELETE FROM usage_hour
            WHERE hour = (SELECT min(hour) FROM usage_hour)
              AND hour < now() - make_interval(secs => $1) - interval '1 hour'",
            kept_for.as_secs_f64(),
        )
        .execute(self.once())
        .await?;
        Ok(pruned.rows_affected())
    }
}
