//! What jobs made: as part of a job, or one by itself with all its bytes.

use crate::{JobId, Scope, Store, StoreError};

/// What a job made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArtifactView {
    pub name: String,
    pub content_type: String,
    /// Bytes.
    pub size: i64,
    pub sha256: Vec<u8>,
    /// Only where it was asked for and is not too large.
    pub data: Option<Vec<u8>>,
}

impl ArtifactView {
    /// From the columns of an outer join: an artifact has all of them or none.
    pub(crate) fn of_columns(
        name: Option<String>,
        content_type: Option<String>,
        size: Option<i64>,
        sha256: Option<Vec<u8>>,
        data: Option<Vec<u8>>,
    ) -> Option<Self> {
        Some(Self { name: name?, content_type: content_type?, size: size?, sha256: sha256?, data })
    }
}

/// An artifact with its bytes.
#[derive(Debug)]
pub struct ArtifactBytes {
    pub content_type: String,
    pub sha256: Vec<u8>,
    pub data: Vec<u8>,
}

impl Store {
    /// One artifact of a job, in full.
    pub async fn artifact(
        &self,
        scope: Scope,
        job: JobId,
        name: &str,
    ) -> Result<Option<ArtifactBytes>, StoreError> {
        let mut conn = self.open().await?;
        let artifact = sqlx::query_as!(
            ArtifactBytes,
            r#"-- artifact
            SELECT a.content_type, a.sha256, a.data
            FROM artifact a
            WHERE a.job_id = $1 AND a.name = $3
              AND EXISTS (SELECT FROM job j WHERE j.id = $1 AND ($2::uuid IS NULL OR j.client_id = $2))"#,
            job.uuid(),
            scope.client(),
            name,
        )
        .fetch_optional(&mut conn)
        .await?;
        conn.done().await?;
        Ok(artifact)
    }

    /// How large an artifact is, before it is read.
    pub async fn artifact_size(
        &self,
        scope: Scope,
        job: JobId,
        name: &str,
    ) -> Result<Option<i64>, StoreError> {
        let mut conn = self.open().await?;
        let size = sqlx::query_scalar!(
            r#"-- artifact_size
            SELECT a.size FROM artifact a
            WHERE a.job_id = $1 AND a.name = $3
              AND EXISTS (SELECT FROM job j WHERE j.id = $1 AND ($2::uuid IS NULL OR j.client_id = $2))"#,
            job.uuid(),
            scope.client(),
            name,
        )
        .fetch_optional(&mut conn)
        .await?;
        conn.done().await?;
        Ok(size)
    }
}
