//! The models that hosts have published, which are those that clients may ask for. The models of a host that is away
//! stay known.
//!
//! Must never forget the models of a host because the host is away.

use std::{collections::BTreeMap, time::SystemTime};

use chrono::{DateTime, Utc};

use crate::db::connect::Store;
use crate::db::error::StoreError;

/// A model that at least one host has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownModel {
    /// The name as `/api/tags` gives it.
    pub label: String,
    /// True if the model can chat or generate on at least one host; false if it can only embed.
    pub completes: bool,
    /// Whether a host has it that somebody holds and whose Ollama answers.
    pub is_up: bool,
    /// Whether such a host takes jobs: no operator has drained it.
    pub takes_jobs: bool,
}

/// All published models, and how fresh this knowledge is.
#[derive(Debug, Clone, Default)]
pub struct Inventory {
    /// By the name as Ollama compares it.
    pub models: BTreeMap<String, KnownModel>,
    /// Whether any host has published its models.
    pub is_published: bool,
    /// The oldest publication among the hosts that could publish now: they have a live holder, and their Ollama
    /// answers. `None` if there is no such host. Measured by Postgres' clock, because it only decides whether a
    /// caller waits for these hosts to look again.
    pub live_since: Option<DateTime<Utc>>,
    /// Postgres' time when this was read.
    pub read_at: Option<DateTime<Utc>>,
}

impl Store {
    /// Whether this host has ever published its models.
    pub async fn has_published(&self, host: &str) -> Result<bool, StoreError> {
        let published = sqlx::query_scalar!(
            r#"-- has_published
            SELECT published_at IS NOT NULL AS "published!" FROM host WHERE id = $1"#,
            host,
        )
        .fetch_optional(self.once())
        .await?;
        Ok(published.unwrap_or(false))
    }

    /// The models that hosts have published. Also learns Postgres' time from the answer.
    pub async fn inventory(&self) -> Result<Inventory, StoreError> {
        let mut conn = self.open().await?;
        let asked = SystemTime::now();
        let rows = sqlx::query!(
            r#"-- inventory
            SELECT h.published_at,
                   h.holder IS NOT NULL AND h.reachable AND clock_timestamp() < h.renewed_at + h.ttl AS "is_live!",
                   h.drained_at IS NULL AS "takes_jobs!", clock_timestamp() AS "read_at!", m.canonical AS "canonical?", m.label AS "label?",
                   m.completes AS "completes?"
            FROM host h LEFT JOIN host_model m ON m.host_id = h.id
            ORDER BY h.id, m.canonical"#
        )
        .fetch_all(&mut conn)
        .await?;
        conn.done().await?;
        if let Some(row) = rows.first() {
            self.clock().learn(asked, row.read_at);
        }
        let mut inventory = Inventory::default();
        for row in rows {
            inventory.read_at = Some(row.read_at);
            inventory.is_published |= row.published_at.is_some();
            if row.is_live {
                // A live host that has never published counts as older than any host that has.
                let published = row.published_at.unwrap_or(DateTime::<Utc>::MIN_UTC);
                inventory.live_since =
                    Some(inventory.live_since.map_or(published, |since| since.min(published)));
            }
            if let (Some(canonical), Some(label), Some(completes)) = (row.canonical, row.label, row.completes)
            {
                let new = KnownModel { label, completes, is_up: false, takes_jobs: false };
                let known = inventory.models.entry(canonical).or_insert(new);
                known.completes |= completes;
                known.is_up |= row.is_live;
                known.takes_jobs |= row.is_live && row.takes_jobs;
            }
        }
        Ok(inventory)
    }

    /// The models of ready jobs that no host has, whether its worker lives or not, by their names as Ollama compares
    /// them. Empty until some host has published, because before that nobody knows which models there are.
    ///
    /// The statement steps from model to model over the index of the claim, so its cost is the number of models, not
    /// of jobs.
    pub async fn missing_models(&self) -> Result<Vec<String>, StoreError> {
        // A load key is the model alone, or the model, a blank and the load options. No model's name contains `!`,
        // the character after the blank. So the keys of the next model come after the model's name followed by `!`.
        let models = sqlx::query_scalar!(
            r#"-- missing_models
            WITH RECURSIVE waiting AS (
                (SELECT split_part(load_key, ' ', 1) AS model FROM job_ready ORDER BY load_key LIMIT 1)
                UNION ALL
                SELECT next.model
                FROM waiting CROSS JOIN LATERAL (
                    SELECT split_part(load_key, ' ', 1) AS model FROM job_ready
                    WHERE load_key >= waiting.model || '!' ORDER BY load_key LIMIT 1
                ) AS next
            )
            SELECT model AS "model!" FROM waiting
            WHERE EXISTS (SELECT FROM host WHERE published_at IS NOT NULL)
              AND NOT EXISTS (SELECT FROM host_model m WHERE m.canonical COLLATE "C" = waiting.model)"#
        )
        .fetch_all(self.once())
        .await?;
        Ok(models)
    }
}
