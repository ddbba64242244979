//! Fails ready jobs whose model no host has.
//!
//! Must never fail a job whose model any host has.

use crate::db::connect::Store;
use crate::db::error::StoreError;
use crate::db::wake::Write;
use crate::id::JobId;
use crate::job::transition::Reason;

impl Store {
    /// Fails ready jobs of these models, at most `limit`, each with the reason given for its model. The same
    /// statement proves that no host has the model, whether its worker lives or not. Returns the jobs, each with its
    /// model.
    ///
    /// Scheduled jobs are left alone, because the model may be there when their time comes.
    pub async fn fail_for_want_of_model(
        &self,
        models: &[(String, Reason)],
        limit: i64,
    ) -> Result<Vec<(JobId, String)>, StoreError> {
        let names: Vec<_> = models.iter().map(|(model, _)| model.as_str()).collect();
        let errors: Vec<_> = models.iter().map(|(_, reason)| reason.error.as_str()).collect();
        let codes: Vec<_> = models.iter().map(|(_, reason)| reason.code.as_str()).collect();
        let rows = sqlx::query!(
            r#"-- fail_for_want_of_model
            WITH missing AS MATERIALIZED (
                SELECT * FROM unnest($1::text[], $2::text[], $3::text[]) AS t (model, error, error_code)
                WHERE EXISTS (SELECT FROM host WHERE published_at IS NOT NULL)
                  AND NOT EXISTS (SELECT FROM host_model m WHERE m.canonical = t.model)
            ), picked AS MATERIALIZED (
                SELECT r.client_id, r.job_id, missing.*
                FROM missing CROSS JOIN LATERAL (
                    -- The load key is the model alone, or the model, a blank and the load options. `!` is the
                    -- character after the blank.
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
            ), used AS (
                INSERT INTO usage_entry (hour, client_id, user_name, model, failed)
                SELECT date_trunc('hour', at, 'UTC'), client_id, user_name, split_part(load_key, ' ', 1), count(*)
                FROM gone GROUP BY 1, 2, 3, 4
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
        .fetch_all(self.once())
        .await?;
        if !rows.is_empty() {
            self.tell([Write::EndedUnclaimed]);
        }
        Ok(rows.into_iter().map(|row| (row.job, row.model)).collect())
    }
}
