//! Which migrations a database has, and whether they are ours.

use sqlx::Row as _;

use crate::db::connect::Store;
use crate::db::error::StoreError;
use crate::db::schema::{MIGRATOR, schema_version_needed, was_migrated};

/// How the schema of the database compares with the one that this build knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SchemaState {
    /// No migration was ever applied.
    Absent,
    /// This migration began and did not end.
    Failed(i64),
    /// The text of this migration differs from ours.
    Altered(i64),
    /// The first missing migration, and the newest applied one.
    Behind {
        missing: i64,
        newest: i64,
    },
    /// A newer build has migrated the database.
    Ahead {
        newest: i64,
    },
    Current,
}

impl Store {
    /// Compares the schema with the migrations of this build.
    pub async fn schema_state(&self) -> Result<SchemaState, StoreError> {
        let mut conn = self.open().await?;
        let mut applied: Vec<(i64, bool, Vec<u8>)> = Vec::new();
        if was_migrated(&mut conn).await? {
            let rows = sqlx::query(
                "-- applied_migrations
                SELECT version, success, checksum FROM _sqlx_migrations ORDER BY version",
            );
            for row in rows.fetch_all(&mut conn).await? {
                applied.push((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?));
            }
        }
        conn.done().await?;
        Ok(SchemaState::of(&applied))
    }
}

impl SchemaState {
    fn of(applied: &[(i64, bool, Vec<u8>)]) -> Self {
        let Some(newest) = applied.last().map(|(version, ..)| *version) else { return Self::Absent };
        if let Some((version, ..)) = applied.iter().find(|(_, success, _)| !success) {
            return Self::Failed(*version);
        }
        for ours in MIGRATOR.iter() {
            match applied.iter().find(|(version, ..)| *version == ours.version) {
                None => return Self::Behind { missing: ours.version, newest },
                Some((_, _, checksum)) if *checksum != *ours.checksum => return Self::Altered(ours.version),
                Some(_) => {}
            }
        }
        if newest > schema_version_needed() { Self::Ahead { newest } } else { Self::Current }
    }
}
