//! Keeps Postgres' statistics good enough for our plans. A plan lives as long as its connection, or until one of its
//! tables is analysed.
//!
//! Our statements get good plans from any statistics, and from none, with one exception: where a table is known to be
//! empty. Then all of its indexes look equally good, and a look-up by key may use an index that must be read whole.
//!
//! So this file must never analyse an empty table; a table that was never analysed counts as ten pages. A table that
//! was analysed while it was empty, by autovacuum for instance, is analysed again soon after it has grown, because
//! autovacuum would do so later.

use sqlx::AssertSqlSafe;

use crate::db::connect::Store;
use crate::db::error::StoreError;

/// Below this many rows even the wrong index is read in a fraction of a millisecond.
const SMALL: i64 = 500;

/// A plan that suits a table also suits a table ten times as large.
const OUTGROWN: i64 = 10;

/// A sample of 3,000 rows. Our plans only need to know that there are rows.
const SMALL_SAMPLE: &str = "SET LOCAL default_statistics_target = 10";

impl Store {
    /// Analyses the tables that have outgrown their statistics. Returns how many were analysed.
    ///
    /// Skips a table that somebody locks at this moment, a vacuum for instance, until the next call.
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
            // Postgres has already quoted the name.
            let analyse = format!("ANALYZE (SKIP_LOCKED) {table}");
            sqlx::query(AssertSqlSafe(analyse)).execute(&mut conn).await?;
            conn.done().await?;
        }
        Ok(tables.len())
    }
}
