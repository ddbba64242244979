//! The schema: embedded migrations, applied once from wherever `foreman migrate` runs first.

use sqlx::{Connection, migrate::Migrator, postgres::PgConnection};

use crate::db::connect::Store;
use crate::db::error::StoreError;
use crate::db::partition::PartitionUpkeep;

pub(crate) static MIGRATOR: Migrator = sqlx::migrate!("../../migrations");

/// Why the schema could not be brought up to date.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the migrations could not be applied: {0}")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    #[error("another migration or a backup holds the tables; run `foreman migrate` again in a moment")]
    PartitionsBusy,
}

/// The number of the newest migration that this build knows; it runs on this one and any later.
pub fn schema_version_needed() -> i64 {
    MIGRATOR.iter().map(|migration| migration.version).max().unwrap_or(0)
}

impl Store {
    /// Brings the schema up to date: migrations, the role's settings, partitions. Safe twice and from two
    /// places at once: a session lock lets one go first.
    pub async fn migrate(&self) -> Result<(), MigrateError> {
        let mut connection = self.connect_directly().await?;
        MIGRATOR.run(&mut connection).await?;
        bound_idle_transactions(&mut connection).await?;
        match self.make_partitions().await? {
            PartitionUpkeep::Done(_) => {}
            PartitionUpkeep::Busy => return Err(MigrateError::PartitionsBusy),
        }
        connection.close().await.map_err(StoreError::from)?;
        Ok(())
    }

    /// The number of the newest migration applied, or `None` on a database that never saw one.
    pub async fn schema_version(&self) -> Result<Option<i64>, StoreError> {
        let mut conn = self.open().await?;
        // Unchecked at build time: the table belongs to the migrator, not to us.
        let exists: bool = sqlx::query_scalar("SELECT to_regclass('_sqlx_migrations') IS NOT NULL")
            .fetch_one(&mut conn)
            .await?;
        let version = if exists {
            sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations WHERE success")
                .fetch_one(&mut conn)
                .await?
        } else {
            None
        };
        conn.done().await?;
        Ok(version)
    }
}

/// A client that dies inside a transaction must not hold its locks for ever. A setting of the role and not of a
/// migration, so that a restored dump has it after the next `foreman migrate` too. Under a lock of its own, because
/// Postgres refuses one of two changes of the same role that come at the same time.
async fn bound_idle_transactions(connection: &mut PgConnection) -> Result<(), StoreError> {
    sqlx::raw_sql(
        "DO $$ BEGIN PERFORM pg_advisory_xact_lock(hashtext('foreman role'));
         EXECUTE format('ALTER ROLE CURRENT_USER IN DATABASE %I SET idle_in_transaction_session_timeout = %L',
         current_database(), '5s'); END $$",
    )
    .execute(connection)
    .await?;
    Ok(())
}
