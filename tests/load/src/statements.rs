//! What each statement costs Postgres, by pg_stat_statements. Look here when a figure is bad. The statements that
//! make a backlog are included.

use foreman_tests::{Cluster, Db};

const SHOWN: i64 = 12;

/// The statistics of a cluster that collects them.
pub(crate) struct Statements(Db);

/// A durable cluster that collects statistics.
pub(crate) async fn cluster() -> Cluster {
    Cluster::durable_with(&["shared_preload_libraries=pg_stat_statements"]).await
}

impl Statements {
    pub(crate) async fn of(cluster: &Cluster) -> Self {
        let db = Db::on(cluster).await;
        db.run("CREATE EXTENSION pg_stat_statements").await;
        Self(db)
    }

    /// The most expensive statements since the last call, one per line.
    pub(crate) async fn since_last(&self) -> String {
        let lines: Vec<String> = self
            .0
            .values(&format!(
                "SELECT format('%10s ms %8s calls %8s ms each %8s rows  %s', total_exec_time::integer, calls,
                               round(mean_exec_time::numeric, 3), rows, left(split_part(query, E'\\n', 1), 60))
                 FROM pg_stat_statements ORDER BY total_exec_time DESC LIMIT {SHOWN}"
            ))
            .await;
        let _forgotten: i64 = self.0.value("SELECT 1::bigint FROM pg_stat_statements_reset()").await;
        lines.join("\n")
    }
}
