//! What the hosts mean to load, and what each host knows of the others for that.
//!
//! Must never be needed for a job to run or to run once: it only saves loads, and an intent ends by itself.

use std::time::Duration;

use crate::db::connect::Store;
use crate::db::error::StoreError;
use crate::fleet::host_plan::HostPlan;

/// An intent counts for this long. A host under load comes to each of its models within this time, as
/// `FOREMAN_MAX_MODEL_WAIT` has it by default. What it has not loaded by then is free to all hosts again.
const COUNTS_FOR: Duration = Duration::from_secs(600);

/// The plan that a host publishes may be older than its last intent. An intent that is newer than this is taken for a load
/// under way.
const IS_NEW_FOR: Duration = Duration::from_secs(5);

/// Another host that takes jobs: a worker holds it, its Ollama answers, and nobody has drained it.
#[derive(Debug, Clone, PartialEq)]
pub struct NeighbourHost {
    pub id: String,
    pub slots: u32,
    /// Its models, as Ollama compares their names.
    pub models: Vec<String>,
    pub plan: HostPlan,
}

/// The last intent for a load key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostIntent {
    /// Without its context.
    pub load_key: String,
    pub host: String,
    pub number: i64,
    /// Whether the load may just be under way.
    pub is_new: bool,
}

impl Store {
    /// The other hosts that take jobs. Postgres' clock tells which holders live, because the answer is only an advice.
    pub async fn neighbours(&self, host: &str) -> Result<Vec<NeighbourHost>, StoreError> {
        let rows = sqlx::query!(
            r#"-- neighbours
            SELECT h.id, h.slots, p.plan AS "plan?",
                   ARRAY(SELECT m.canonical FROM host_model m WHERE m.host_id = h.id) AS "models!"
            FROM host h LEFT JOIN host_plan p ON p.host_id = h.id
            WHERE h.id <> $1 AND h.holder IS NOT NULL AND h.reachable AND h.drained_at IS NULL
              AND clock_timestamp() < h.renewed_at + h.ttl
            ORDER BY h.id"#,
            host,
        )
        .fetch_all(self.once())
        .await?;
        let plan = |text: Option<String>| text.and_then(|text| serde_json::from_str(&text).ok());
        Ok(rows
            .into_iter()
            .map(|row| NeighbourHost {
                id: row.id,
                slots: row.slots.unsigned_abs(),
                models: row.models,
                plan: plan(row.plan).unwrap_or_default(),
            })
            .collect())
    }

    /// The intents that still count.
    pub async fn host_intents(&self) -> Result<Vec<HostIntent>, StoreError> {
        let rows = sqlx::query!(
            r#"-- host_intents
            SELECT load_key, host_id, number, said_at > now() - make_interval(secs => $2) AS "is_new!"
            FROM host_intent WHERE said_at > now() - make_interval(secs => $1)"#,
            COUNTS_FOR.as_secs_f64(),
            IS_NEW_FOR.as_secs_f64(),
        )
        .fetch_all(self.once())
        .await?;
        Ok(rows
            .into_iter()
            .map(|row| HostIntent {
                load_key: row.load_key,
                host: row.host_id,
                number: row.number,
                is_new: row.is_new,
            })
            .collect())
    }

    /// Says that a host loads this load key, given without its context. Returns the number of the intent, or `None` if
    /// nothing was said, because another host has said so since the intent that was `seen` (0 for none), or because fewer
    /// than `at_least` jobs are ready for these `load_keys`.
    pub async fn intend(
        &self,
        host: &str,
        load_key: &str,
        seen: i64,
        load_keys: &[&str],
        at_least: u32,
    ) -> Result<Option<i64>, StoreError> {
        let number = sqlx::query_scalar!(
            r#"-- intend
            WITH counted AS MATERIALIZED (
                SELECT count(*) AS jobs FROM (
                    SELECT FROM unnest($4::text[]) AS wanted (load_key)
                    CROSS JOIN LATERAL (SELECT FROM job_ready r WHERE r.load_key = wanted.load_key LIMIT $5) AS ready
                    LIMIT $5
                ) AS job
            )
            INSERT INTO host_intent AS i (load_key, host_id)
            SELECT $1, $2 FROM counted WHERE jobs >= $5
            ON CONFLICT (load_key) DO UPDATE
                SET host_id = excluded.host_id, number = i.number + 1, said_at = clock_timestamp()
                WHERE i.number = $3 OR i.said_at <= clock_timestamp() - make_interval(secs => $6)
            RETURNING number"#,
            load_key,                 // $1 load_key
            host,                     // $2 host
            seen,                     // $3 number
            load_keys as &[&str],     // $4 load_keys
            i64::from(at_least),      // $5 at_least
            COUNTS_FOR.as_secs_f64(), // $6 seconds
        )
        .fetch_optional(self.once())
        .await?;
        Ok(number)
    }

    /// Deletes the intents that count no more. Clients can make up load keys without end.
    pub async fn prune_host_intents(&self) -> Result<u64, StoreError> {
        let pruned = sqlx::query!(
            r#"-- prune_host_intents
            DELETE FROM host_intent WHERE said_at <= now() - make_interval(secs => $1)"#,
            COUNTS_FOR.as_secs_f64(),
        )
        .execute(self.once())
        .await?;
        Ok(pruned.rows_affected())
    }
}
