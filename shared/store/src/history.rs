//! The history of a job: every transition, complete at any moment, whether the relay has been by or not.

use chrono::{DateTime, Utc};

use crate::{ArtifactView, JobId, JobState, Scope, Store, StoreError};

/// What every event of a job repeats, and its events in order.
#[derive(Debug)]
pub struct JobHistory {
    /// As the client wrote it.
    pub model: String,
    /// A JSON object as it came.
    pub metadata: Option<String>,
    pub events: Vec<JobEvent>,
}

/// One transition.
#[derive(Debug)]
pub struct JobEvent {
    pub seq: i32,
    pub attempt: i32,
    pub state: JobState,
    /// `None` for the first.
    pub previous_state: Option<JobState>,
    pub error: Option<String>,
    pub at: DateTime<Utc>,
    /// What that attempt made; of `done` alone.
    pub artifacts: Vec<ArtifactView>,
}

impl Store {
    /// All events of a job, with the data of artifacts up to `inline_limit` bytes.
    pub async fn job_history(
        &self,
        scope: Scope,
        job: JobId,
        inline_limit: i64,
    ) -> Result<Option<JobHistory>, StoreError> {
        let mut conn = self.open().await?;
        // One statement over both tables: between two the relay may carry an event past us.
        let rows = sqlx::query!(
            r#"-- job_history
            SELECT j.model, j.metadata, e.seq AS "seq!", e.attempt AS "attempt!", e.state AS "state!: JobState",
                   e.previous_state AS "previous_state!", e.error, e.at AS "at!",
                   a.name AS "artifact?", a.content_type AS "content_type?", a.size AS "size?", a.sha256 AS "sha256?",
                   CASE WHEN a.size <= $3 THEN a.data END AS data
            FROM job j
            CROSS JOIN LATERAL (
                SELECT seq, attempt, state, previous_state, error, at FROM job_event WHERE job_id = $1
                UNION ALL
                SELECT seq, attempt, state, previous_state, error, at FROM outbox WHERE job_id = $1
            ) AS e
            LEFT JOIN LATERAL (
                SELECT * FROM artifact WHERE job_id = $1 AND attempt = e.attempt AND e.state = 'done' OFFSET 0
            ) AS a ON true
            WHERE j.id = $1 AND ($2::uuid IS NULL OR j.client_id = $2)
            ORDER BY e.seq, a.name"#,
            job.uuid(),
            scope.client(),
            inline_limit,
        )
        .fetch_all(&mut conn)
        .await?;
        conn.done().await?;
        let mut history: Option<JobHistory> = None;
        for row in rows {
            let history = history.get_or_insert_with(|| JobHistory {
                model: row.model,
                metadata: row.metadata,
                events: Vec::new(),
            });
            let artifact =
                ArtifactView::of_columns(row.artifact, row.content_type, row.size, row.sha256, row.data);
            match history.events.last_mut().filter(|event| event.seq == row.seq) {
                Some(event) => event.artifacts.extend(artifact),
                None => history.events.push(JobEvent {
                    seq: row.seq,
                    attempt: row.attempt,
                    state: row.state,
                    previous_state: row.previous_state.parse().ok(),
                    error: row.error,
                    at: row.at,
                    artifacts: Vec::from_iter(artifact),
                }),
            }
        }
        Ok(history)
    }
}
