//! Jobs as their owners see them: one job by its id, or a page of jobs.
//!
//! Must never read one job with several statements: while a job moves from room to room, they might find it in none
//! of them. (The view `job_now` is kept for binaries of the version before this one; nothing else reads it.)

use chrono::{DateTime, Utc};

use crate::client::scope::Scope;
use crate::db::connect::Store;
use crate::db::error::StoreError;
use crate::id::{ClientId, JobId};
use crate::job::artifact::ArtifactView;
use crate::job::state::JobState;
use crate::job::user_name::UserName;

/// A job, with everything that its owner may see.
#[derive(Debug, Clone)]
pub struct JobView {
    pub id: JobId,
    pub client: ClientId,
    pub user: UserName,
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
    /// A JSON object, exactly as the client sent it.
    pub metadata: Option<String>,
    pub webhook_url: Option<String>,
    pub webhook_events: Option<Vec<String>>,
    pub retry_of: Option<JobId>,
    pub created_at: DateTime<Utc>,
    pub run_at: Option<DateTime<Utc>>,
    pub expires_at: DateTime<Utc>,
    /// The moment from which on the job may run.
    pub eligible_at: DateTime<Utc>,
    /// When the last attempt began.
    pub loading_at: Option<DateTime<Utc>>,
    pub working_at: Option<DateTime<Utc>>,
    pub completed_at: Option<DateTime<Utc>>,
    pub error: Option<String>,
    pub error_code: Option<String>,
    pub prompt_tokens: Option<i64>,
    pub completion_tokens: Option<i64>,
    /// The context length with which it ran, in tokens.
    pub context: Option<i64>,
    pub artifacts: Vec<ArtifactView>,
}

/// Which jobs a page shows.
#[derive(Debug, Clone, Default)]
pub struct JobFilter {
    pub state: Option<JobState>,
    /// The model as Ollama compares it.
    pub model: Option<String>,
    /// Only jobs older than this one.
    pub after: Option<JobId>,
}

/// A page of jobs, newest first.
#[derive(Debug)]
pub struct JobPage {
    pub jobs: Vec<JobView>,
    /// The `after` of the next page, if there may be one. A page can be short, even empty, and still have a next
    /// page: jobs change their state while we read them, and a search for a model stops for this page after 10,000
    /// jobs.
    pub next: Option<JobId>,
}

/// How many jobs of a client one page of one model looks at, so that a search for a rare model does not read the
/// client's whole history.
const MODEL_SCAN: i64 = 10_000;

