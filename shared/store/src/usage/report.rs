//! What clients have used, summed up by one thing.
//!
//! Must never read the jobs.

use std::str::FromStr;

use chrono::{DateTime, Utc};

use crate::client::scope::Scope;
use crate::db::connect::Store;
use crate::db::error::StoreError;
use crate::job::user_name::UserName;

/// By what the sums are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UsageBy {
    Client,
    /// A user and its client.
    User,
    Model,
    Hour,
}

impl UsageBy {
    pub const ALL: [Self; 4] = [Self::Client, Self::User, Self::Model, Self::Hour];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::User => "user",
            Self::Model => "model",
            Self::Hour => "hour",
        }
    }
}

/// Nothing is summed up by this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("usage is summed up by client, user, model or hour")]
pub struct UnknownUsageBy;

impl FromStr for UsageBy {
    type Err = UnknownUsageBy;

    fn from_str(text: &str) -> Result<Self, UnknownUsageBy> {
        Self::ALL.into_iter().find(|by| by.as_str() == text).ok_or(UnknownUsageBy)
    }
}

/// Which hours are summed up, and how.
#[derive(Debug, Clone, Copy)]
pub struct UsageFilter {
    pub by: UsageBy,
    /// Hours that begin at this moment or later, and before `to`.
    pub from: DateTime<Utc>,
    pub to: DateTime<Utc>,
}

/// A sum. Of `client`, `user`, `model` and `hour` those are there that tell the sums apart.
#[derive(Debug, Clone, PartialEq)]
pub struct UsageSum {
    /// The client's name.
    pub client: Option<String>,
    pub user: Option<UserName>,
    /// As Ollama compares it.
    pub model: Option<String>,
    pub hour: Option<DateTime<Utc>>,
    /// Jobs that ended, by their last state.
    pub done: i64,
    pub failed: i64,
    pub cancelled: i64,
    pub expired: i64,
    pub gpu_seconds: f64,
    pub loads: i64,
    pub prompt_tokens: i64,
    pub completion_tokens: i64,
}

impl Store {
    /// At most `limit` sums: those with the most GPU time first, or, by hour, the newest first. Entries that no janitor has
    /// added up yet are in them.
    pub async fn usage(
        &self,
        scope: Scope,
        filter: &UsageFilter,
        limit: usize,
    ) -> Result<Vec<UsageSum>, StoreError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let sums = sqlx::query_as!(
            UsageSum,
            r#"-- usage
            WITH used AS MATERIALIZED (
                SELECT client_id, hour, user_name, model, done, failed, cancelled, expired, gpu_seconds, loads,
                       prompt_tokens, completion_tokens
                FROM usage_hour WHERE client_id = $1 AND hour >= $2 AND hour < $3
                UNION ALL
                SELECT client_id, hour, user_name, model, done, failed, cancelled, expired, gpu_seconds, loads,
                       prompt_tokens, completion_tokens
                FROM usage_hour WHERE $1::uuid IS NULL AND hour >= $2 AND hour < $3
                UNION ALL
                -- The condition on the id leads to the index.
                SELECT client_id, hour, user_name, model, done, failed, cancelled, expired, gpu_seconds, loads,
                       prompt_tokens, completion_tokens
                FROM usage_entry WHERE id > 0 AND ($1 IS NULL OR client_id = $1) AND hour >= $2 AND hour < $3
            ), sums AS MATERIALIZED (
                SELECT CASE WHEN $4 IN ('client', 'user') THEN client_id END AS client_id,
                       CASE WHEN $4 = 'user' THEN user_name END AS user_name,
                       CASE WHEN $4 = 'model' THEN model END AS model,
                       CASE WHEN $4 = 'hour' THEN hour END AS hour,
                       sum(done)::bigint AS done, sum(failed)::bigint AS failed,
                       sum(cancelled)::bigint AS cancelled, sum(expired)::bigint AS expired,
                       sum(gpu_seconds) AS gpu_seconds, sum(loads)::bigint AS loads,
                       sum(prompt_tokens)::bigint AS prompt_tokens, sum(completion_tokens)::bigint AS completion_tokens
                FROM used GROUP BY 1, 2, 3, 4
                ORDER BY hour DESC, gpu_seconds DESC LIMIT $5
            )
            SELECT (SELECT name FROM client WHERE id = s.client_id) AS client, s.user_name AS "user: UserName", s.model,
                   s.hour, s.done AS "done!", s.failed AS "failed!", s.cancelled AS "cancelled!",
                   s.expired AS "expired!", s.gpu_seconds AS "gpu_seconds!", s.loads AS "loads!",
                   s.prompt_tokens AS "prompt_tokens!", s.completion_tokens AS "completion_tokens!"
            FROM sums s
            ORDER BY s.hour DESC, s.gpu_seconds DESC, s.client_id, s.user_name, s.model"#,
            scope.client(),     // $1 client
            filter.from,        // $2 from
            filter.to,          // $3 to
            filter.by.as_str(), // $4 by
            limit,              // $5 limit
        )
        .fetch_all(self.once())
        .await?;
        Ok(sums)
    }
}
