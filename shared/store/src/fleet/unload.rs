//! Unloads that operators have asked for: a host is to take a model out of its memory. They are in Postgres until Ollama
//! has answered, so they outlive restarts of workers and every change of holder. A host has one row for each of its
//! models at most, so a host that never comes back leaves only a few.
//!
//! Must never forget an unload that was asked for again meanwhile.

use chrono::{DateTime, Utc};

use crate::db::connect::Store;
use crate::db::error::StoreError;
use crate::db::wake::Write;

/// A model that a host is to unload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unload {
    /// The model's name as Ollama compares it.
    pub canonical: String,
    pub asked_at: DateTime<Utc>,
}

impl Store {
    /// Asks every host that has this model to unload it. Returns these hosts.
    pub async fn ask_for_unload(&self, canonical: &str) -> Result<Vec<String>, StoreError> {
        let hosts = sqlx::query_scalar!(
            r#"-- ask_for_unload
            INSERT INTO host_unload (host_id, canonical)
            SELECT h.id, m.canonical FROM host h JOIN host_model m ON m.host_id = h.id
            WHERE m.canonical = $1 ORDER BY h.id
            ON CONFLICT (host_id, canonical) DO UPDATE SET asked_at = excluded.asked_at
            RETURNING host_id"#,
            canonical,
        )
        .fetch_all(self.once())
        .await?;
        self.tell([Write::UnloadAsked]);
        Ok(hosts)
    }

    /// The models that this host is to unload.
    pub async fn unloads(&self, host: &str) -> Result<Vec<Unload>, StoreError> {
        let unloads = sqlx::query_as!(
            Unload,
            r#"-- unloads
            SELECT canonical, asked_at FROM host_unload WHERE host_id = $1 ORDER BY canonical"#,
            host,
        )
        .fetch_all(self.once())
        .await?;
        Ok(unloads)
    }

    /// Forgets an unload that this host's Ollama has answered, unless somebody has asked for it again since.
    pub async fn forget_unload(&self, host: &str, unload: &Unload) -> Result<(), StoreError> {
        sqlx::query!(
            r#"-- forget_unload
            DELETE FROM host_unload WHERE host_id = $1 AND canonical = $2 AND asked_at = $3"#,
            host,
            unload.canonical,
            unload.asked_at,
        )
        .execute(self.once())
        .await?;
        Ok(())
    }
}
