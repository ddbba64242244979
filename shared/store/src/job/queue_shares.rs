//! Who has how much waiting and running, by model: what the queue looks like from outside.

use chrono::{DateTime, Utc};

use crate::db::connect::Store;
use crate::db::error::StoreError;
use crate::id::ClientId;

/// What one client has in the queue for one model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueShare {
    /// As Ollama compares it.
    pub model: String,
    pub client: ClientId,
    /// The client's name: for administrators alone.
    pub name: String,
    /// Jobs whose state is `queued`, those that wait for their time included.
    pub queued: i64,
    /// Jobs that load or work.
    pub running: i64,
    /// From when on the oldest queued one might have run, or may.
    pub oldest: Option<DateTime<Utc>>,
}

impl Store {
    /// The whole queue, by model and client, in one statement over every room. It reads what waits and what runs, never
    /// what has ended: about a second for a million waiting jobs, so ask rarely.
    pub async fn queue(&self) -> Result<Vec<QueueShare>, StoreError> {
        let shares = sqlx::query_as!(
            QueueShare,
            r#"-- queue
            WITH counted AS MATERIALIZED (
                SELECT load_key, client_id, count(*) AS queued, 0 AS running, min(eligible_at) AS oldest
                FROM job_ready GROUP BY load_key, client_id
                UNION ALL
                SELECT load_key, client_id, count(*), 0, min(eligible_at)
                FROM job_scheduled GROUP BY load_key, client_id
                UNION ALL
                SELECT load_key, client_id, count(*) FILTER (WHERE phase = 'held'),
                       count(*) FILTER (WHERE phase <> 'held'), min(eligible_at) FILTER (WHERE phase = 'held')
                FROM job_lease GROUP BY load_key, client_id
            ), shares AS MATERIALIZED (
                -- A load key is the model and what it is loaded with.
                SELECT split_part(load_key, ' ', 1) AS model, client_id, sum(queued)::bigint AS queued,
                       sum(running)::bigint AS running, min(oldest) AS oldest
                FROM counted GROUP BY 1, 2
            )
            SELECT s.model AS "model!", s.client_id AS "client!: ClientId", c.name, s.queued AS "queued!",
                   s.running AS "running!", s.oldest
            FROM shares s JOIN client c ON c.id = s.client_id
            ORDER BY s.model, c.name"#
        )
        .fetch_all(self.once())
        .await?;
        Ok(shares)
    }
}
