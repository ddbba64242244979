//! Ollama hosts: which worker holds a host, and which models the host has.
//!
//! Must never let two workers claim for one host at the same time.

use std::time::Duration;

use crate::db::connect::Store;
use crate::db::error::StoreError;
use crate::db::wake::Write;
use crate::fleet::heartbeat::{Heartbeat, dead_columns};
use crate::id::WorkerId;
use crate::job::lease::Holder;

/// A host, as described by a worker that wants to hold it.
#[derive(Debug, Clone, Copy)]
pub struct HostOffer<'a> {
    pub id: &'a str,
    pub url: &'a str,
    /// How many requests may be in flight at the host.
    pub slots: usize,
    /// How long the hold on the host outlives its last renewal.
    pub ttl: Duration,
}

/// A model that a host has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedModel {
    /// The name as Ollama compares it.
    pub canonical: String,
    /// The name as `/api/tags` gives it.
    pub label: String,
    /// True if the model can chat or generate; false if it can only embed.
    pub completes: bool,
}

impl Store {
    /// Makes `worker` the holder of a host that is free: it was released, its holder is one of the `dead`, or its
    /// holder has no row. Returns the proof that every later write needs, or `None` if another worker holds the host.
    ///
    /// Jobs that the former holder began may still run on the host: see [`foreign_leases`](Self::foreign_leases).
    pub async fn take_host(
        &self,
        worker: WorkerId,
        offer: &HostOffer<'_>,
        dead: &[Heartbeat<WorkerId>],
    ) -> Result<Option<Holder>, StoreError> {
        let (dead, seen) = dead_columns(dead);
        let slots = i32::try_from(offer.slots).unwrap_or(i32::MAX);
        let mut conn = self.open().await?;
        sqlx::query!(
            r#"-- introduce_host
            INSERT INTO host (id, url, ttl, slots) VALUES ($1, $2, make_interval(secs => $3), $4)
            ON CONFLICT (id) DO NOTHING"#,
            offer.id,
            offer.url,
            offer.ttl.as_secs_f64(),
            slots,
        )
        .execute(&mut conn)
        .await?;
        // A claim keeps a key-share lock on this row until it commits. FOR UPDATE waits for that, so no claim spans a
        // change of holder.
        let fence = sqlx::query_scalar!(
            r#"-- take_host
            WITH free AS MATERIALIZED (
                SELECT h.id FROM host h
                WHERE h.id = $1
                  AND (h.holder IS NULL OR h.holder = $2 OR NOT EXISTS (
                      SELECT FROM worker w WHERE w.id = h.holder AND NOT EXISTS (
                          SELECT FROM unnest($6::uuid[], $7::timestamptz[]) AS dead (id, renewed_at)
                          WHERE dead.id = w.id AND dead.renewed_at = w.renewed_at)))
                FOR UPDATE OF h
            )
            UPDATE host h
            SET holder = $2, fence = h.fence + 1, renewed_at = clock_timestamp(), url = $3,
                ttl = make_interval(secs => $4), slots = $5
            FROM free WHERE h.id = free.id
            RETURNING h.fence"#,
            offer.id,                // $1 host
            worker.uuid(),           // $2 worker
            offer.url,               // $3 url
            offer.ttl.as_secs_f64(), // $4 seconds of the ttl
            slots,                   // $5 slots
            &dead,                   // $6 dead.id
            &seen,                   // $7 dead.renewed_at
        )
        .fetch_optional(&mut conn)
        .await?;
        conn.done().await?;
        Ok(fence.map(|fence| Holder { worker, host: offer.id.to_owned(), fence }))
    }

