//! What the holder of a host tells of its scheduling: for people who wait, and for the next holder, so that it does not
//! start blind.
//!
//! Must never be needed for a decision to be right: it may be old, or missing.

use serde::{Deserialize, Serialize};

use crate::db::connect::Store;
use crate::db::error::StoreError;
use crate::fleet::host_turns::HostTurns;
use crate::job::lease::Holder;

/// How a host goes about its work.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostPlan {
    /// The runner that has the turn: a load key, with the context that is loaded.
    pub turn: Option<String>,
    /// The runners that are loaded.
    pub loaded: Vec<String>,
    /// The longest time that a client of weight 1 with work waits for its next claim, in milliseconds.
    pub longest_wait_ms: Option<u64>,
    pub runners: Vec<MeasuredRunner>,
    pub contexts: Vec<MeasuredContext>,
    /// For people who look at the queue.
    pub turns: HostTurns,
}

/// How long loads and runs of a runner take, in seconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MeasuredRunner {
    pub load_key: String,
    pub load: f64,
    pub longest_run: f64,
    pub usual_run: Option<f64>,
    /// The GPU-seconds of a usual run.
    pub gpu_seconds: Option<f64>,
}

/// The context lengths of a model, as Ollama has told them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MeasuredContext {
    /// A load key without its context.
    pub load_key: String,
    /// The length that Ollama chooses by itself.
    pub automatic: Option<i64>,
    /// The longest that the model has.
    pub longest: Option<i64>,
}

impl Store {
    /// Publishes the plan of a host, if `holder` still holds it.
    pub async fn publish_plan(&self, holder: &Holder, plan: &HostPlan) -> Result<(), StoreError> {
        let text = serde_json::to_string(plan).expect("a plan has no maps, whose keys could be no strings");
        sqlx::query!(
            r#"-- publish_plan
            INSERT INTO host_plan (host_id, plan)
            SELECT h.id, $4 FROM host h WHERE h.id = $1 AND h.holder = $2 AND h.fence = $3
            ON CONFLICT (host_id) DO UPDATE SET plan = EXCLUDED.plan, published_at = EXCLUDED.published_at"#,
            holder.host,          // $1 host
            holder.worker.uuid(), // $2 worker
            holder.fence,         // $3 fence
            text,                 // $4 plan
        )
        .execute(self.once())
        .await?;
        Ok(())
    }

    /// The plan that a host's holder has published last. `None` if there is none that this version can read.
    pub async fn host_plan(&self, host: &str) -> Result<Option<HostPlan>, StoreError> {
        let text = sqlx::query_scalar!(
            r#"-- host_plan
            SELECT plan FROM host_plan WHERE host_id = $1"#,
            host,
        )
        .fetch_optional(self.once())
        .await?;
        Ok(text.and_then(|text| serde_json::from_str(&text).ok()))
    }

    /// The plans of all hosts that somebody holds and whose Ollama answers, each with the id of its host.
    pub async fn host_plans(&self) -> Result<Vec<(String, HostPlan)>, StoreError> {
        let rows = sqlx::query!(
            r#"-- host_plans
            SELECT p.host_id, p.plan FROM host_plan p JOIN host h ON h.id = p.host_id
            WHERE h.holder IS NOT NULL AND h.reachable ORDER BY p.host_id"#,
        )
        .fetch_all(self.once())
        .await?;
        let read = |plan: &str| serde_json::from_str(plan).ok();
        Ok(rows.into_iter().filter_map(|row| Some((row.host_id, read(&row.plan)?))).collect())
    }
}

impl HostPlan {
    /// Whether the runner that has the turn is loaded.
    pub fn turn_is_loaded(&self) -> bool {
        self.turn.as_ref().is_some_and(|turn| self.loaded.contains(turn))
    }

    /// The models that are loaded, as Ollama compares them.
    pub fn loaded(&self) -> impl Iterator<Item = &str> {
        self.loaded.iter().filter_map(|runner| runner.split(' ').next())
    }
}
