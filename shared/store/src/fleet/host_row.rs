//! The rows of hosts, those included that nobody holds: for people, and never for a decision.

use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::db::clock::seconds;
use crate::db::connect::Store;
use crate::db::error::StoreError;
use crate::id::WorkerId;

/// An Ollama host as its row describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostRow {
    pub id: String,
    pub url: String,
    /// The live worker that holds the host.
    pub holder: Option<WorkerId>,
    /// Whether Ollama answered the last holder.
    pub is_reachable: bool,
    /// How many requests may be in flight there.
    pub slots: i32,
    /// How many jobs load or work there.
    pub running: i64,
    /// When an operator drained it; `None` while it takes jobs.
    pub drained_at: Option<DateTime<Utc>>,
    /// Its models, as `/api/tags` names them.
    pub models: Vec<String>,
    /// Time since its models were last published; `None` if they never were.
    pub published: Option<Duration>,
}

impl HostRow {
    /// Whether a live worker holds it and its Ollama answers.
    pub fn is_up(&self) -> bool {
        self.holder.is_some() && self.is_reachable
    }
}

impl Store {
    /// Every host that a worker ever held.
    pub async fn hosts(&self) -> Result<Vec<HostRow>, StoreError> {
        let rows = sqlx::query!(
            r#"-- hosts
            SELECT h.id, h.url, w.id AS "holder?: WorkerId", h.reachable,
                   h.slots, h.drained_at,
                   (SELECT coalesce(sum((SELECT count(*) FILTER (WHERE l.phase <> 'held')
                                         FROM job_lease l WHERE l.worker_id = o.id)), 0)::bigint
                    FROM worker o WHERE o.host_id = h.id) AS "running!",
                   ARRAY(SELECT m.label FROM host_model m WHERE m.host_id = h.id ORDER BY m.canonical) AS "models!",
                   extract(epoch FROM clock_timestamp() - h.published_at)::float8 AS published
            FROM host h
            LEFT JOIN worker w ON w.id = h.holder
                AND clock_timestamp() BETWEEN h.renewed_at - h.ttl AND h.renewed_at + h.ttl
            ORDER BY h.id"#
        )
        .fetch_all(self.once())
        .await?;
        Ok(rows
            .into_iter()
            .map(|row| HostRow {
                id: row.id,
                url: row.url,
                holder: row.holder,
                is_reachable: row.reachable,
                slots: row.slots,
                running: row.running,
                drained_at: row.drained_at,
                models: row.models,
                published: row.published.map(seconds),
            })
            .collect())
    }
}