    /// Releases a host, so that another worker can take it at once. Returns whether the worker still held it.
    pub async fn release_host(&self, holder: &Holder) -> Result<bool, StoreError> {
        let released = sqlx::query!(
            r#"-- release_host
            UPDATE host SET holder = NULL WHERE id = $1 AND holder = $2 AND fence = $3"#,
            holder.host,
            holder.worker.uuid(),
            holder.fence,
        )
        .execute(self.once())
        .await?;
        let released = released.rows_affected() > 0;
        if released {
            self.tell([Write::HostFreed]);
        }
        Ok(released)
    }

    /// How many jobs other workers still have on this host. A former holder has neither finished them nor handed them
    /// back.
    ///
    /// Ignores the `dead` workers. Their connections to Ollama are closed; a paused worker hangs up by its own clock
    /// before its row expires, or as soon as it wakes.
    pub async fn foreign_leases(
        &self,
        holder: &Holder,
        dead: &[Heartbeat<WorkerId>],
    ) -> Result<i64, StoreError> {
        let (dead, seen) = dead_columns(dead);
        let count = sqlx::query_scalar!(
            r#"-- foreign_leases
            SELECT count(*) AS "count!" FROM worker w JOIN job_lease l ON l.worker_id = w.id
            WHERE w.host_id = $1 AND w.id <> $2 AND NOT EXISTS (
                SELECT FROM unnest($3::uuid[], $4::timestamptz[]) AS dead (id, renewed_at)
                WHERE dead.id = w.id AND dead.renewed_at = w.renewed_at)"#,
            holder.host,
            holder.worker.uuid(),
            &dead,
            &seen,
        )
        .fetch_one(self.once())
        .await?;
        Ok(count)
    }

    /// Replaces the published models of a host. Returns whether `holder` still holds the host.
    pub async fn publish_models(
        &self,
        holder: &Holder,
        models: &[PublishedModel],
    ) -> Result<bool, StoreError> {
        let canonical: Vec<_> = models.iter().map(|model| model.canonical.as_str()).collect();
        let labels: Vec<_> = models.iter().map(|model| model.label.as_str()).collect();
        let completes: Vec<_> = models.iter().map(|model| model.completes).collect();
        let published = sqlx::query!(
            r#"-- publish_models
            WITH mine AS MATERIALIZED (
                SELECT id FROM host WHERE id = $1 AND holder = $2 AND fence = $3 FOR NO KEY UPDATE
            ), gone AS (
                DELETE FROM host_model m USING mine
                WHERE m.host_id = mine.id AND m.canonical <> ALL ($4::text[])
            ), said AS (
                INSERT INTO host_model AS m (host_id, canonical, label, completes)
                SELECT mine.id, t.canonical, t.label, t.completes
                FROM mine, unnest($4::text[], $5::text[], $6::boolean[]) AS t (canonical, label, completes)
                ON CONFLICT (host_id, canonical) DO UPDATE
                    SET label = excluded.label, completes = excluded.completes
                    WHERE (m.label, m.completes) IS DISTINCT FROM (excluded.label, excluded.completes)
            )
            UPDATE host h SET published_at = clock_timestamp(), reachable = true FROM mine WHERE h.id = mine.id"#,
            holder.host,           // $1 host
            holder.worker.uuid(),  // $2 worker
            holder.fence,          // $3 fence
            &canonical as &[&str], // $4 canonical
            &labels as &[&str],    // $5 label
            &completes,            // $6 completes
        )
        .execute(self.once())
        .await?;
        let published = published.rows_affected() > 0;
        if published {
            self.tell([Write::Published]);
        }
        Ok(published)
    }

    /// Records that a host's Ollama does not answer. The models that the host published stay known.
    pub async fn note_unreachable(&self, holder: &Holder) -> Result<(), StoreError> {
        sqlx::query!(
            r#"-- note_unreachable
            UPDATE host SET reachable = false WHERE id = $1 AND holder = $2 AND fence = $3"#,
            holder.host,
            holder.worker.uuid(),
            holder.fence,
        )
        .execute(self.once())
        .await?;
        self.tell([Write::Published]);
        Ok(())
    }
}
