//! The schema: the migrations, which are embedded in the binary. `foreman migrate` applies them.
//!
//! A service must never apply migrations: only `foreman migrate` does.

use sqlx::{Connection, migrate::Migrator, postgres::PgConnection};

use crate::db::conn::Conn;
use crate::db::connect::Store;
use crate::db::error::{StoreError, is_contended};
use crate::db::partition::PartitionUpkeep;

pub(crate) static MIGRATOR: Migrator = sqlx::migrate!("../../migrations");

/// Why the schema could not be brought up to date.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the migrations could not be applied: {0}")]
    Migrate(#[source] sqlx::migrate::MigrateError),
    #[error("another migration or a backup holds the tables; run `foreman migrate` again in a moment")]
    TablesBusy,
}

impl From<sqlx::migrate::MigrateError> for MigrateError {
    fn from(error: sqlx::migrate::MigrateError) -> Self {
        use sqlx::migrate::MigrateError::{Execute, ExecuteMigration};
        match &error {
            Execute(reason) | ExecuteMigration(reason, _) if is_contended(reason) => Self::TablesBusy,
            _ => Self::Migrate(error),
        }
    }
}

/// The number of the newest migration that this build knows. The build runs on this schema and on any later one.
pub fn schema_version_needed() -> i64 {
    MIGRATOR.iter().map(|migration| migration.version).max().unwrap_or(0)
}

impl Store {
    /// Brings the schema up to date: migrations, the settings of the role, partitions. Safe to repeat, and safe from
    /// two machines at once: a session lock lets one of them go first.
    pub async fn migrate(&self) -> Result<(), MigrateError> {
        let mut connection = self.connect_directly().await?;
        MIGRATOR.run(&mut connection).await?;
        bound_idle_transactions(&mut connection).await?;
        match self.make_partitions().await? {
            PartitionUpkeep::Done(_) => {}
            PartitionUpkeep::Busy => return Err(MigrateError::TablesBusy),
        }
        connection.close().await.map_err(StoreError::from)?;
        Ok(())
    }

    /// The number of the newest applied migration, or `None` if no migration was ever applied.
    pub async fn schema_version(&self) -> Result<Option<i64>, StoreError> {
        let mut conn = self.open().await?;
        let version = if was_migrated(&mut conn).await? {
            let newest = sqlx::query_scalar(
                "-- schema_version
                SELECT max(version) FROM _sqlx_migrations WHERE success",
            );
            newest.fetch_one(&mut conn).await?
        } else {
            None
        };
        conn.done().await?;
        Ok(version)
    }
}

/// Whether the table of the migrator exists. Statements on this table are not checked at build time, because no migration of
/// ours makes it.
pub(crate) async fn was_migrated(conn: &mut Conn) -> Result<bool, StoreError> {
    let exists = sqlx::query_scalar(
        "-- was_migrated
        SELECT to_regclass('_sqlx_migrations') IS NOT NULL",
    );
    Ok(exists.fetch_one(conn).await?)
}

/// Ends transactions that are idle for too long, so that a client that dies inside a transaction does not keep its
/// locks.
///
/// This is a setting of the role, not part of a migration, so that a restored dump gets it with the next `foreman
/// migrate`. It has a lock of its own, because Postgres refuses one of two simultaneous changes of the same role.
async fn bound_idle_transactions(connection: &mut PgConnection) -> Result<(), StoreError> {
    sqlx::raw_sql(
        "-- bound_idle_transactions
         DO $$ BEGIN PERFORM pg_advisory_xact_lock(hashtext('foreman role'));
         EXECUTE format('ALTER ROLE CURRENT_USER IN DATABASE %I SET idle_in_transaction_session_timeout = %L',
         current_database(), '5s'); END $$",
    )
    .execute(connection)
    .await?;
    Ok(())
}
