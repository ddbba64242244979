//! The history of a job: all of its transitions, complete at any moment, whether or not the relay has moved them yet.
//!
//! Must never show an event twice, or leave one out, while the relay moves events.

use chrono::{DateTime, Utc};

use crate::client::scope::Scope;
use crate::db::connect::Store;
use crate::db::error::StoreError;
use crate::id::{ClientId, JobId};
use crate::job::artifact::ArtifactView;
use crate::job::state::JobState;

/// The values that every event of a job repeats, and its events in order.
#[derive(Debug)]
pub struct JobHistory {
    pub client: ClientId,
    /// As the client wrote it.
    pub model: String,
    /// A JSON object, exactly as the client sent it.
    pub metadata: Option<String>,
    pub events: Vec<JobEvent>,
}

/// One transition.
#[derive(Debug)]
pub struct JobEvent {
    pub seq: i32,
    pub attempt: i32,
    pub state: JobState,
    /// `None` for the first event.
    pub previous_state: Option<JobState>,
    pub error: Option<String>,
    pub at: DateTime<Utc>,
    /// What the attempt made. Empty for every state except `done`.
    pub artifacts: Vec<ArtifactView>,
}

impl Store {
    /// The events of a job after this `seq`, with the data of artifacts up to `inline_limit` bytes. `None` if the job
    /// does not exist. A job without events after `seq` has an empty history.
    pub async fn job_history(
        &self,
        scope: Scope,
        job: JobId,
        after: i32,
        inline_limit: i64,
    ) -> Result<Option<JobHistory>, StoreError> {
        // One statement over both tables: between two statements the relay could move an event past us.
        let mut conn = self.open_for(u64::try_from(inline_limit).unwrap_or(0)).await?;
        let rows = sqlx::query!(
            r#"-- job_history
            SELECT j.client_id AS "client: ClientId", j.model, j.metadata, e.seq AS "seq?", e.attempt AS "attempt?",
                   e.state AS "state?: JobState", e.previous_state AS "previous_state?", e.error AS "error?",
                   e.at AS "at?",
                   a.name AS "artifact?", a.content_type AS "content_type?", a.size AS "size?", a.sha256 AS "sha256?",
                   CASE WHEN a.size <= $3 THEN a.data END AS data
            FROM job j
            LEFT JOIN LATERAL (
                SELECT seq, attempt, state, previous_state, error, at FROM job_event WHERE job_id = $1 AND seq > $4
                UNION ALL
                SELECT seq, attempt, state, previous_state, error, at FROM outbox WHERE job_id = $1 AND seq > $4
            ) AS e ON true
            LEFT JOIN LATERAL (
                SELECT * FROM artifact WHERE job_id = $1 AND attempt = e.attempt AND e.state = 'done' OFFSET 0
            ) AS a ON true
            WHERE j.id = $1 AND ($2::uuid IS NULL OR j.client_id = $2)
            ORDER BY e.seq, a.name"#,
            job.uuid(),
            scope.client(),
            inline_limit,
            after,
        )
        .fetch_all(&mut conn)
        .await?;
        conn.done().await?;
        let mut history: Option<JobHistory> = None;
        for row in rows {
            let history = history.get_or_insert_with(|| JobHistory {
                client: row.client,
                model: row.model,
                metadata: row.metadata,
                events: Vec::new(),
            });
            let artifact =
                ArtifactView::of_columns(row.artifact, row.content_type, row.size, row.sha256, row.data);
            let event = (row.seq, row.attempt, row.state, row.previous_state, row.at);
            let (Some(seq), Some(attempt), Some(state), Some(previous_state), Some(at)) = event else {
                break;
            };
            match history.events.last_mut().filter(|event| event.seq == seq) {
                Some(event) => event.artifacts.extend(artifact),
                None => history.events.push(JobEvent {
                    seq,
                    attempt,
                    state,
                    previous_state: previous_state.parse().ok(),
                    error: row.error,
                    at,
                    artifacts: Vec::from_iter(artifact),
                }),
            }
        }
        Ok(history)
    }
}
