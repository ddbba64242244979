//! The artifacts that are sent inside webhooks, read after the claim unless they came with it.

use std::collections::HashMap;

use crate::db::connect::Store;
use crate::db::error::StoreError;
use crate::id::JobId;
use crate::job::artifact::ArtifactView;
use crate::job::state::JobState;
use crate::webhook::claim::Delivery;

impl Store {
    /// Reads the artifacts for the `done` events among these deliveries. Those of at most `inline_limit` bytes come with
    /// their data.
    pub async fn add_artifacts(
        &self,
        deliveries: &mut [Delivery],
        inline_limit: i64,
    ) -> Result<(), StoreError> {
        let done = |delivery: &&mut Delivery| delivery.event.state == JobState::Done;
        let jobs: Vec<_> = deliveries.iter_mut().filter(done).map(|delivery| delivery.job).collect();
        let bytes = deliveries.iter().map(|delivery| delivery.artifact_bytes).sum();
        let made = self.artifacts_of(&jobs, bytes, inline_limit).await?;
        for delivery in deliveries.iter_mut().filter(done) {
            // Two deliveries of one event (a redelivery beside the first) both get them.
            let of_attempt = made.get(&(delivery.job, delivery.event.attempt));
            delivery.event.artifacts = of_attempt.cloned().unwrap_or_default();
        }
        Ok(())
    }

    /// The artifacts that one attempt of a job made. Those of at most `inline_limit` bytes come with their data, `bytes`
    /// in all.
    pub async fn artifacts(
        &self,
        job: JobId,
        attempt: i32,
        bytes: u64,
        inline_limit: i64,
    ) -> Result<Vec<ArtifactView>, StoreError> {
        let mut made = self.artifacts_of(&[job], bytes, inline_limit).await?;
        Ok(made.remove(&(job, attempt)).unwrap_or_default())
    }

    /// The artifacts by job and attempt.
    async fn artifacts_of(
        &self,
        jobs: &[JobId],
        bytes: u64,
        inline_limit: i64,
    ) -> Result<HashMap<(JobId, i32), Vec<ArtifactView>>, StoreError> {
        if jobs.is_empty() {
            return Ok(HashMap::new());
        }
        let jobs: Vec<_> = jobs.iter().map(|job| job.uuid()).collect();
        let mut conn = self.open_for(bytes).await?;
        let rows = sqlx::query!(
            r#"-- artifacts_of
            SELECT a.job_id AS "job: JobId", a.attempt, a.name, a.content_type, a.size, a.sha256,
                   CASE WHEN a.size <= $2 THEN a.data END AS data
            FROM unnest($1::uuid[]) AS wanted (job_id)
            CROSS JOIN LATERAL (SELECT * FROM artifact WHERE job_id = wanted.job_id OFFSET 0) AS a
            ORDER BY a.job_id, a.name"#,
            &jobs,
            inline_limit,
        )
        .fetch_all(&mut conn)
        .await?;
        conn.done().await?;
        let mut made = HashMap::<(JobId, i32), Vec<ArtifactView>>::new();
        for row in rows {
            made.entry((row.job, row.attempt)).or_default().push(ArtifactView {
                name: row.name,
                content_type: row.content_type,
                size: row.size,
                sha256: row.sha256,
                data: row.data,
            });
        }
        Ok(made)
    }
}
