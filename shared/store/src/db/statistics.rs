//! What Postgres believes of our tables when it plans a statement. A plan is kept as long as its connection, or until
//! somebody analyses one of its tables.
//!
//! Our statements are written so that any statistics will do, and none as well, but for one case: where a table is known to
//! be empty, every index of it looks as good as any other, and a look-up by key may end in one that must be read whole.
//! So nobody here analyses a table that is empty (never analysed, it passes for ten pages), and what was analysed while it
//! was empty, by autovacuum for instance, is analysed again when it has grown: sooner than autovacuum comes round.

use sqlx::AssertSqlSafe;

use crate::db::connect::Store;
use crate::db::error::StoreError;

/// Below this many rows even a wrong index is read in a fraction of a millisecond.
const SMALL: i64 = 500;

/// A plan that suits a table suits one ten times as large.
const OUTGROWN: i64 = 10;

/// A sample of 3,000 rows: all that our plans need of statistics is that there are rows.
const SMALL_SAMPLE: &str = "SET LOCAL default_statistics_target = 10";

impl Store {
    /// Analyses the tables that have outgrown what Postgres knows of them. Returns how many these were.
    ///
    /// A table that somebody locks at this moment, a vacuum for instance, is left for the next time.
    pub async fn analyse_outgrown(&self) -> Result<usize, StoreError> {
        let mut conn = self.open().await?;
        let tables = sqlx::query_scalar!(
            r#"-- outgrown_tables
            SELECT c.oid::regclass::text AS "table!"
            FROM pg_class job
            JOIN pg_class c ON c.relnamespace = job.relnamespace AND c.relowner = job.relowner
            WHERE job.oid = to_regclass('job') AND c.relkind = 'r'
              AND pg_stat_get_live_tuples(c.oid) > greatest($1, $2 * c.reltuples::bigint)"#,
            SMALL,
            OUTGROWN,
        )
        .fetch_all(&mut conn)
        .await?;
        conn.done().await?;
        for table in &tables {
            let mut conn = self.open_for_upkeep().await?;
            sqlx::query(SMALL_SAMPLE).execute(&mut conn).await?;
            // The name is quoted as Postgres gave it.
            let analyse = format!("ANALYZE (SKIP_LOCKED) {table}");
            sqlx::query(AssertSqlSafe(analyse)).execute(&mut conn).await?;
            conn.done().await?;
        }
        Ok(tables.len())
    }
}