/// How many jobs of a page one statement reads. Between two statements other requests get the processor.
const PIECE: usize = 100;

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
        let mut jobs = Vec::with_capacity(found.jobs.len());
        for piece in found.jobs.chunks(PIECE) {
            jobs.extend(self.job_views(scope, piece, NO_DATA).await?);
        }
        jobs.retain(|job| filter.state.is_none_or(|state| job.state == state));
        Ok(JobPage { jobs, next: found.next })
    }

    /// The ids of a page. Reads each room newest first, and only as far as the page needs.
    async fn find_jobs(&self, scope: Scope, filter: &JobFilter, limit: usize) -> Result<Found, StoreError> {
        let state = filter.state.map(JobState::as_str);
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let scan = if filter.model.is_some() { MODEL_SCAN } else { limit.saturating_add(1) };
        // The client is given as a range (`BETWEEN c.id AND c.id`) where its jobs are read in order: then only the
        // index of the list gives that order. With an equality the primary key would give the order too. Postgres
        // does not know how few jobs of a day belong to this client, so it might choose the primary key and read all
        // jobs of the day.
        let rows = sqlx::query!(
            r#"-- find_jobs
            WITH looked_at AS MATERIALIZED (
                SELECT room.job_id
                FROM (SELECT $1::uuid AS id WHERE $1 IS NOT NULL
                      UNION ALL
                      SELECT id FROM client WHERE $1 IS NULL AND $3::text IS NOT NULL) AS c
                CROSS JOIN LATERAL (
                    (SELECT id AS job_id FROM job
                     WHERE $3 IS NULL AND client_id BETWEEN c.id AND c.id AND id < $2
                     ORDER BY client_id, id DESC LIMIT $5)
                    UNION ALL
                    (SELECT job_id FROM job_ready
                     WHERE $3 = 'queued' AND client_id = c.id AND job_id < $2 ORDER BY job_id DESC LIMIT $5)
                    UNION ALL
                    (SELECT job_id FROM job_scheduled
                     WHERE $3 = 'queued' AND client_id = c.id AND job_id < $2 ORDER BY job_id DESC LIMIT $5)
                    UNION ALL
                    (SELECT job_id FROM job_lease
                     WHERE $3 IN ('queued', 'loading', 'working')
                       AND phase = CASE $3 WHEN 'queued' THEN 'held' ELSE $3 END AND client_id = c.id AND job_id < $2
                     ORDER BY job_id DESC LIMIT $5)
                    UNION ALL
                    (SELECT job_id FROM job_done
                     WHERE $3 IN ('done', 'failed', 'cancelled', 'expired') AND state = $3
                       AND client_id BETWEEN c.id AND c.id AND job_id < $2
                     ORDER BY client_id, job_id DESC LIMIT $5)
                ) AS room
                UNION ALL
                (SELECT id FROM job WHERE $1 IS NULL AND $3 IS NULL AND id < $2 ORDER BY id DESC LIMIT $5)
                ORDER BY job_id DESC LIMIT $5
            )
            SELECT l.job_id AS "job_id!: JobId",
                   CASE WHEN $4::text IS NULL THEN true
                        ELSE split_part((SELECT load_key FROM job WHERE id = l.job_id), ' ', 1) = $4
                   END AS "matches!"
            FROM looked_at l
            ORDER BY l.job_id DESC"#,
            scope.client(),                            // $1 client
            filter.after.unwrap_or(JobId::MAX).uuid(), // $2 after
            state,                                     // $3 state
            filter.model,                              // $4 model
            scan,                                      // $5 most jobs to look at
        )
        .fetch_all(self.once())
        .await?;
        let all_seen = rows.len() < usize::try_from(scan).unwrap_or(usize::MAX);
        let last_seen = rows.last().map(|row| row.job_id);
        let mut jobs: Vec<JobId> = rows.into_iter().filter(|row| row.matches).map(|row| row.job_id).collect();
        let more = jobs.len() > usize::try_from(limit).unwrap_or(usize::MAX);
        jobs.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        let next = if more { jobs.last().copied() } else { last_seen.filter(|_| !all_seen) };
        Ok(Found { jobs, next })
    }

    /// These jobs as they are now, newest first.
    async fn job_views(
        &self,
        scope: Scope,
        ids: &[JobId],
        inline_limit: i64,
    ) -> Result<Vec<JobView>, StoreError> {
        let ids: Vec<_> = ids.iter().map(|id| id.uuid()).collect();
        // Each table is looked up on its own; `OFFSET 0` keeps Postgres from joining the tables in an order of its
        // own. With old or missing statistics it would read all jobs of a day for each id.
        let mut conn = self.open_for(u64::try_from(inline_limit).unwrap_or(0)).await?;
        let rows = sqlx::query!(
            r#"-- job_views
            SELECT j.id AS "id!: JobId", j.client_id AS "client!: ClientId", j.user_name AS "user!: UserName",
                   j.model AS "model!",
                   room.state AS "state!: JobState", room.seq AS "seq!", room.attempt AS "attempt!",
                   room.failures AS "failures!", room.rescues AS "rescues!",
                   room.cancel_requested AS "cancel_requested!", j.priority AS "priority!", j.max_attempts, j.metadata,
                   j.webhook_url, j.webhook_events, j.retry_of AS "retry_of: JobId", j.created_at AS "created_at!",
                   j.run_at, j.expires_at AS "expires_at!", room.eligible_at AS "eligible_at!",
                   -- A job that waits for another attempt shows when its last attempt began.
                   coalesce(room.loading_at, (
                       SELECT min(e.at)
                       FROM (SELECT job_id, attempt, state, at FROM job_event
                             UNION ALL SELECT job_id, attempt, state, at FROM outbox) AS e
                       WHERE room.attempt > 0 AND e.job_id = j.id AND e.state = 'loading' AND e.attempt = room.attempt
                   )) AS loading_at,
                   room.working_at, room.completed_at, room.error, room.error_code, room.prompt_tokens,
                   room.completion_tokens, room.context,
                   a.name AS "artifact?", a.content_type AS "content_type?", a.size AS "size?", a.sha256 AS "sha256?",
                   CASE WHEN a.size <= $3 THEN a.data END AS data
            FROM unnest($1::uuid[]) AS wanted (id)
            CROSS JOIN LATERAL (
                SELECT * FROM job WHERE id = wanted.id AND ($2::uuid IS NULL OR client_id = $2) OFFSET 0
            ) AS j
            CROSS JOIN LATERAL (
                SELECT 'queued' AS state, seq, attempt, failures, rescues, eligible_at, false AS cancel_requested,
                       NULL::timestamptz AS loading_at, NULL::timestamptz AS working_at,
                       NULL::timestamptz AS completed_at, NULL AS error, NULL AS error_code,
                       NULL::bigint AS prompt_tokens, NULL::bigint AS completion_tokens,
                       NULL::bigint AS context
                FROM job_ready WHERE client_id = j.client_id AND job_id = wanted.id
                UNION ALL
                SELECT 'queued', seq, attempt, failures, rescues, eligible_at, false, NULL, NULL, NULL, NULL, NULL, NULL,
                       NULL, NULL
                FROM job_scheduled WHERE client_id = j.client_id AND job_id = wanted.id
                UNION ALL
                SELECT CASE phase WHEN 'held' THEN 'queued' ELSE phase END, seq, attempt, failures, rescues, eligible_at,
                       cancel, loading_at, working_at, NULL, NULL, NULL, NULL, NULL, NULL
                FROM job_lease WHERE job_id = wanted.id
                UNION ALL
                SELECT state, seq, attempt, failures, rescues, eligible_at, state = 'cancelled', loading_at, working_at,
                       completed_at, error, error_code, prompt_tokens, completion_tokens, context
                FROM job_done WHERE job_id = wanted.id
                OFFSET 0
            ) AS room
            LEFT JOIN LATERAL (SELECT * FROM artifact WHERE job_id = wanted.id OFFSET 0) AS a ON true
            ORDER BY j.id DESC, a.name"#,
            &ids,
            scope.client(),
            inline_limit,
        )
        .fetch_all(&mut conn)
        .await?;
        conn.done().await?;
        let mut jobs: Vec<JobView> = Vec::with_capacity(ids.len());
        // One row per artifact; the rows of one job stand together.
        for row in rows {
            let artifact =
                ArtifactView::of_columns(row.artifact, row.content_type, row.size, row.sha256, row.data);
            match jobs.last_mut().filter(|job| job.id == row.id) {
                Some(job) => job.artifacts.extend(artifact),
                None => jobs.push(JobView {
                    id: row.id,
                    client: row.client,
                    user: row.user,
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
                    context: row.context,
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
