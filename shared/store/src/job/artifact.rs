//! Artifacts, the results of jobs: as part of a job, or one alone with all its bytes.
//!
//! Must never read the data of an artifact that the caller did not ask for.

use std::iter::zip;

use crate::client::scope::Scope;
use crate::db::connect::Store;
use crate::db::error::StoreError;
use crate::id::JobId;

/// An artifact of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArtifactView {
    pub name: String,
    pub content_type: String,
    /// Bytes.
    pub size: i64,
    pub sha256: Vec<u8>,
    /// Only if the caller asked for the data, and the data is not larger than the limit.
    pub data: Option<Vec<u8>>,
}

impl ArtifactView {
    /// Reads the columns of an outer join: either all of an artifact's columns are there, or none is.
    pub(crate) fn of_columns(
        name: Option<String>,
        content_type: Option<String>,
        size: Option<i64>,
        sha256: Option<Vec<u8>>,
        data: Option<Vec<u8>>,
    ) -> Option<Self> {
        Some(Self { name: name?, content_type: content_type?, size: size?, sha256: sha256?, data })
    }

    /// Reads the artifacts of one row, a column of each in an array. An array is NULL where there are none.
    pub(crate) fn of_arrays(
        names: Option<Vec<String>>,
        content_types: Option<Vec<String>>,
        sizes: Option<Vec<i64>>,
        digests: Option<Vec<Vec<u8>>>,
        data: Option<Vec<Option<Vec<u8>>>>,
    ) -> Vec<Self> {
        let columns = names.zip(content_types).zip(sizes).zip(digests).zip(data);
        let Some(((((names, content_types), sizes), digests), data)) = columns else { return Vec::new() };
        zip(zip(zip(names, content_types), zip(sizes, digests)), data)
            .map(|(((name, content_type), (size, sha256)), data)| Self {
                name,
                content_type,
                size,
                sha256,
                data,
            })
            .collect()
    }
}

/// An artifact without its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArtifactHead {
    pub content_type: String,
    /// Bytes.
    pub size: i64,
    pub sha256: Vec<u8>,
}

/// The size of the pieces in which an artifact of this many bytes should be read. For each piece, Postgres decompresses the
/// value from its beginning, so a large artifact is read in few pieces.
pub fn artifact_piece(size: u64) -> u64 {
    const SMALLEST: u64 = 1 << 20;
    const MOST_PIECES: u64 = 16;
    size.div_ceil(MOST_PIECES).max(SMALLEST)
}

impl Store {
    /// An artifact's type, size and digest, without reading its bytes.
    pub async fn artifact_head(
        &self,
        scope: Scope,
        job: JobId,
        name: &str,
    ) -> Result<Option<ArtifactHead>, StoreError> {
        let head = sqlx::query_as!(
            ArtifactHead,
            r#"-- artifact_head
            SELECT a.content_type, a.size, a.sha256
            FROM artifact a
            WHERE a.job_id = $1 AND a.name = $3
              AND EXISTS (SELECT FROM job j WHERE j.id = $1 AND ($2::uuid IS NULL OR j.client_id = $2))"#,
            job.uuid(),
            scope.client(),
            name,
        )
        .fetch_optional(self.once())
        .await?;
        Ok(head)
    }

    /// `length` bytes of an artifact, starting at `from` (the first byte is 0). Only these bytes leave Postgres.
    pub async fn artifact_part(
        &self,
        scope: Scope,
        job: JobId,
        name: &str,
        from: u64,
        length: u64,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        // No value in Postgres is larger than an `i32` can count.
        let [from, length] = [from, length].map(|bytes| i32::try_from(bytes).unwrap_or(i32::MAX));
        let part = sqlx::query_scalar!(
            r#"-- artifact_part
            SELECT substring(a.data FROM $4::integer + 1 FOR $5::integer) AS "part!"
            FROM artifact a
            WHERE a.job_id = $1 AND a.name = $3
              AND EXISTS (SELECT FROM job j WHERE j.id = $1 AND ($2::uuid IS NULL OR j.client_id = $2))"#,
            job.uuid(),     // $1 job
            scope.client(), // $2 client
            name,           // $3 name
            from,           // $4 first byte
            length,         // $5 number of bytes
        )
        .fetch_optional(self.once())
        .await?;
        Ok(part)
    }
}
