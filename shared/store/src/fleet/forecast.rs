//! When the holder of a host expects the waiting jobs to begin: told to people who wait.
//!
//! Must never be needed for a decision: it is an estimate, and up to some seconds old.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::db::connect::Store;
use crate::db::error::StoreError;
use crate::id::{ClientId, JobId};
use crate::job::lease::Holder;

/// The jobs that wait for a host, in the order in which they are expected to begin there.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Forecast {
    /// The model that is being loaded.
    pub loading: Option<String>,
    /// The model whose jobs run on the GPU.
    pub running: Option<String>,
    /// Of whom and what the jobs are.
    pub groups: Vec<ForeseenGroup>,
    pub jobs: Vec<Foreseen>,
    /// Whether no further job waits for this host, as far as its holder knows.
    pub is_whole: bool,
}

/// Jobs of one client and model that wait for the same reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForeseenGroup {
    pub client: ClientId,
    /// As Ollama compares it.
    pub model: String,
    pub held_back: Option<HeldBack>,
}

/// What keeps all jobs of a client back, whatever their place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeldBack {
    /// The client has as many running jobs as it may have.
    AtCeiling(u32),
    /// The client has had its budget of the day, and others wait.
    OverBudget,
}

/// One job that waits. Written as an array, because there are many of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(JobId, usize, Option<u64>, u32)", into = "(JobId, usize, Option<u64>, u32)")]
pub struct Foreseen {
    pub job: JobId,
    /// Its group, by its place in [`Forecast::groups`].
    pub group: usize,
    /// In so many milliseconds after the forecast it is expected to begin. `None` if that depends on a time that was
    /// never measured.
    pub begins_in_ms: Option<u64>,
    /// How many loads are expected to begin before it, counting the load for itself.
    pub loads: u32,
}

/// A forecast that was published.
#[derive(Debug, Clone)]
pub struct PublishedForecast {
    /// When it was published, by Postgres' clock.
    pub at: DateTime<Utc>,
    pub forecast: Forecast,
}

impl From<(JobId, usize, Option<u64>, u32)> for Foreseen {
    fn from((job, group, begins_in_ms, loads): (JobId, usize, Option<u64>, u32)) -> Self {
        Self { job, group, begins_in_ms, loads }
    }
}

impl From<Foreseen> for (JobId, usize, Option<u64>, u32) {
    fn from(Foreseen { job, group, begins_in_ms, loads }: Foreseen) -> Self {
        (job, group, begins_in_ms, loads)
    }
}

impl Store {
    /// Publishes the forecast of a host, if `holder` still holds it. `None` says that no job waits there.
    pub async fn publish_forecast(
        &self,
        holder: &Holder,
        forecast: Option<&Forecast>,
    ) -> Result<(), StoreError> {
        let text = forecast.map(|forecast| {
            serde_json::to_string(forecast).expect("a forecast has no maps, whose keys could be no strings")
        });
        sqlx::query!(
            r#"-- publish_forecast
            INSERT INTO host_plan (host_id, plan, forecast, forecast_at)
            SELECT h.id, '{}', $4, clock_timestamp() FROM host h WHERE h.id = $1 AND h.holder = $2 AND h.fence = $3
            ON CONFLICT (host_id) DO UPDATE SET forecast = EXCLUDED.forecast, forecast_at = EXCLUDED.forecast_at"#,
            holder.host,          // $1 host
            holder.worker.uuid(), // $2 worker
            holder.fence,         // $3 fence
            text,                 // $4 forecast
        )
        .execute(self.once())
        .await?;
        Ok(())
    }

    /// The forecasts of all hosts that somebody holds and whose Ollama answers.
    pub async fn forecasts(&self) -> Result<Vec<PublishedForecast>, StoreError> {
        let rows = sqlx::query!(
            r#"-- forecasts
            SELECT p.forecast AS "forecast!", p.forecast_at AS "at!"
            FROM host_plan p JOIN host h ON h.id = p.host_id
            WHERE h.holder IS NOT NULL AND h.reachable AND p.forecast IS NOT NULL ORDER BY p.host_id"#,
        )
        .fetch_all(self.once())
        .await?;
        // A holder of another version may write what this one cannot read.
        let read = |text: &str| serde_json::from_str(text).ok();
        let published = rows
            .into_iter()
            .filter_map(|row| Some(PublishedForecast { at: row.at, forecast: read(&row.forecast)? }));
        Ok(published.collect())
    }
}
