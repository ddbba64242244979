//! How many jobs each client has waiting and running, by model, and the clients' names and terms.
//!
//! Must never read ended jobs, because there may be millions of them.

use chrono::{DateTime, Utc};

use crate::db::connect::Store;
use crate::db::error::StoreError;
use crate::id::ClientId;

/// The jobs of one client for one model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueShare {
    /// As Ollama compares it.
    pub model: String,
    pub client: ClientId,
    /// The client's name. Only administrators may see it.
    pub name: String,
    /// Jobs in the state `queued`, including those that wait for their time.
    pub queued: i64,
    /// Jobs that load or work.
    pub running: i64,
    /// When the oldest queued job became, or becomes, eligible to run.
    pub oldest: Option<DateTime<Utc>>,
}

/// A client whose jobs, or turns, are shown.
#[derive(Debug, Clone, PartialEq)]
pub struct QueueClient {
    pub client: ClientId,
    /// Only administrators may see it.
    pub name: String,
    pub weight: f64,
    /// How many of its jobs may run at the same time.
    pub max_running: Option<i32>,
    pub gpu_seconds_a_day: Option<f64>,
    /// How many GPU-seconds it has used today, by UTC. `None` for a client without a budget.
    pub gpu_seconds_today: Option<f64>,
}

impl Store {
    /// Names and terms of these clients, by name.
    pub async fn queue_clients(&self, clients: &[ClientId]) -> Result<Vec<QueueClient>, StoreError> {
        let ids: Vec<_> = clients.iter().map(|client| client.uuid()).collect();
        let clients = sqlx::query_as!(
            QueueClient,
            r#"-- queue_clients
            SELECT c.id AS "client: ClientId", c.name, coalesce(c.weight, 1) AS "weight!", c.max_running, c.gpu_seconds_a_day,
                   CASE WHEN c.gpu_seconds_a_day IS NOT NULL THEN (
                       SELECT coalesce(sum(u.gpu_seconds), 0) FROM (
                           SELECT h.gpu_seconds FROM usage_hour h
                           WHERE h.client_id = c.id AND h.hour >= date_trunc('day', clock_timestamp(), 'UTC')
                           UNION ALL
                           SELECT e.gpu_seconds FROM usage_entry e
                           WHERE e.client_id = c.id AND e.hour >= date_trunc('day', clock_timestamp(), 'UTC')
                       ) AS u)
                   END AS gpu_seconds_today
            FROM unnest($1::uuid[]) AS wanted (id)
            CROSS JOIN LATERAL (SELECT * FROM client WHERE id = wanted.id OFFSET 0) AS c
            ORDER BY c.name"#,
            &ids,
        )
        .fetch_all(self.once())
        .await?;
        Ok(clients)
    }

    /// The whole queue, by model and client, in one statement over every room. The cost grows with the waiting and
    /// running jobs, not with the ended ones. It takes about a second for a million waiting jobs, so call it rarely.
    pub async fn queue(&self) -> Result<Vec<QueueShare>, StoreError> {
        // A sample of 100 % is all rows (see `model_backlogs`).
        let shares = sqlx::query_as!(
            QueueShare,
            r#"-- queue
            WITH counted AS MATERIALIZED (
                SELECT load_key, client_id, count(*) AS queued, 0 AS running, min(eligible_at) AS oldest
                FROM job_ready TABLESAMPLE SYSTEM (100) GROUP BY load_key, client_id
                UNION ALL
                SELECT load_key, client_id, count(*), 0, min(eligible_at)
                FROM job_scheduled TABLESAMPLE SYSTEM (100) GROUP BY load_key, client_id
                UNION ALL
                SELECT load_key, client_id, count(*) FILTER (WHERE phase = 'held'),
                       count(*) FILTER (WHERE phase <> 'held'), min(eligible_at) FILTER (WHERE phase = 'held')
                FROM job_lease GROUP BY load_key, client_id
            ), shares AS MATERIALIZED (
                -- A load key is the model, followed by its load options if there are any.
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
