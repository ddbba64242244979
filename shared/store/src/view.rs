//! Jobs as their owners see them: one by its id, or a page of them.
//!
//! What is shown of a job comes from one statement over every room, by way of the view `job_now`: several would see it in
//! none of them while it moves.

use chrono::{DateTime, Utc};

use crate::{ArtifactView, ClientId, JobId, JobState, Store, StoreError};

/// Whose jobs may be seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    Client(ClientId),
    /// An administrator's.
    Everyone,
}

impl Scope {
    pub(crate) fn client(self) -> Option<uuid::Uuid> {
        match self {
            Self::Client(client) => Some(client.uuid()),
            Self::Everyone => None,
        }
    }
}

/// A job with all that is told of it.
#[derive(Debug, Clone)]
pub struct JobView {
    pub id: JobId,
    pub client: ClientId,
    /// As the client wrote it.
    pub model: String,
    pub state: JobState,
    pub seq: i32,
    pub attempt: i32,
    pub failures: i16,
    pub rescues: i16,
    pub cancel_requested: bool,
    pub priority: i16,
    pub max_attempts: Option<i16>,
    /// A JSON object as it came.
    pub metadata: Option<String>,
    pub webhook_url: Option<String>,
    pub webhook_events: Option<Vec<String>>,
    pub retry_of: Option<JobId>,
    pub created_at: DateTime<Utc>,
    pub run_at: Option<DateTime<Utc>>,
    pub expires_at: DateTime<Utc>,
    /// From when on it might have run.
    pub eligible_at: DateTime<Utc>,
    /// When the last attempt began.
    pub loading_at: Option<DateTime<Utc>>,
    pub working_at: Option<DateTime<Utc>>,
    pub completed_at: Option<DateTime<Utc>>,
    pub error: Option<String>,
    pub error_code: Option<String>,
    pub prompt_tokens: Option<i64>,
    pub completion_tokens: Option<i64>,
    pub artifacts: Vec<ArtifactView>,
}

/// Which jobs a page is made of.
#[derive(Debug, Clone, Default)]
pub struct JobFilter {
    pub state: Option<JobState>,
    /// The model as Ollama compares it.
    pub model: Option<String>,
    /// Only jobs older than this one.
    pub after: Option<JobId>,
}

/// Jobs, newest first.
#[derive(Debug)]
pub struct JobPage {
    pub jobs: Vec<JobView>,
    /// The `after` of the next page, if there may be one. A page can be short, even empty, and still have a next: jobs
    /// change their state while we look, and a search for a model gives up for this page after 10,000 jobs.
    pub next: Option<JobId>,
}

/// How many jobs of a client are looked at for one page of one model, so that a rare model cannot make us read a whole
/// history.
const MODEL_SCAN: i64 = 10_000;

impl Store {
    /// One job, with the data of artifacts up to `inline_limit` bytes.
    pub async fn job(
        &self,
        scope: Scope,
        id: JobId,
        inline_limit: i64,
    ) -> Result<Option<JobView>, StoreError> {
        Ok(self.job_views(scope, &[id], inline_limit).await?.pop())
    }

    /// At most `limit` jobs, newest first, without the data of their artifacts.
    pub async fn jobs(&self, scope: Scope, filter: &JobFilter, limit: usize) -> Result<JobPage, StoreError> {
        let found = self.find_jobs(scope, filter, limit).await?;
        let mut jobs = self.job_views(scope, &found.jobs, NO_DATA).await?;
        jobs.retain(|job| filter.state.is_none_or(|state| job.state == state));
        Ok(JobPage { jobs, next: found.next })
    }

    /// The ids of a page. Each room is read newest first and only as far as the page needs.
    async fn find_jobs(&self, scope: Scope, filter: &JobFilter, limit: usize) -> Result<Found, StoreError> {
        let state = filter.state.map(JobState::as_str);
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let scan = if filter.model.is_some() { MODEL_SCAN } else { limit.saturating_add(1) };
        let mut conn = self.open().await?;
        let rows = sqlx::query!(
            r#"-- find_jobs
            WITH looked_at AS MATERIALIZED (
                SELECT room.job_id
                FROM client c
                CROSS JOIN LATERAL (
                    (SELECT id AS job_id FROM job
                     WHERE $3::text IS NULL AND client_id = c.id AND id < $2 ORDER BY id DESC LIMIT $5)
                    UNION ALL
                    (SELECT job_id FROM job_ready
                     WHERE $3 = 'queued' AND client_id = c.id AND job_id < $2 ORDER BY job_id DESC LIMIT $5)
                    UNION ALL
                    (SELECT job_id FROM job_scheduled
                     WHERE $3 = 'queued' AND client_id = c.id AND job_id < $2 ORDER BY job_id DESC LIMIT $5)
                    UNION ALL
                    (SELECT job_id FROM job_lease
                     WHERE phase = CASE $3 WHEN 'queued' THEN 'held' ELSE $3 END AND client_id = c.id AND job_id < $2
                     ORDER BY job_id DESC LIMIT $5)
                    UNION ALL
                    (SELECT job_id FROM job_done
                     WHERE $3 IN ('done', 'failed', 'cancelled', 'expired') AND state = $3 AND client_id = c.id
                       AND job_id < $2 ORDER BY job_id DESC LIMIT $5)
                ) AS room
                WHERE $1::uuid IS NULL OR c.id = $1
                ORDER BY room.job_id DESC LIMIT $5
            )
            SELECT l.job_id AS "job_id!: JobId", $4::text IS NULL OR split_part(j.load_key, ' ', 1) = $4 AS "matches!"
            FROM looked_at l CROSS JOIN LATERAL (SELECT load_key FROM job WHERE id = l.job_id) AS j
            ORDER BY l.job_id DESC"#,
            scope.client(),
            filter.after.unwrap_or(JobId::MAX).uuid(),
            state,
            filter.model,
            scan,
        )
        .fetch_all(&mut conn)
        .await?;
        conn.done().await?;
        let all_seen = rows.len() < usize::try_from(scan).unwrap_or(usize::MAX);
        let last_seen = rows.last().map(|row| row.job_id);
        let mut jobs: Vec<JobId> = rows.into_iter().filter(|row| row.matches).map(|row| row.job_id).collect();
        let more = jobs.len() > usize::try_from(limit).unwrap_or(usize::MAX);
        jobs.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        let next = if more { jobs.last().copied() } else { last_seen.filter(|_| !all_seen) };
        Ok(Found { jobs, next })
    }

    /// These jobs as they stand, newest first.
    async fn job_views(
        &self,
        scope: Scope,
        ids: &[JobId],
        inline_limit: i64,
    ) -> Result<Vec<JobView>, StoreError> {
        let ids: Vec<_> = ids.iter().map(|id| id.uuid()).collect();
        let mut conn = self.open().await?;
        let rows = sqlx::query!(
            r#"-- job_views
            SELECT v.id AS "id!: JobId", v.client_id AS "client!: ClientId", v.model AS "model!",
                   v.state AS "state!: JobState", v.seq AS "seq!", v.attempt AS "attempt!", v.failures AS "failures!",
                   v.rescues AS "rescues!", v.cancel_requested AS "cancel_requested!", v.priority AS "priority!",
                   v.max_attempts, v.metadata, v.webhook_url, v.webhook_events, v.retry_of AS "retry_of: JobId",
                   v.created_at AS "created_at!", v.run_at, v.expires_at AS "expires_at!",
                   v.eligible_at AS "eligible_at!", v.loading_at, v.working_at, v.completed_at, v.error, v.error_code,
                   v.prompt_tokens, v.completion_tokens,
                   a.name AS "artifact?", a.content_type AS "content_type?", a.size AS "size?", a.sha256 AS "sha256?",
                   CASE WHEN a.size <= $3 THEN a.data END AS data
            FROM unnest($1::uuid[]) AS wanted (id)
            JOIN job_now v ON v.id = wanted.id
            LEFT JOIN LATERAL (SELECT * FROM artifact WHERE job_id = wanted.id OFFSET 0) AS a ON true
            WHERE $2::uuid IS NULL OR v.client_id = $2
            ORDER BY v.id DESC, a.name"#,
            &ids,
            scope.client(),
            inline_limit,
        )
        .fetch_all(&mut conn)
        .await?;
        conn.done().await?;
        let mut jobs: Vec<JobView> = Vec::with_capacity(ids.len());
        // One row an artifact, those of one job together.
        for row in rows {
            let artifact =
                ArtifactView::of_columns(row.artifact, row.content_type, row.size, row.sha256, row.data);
            match jobs.last_mut().filter(|job| job.id == row.id) {
                Some(job) => job.artifacts.extend(artifact),
                None => jobs.push(JobView {
                    id: row.id,
                    client: row.client,
                    model: row.model,
                    state: row.state,
                    seq: row.seq,
                    attempt: row.attempt,
                    failures: row.failures,
                    rescues: row.rescues,
                    cancel_requested: row.cancel_requested,
                    priority: row.priority,
                    max_attempts: row.max_attempts,
                    metadata: row.metadata,
                    webhook_url: row.webhook_url,
                    webhook_events: row.webhook_events,
                    retry_of: row.retry_of,
                    created_at: row.created_at,
                    run_at: row.run_at,
                    expires_at: row.expires_at,
                    eligible_at: row.eligible_at,
                    loading_at: row.loading_at,
                    working_at: row.working_at,
                    completed_at: row.completed_at,
                    error: row.error,
                    error_code: row.error_code,
                    prompt_tokens: row.prompt_tokens,
                    completion_tokens: row.completion_tokens,
                    artifacts: Vec::from_iter(artifact),
                }),
            }
        }
        Ok(jobs)
    }
}

/// No artifact is as small as this.
const NO_DATA: i64 = -1;

struct Found {
    jobs: Vec<JobId>,
    next: Option<JobId>,
}
