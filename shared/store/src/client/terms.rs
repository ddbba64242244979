//! The terms of a client: its weight, its ceilings and its budget, where an operator made them differ from the default.
//!
//! Must never decide what follows from them: the api keeps the ceilings on what is queued, and the scheduler the rest.

use crate::db::connect::Store;
use crate::db::error::StoreError;
use crate::id::ClientId;

/// What an operator has set for a client. `None` is the default.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct OwnTerms {
    /// The client's part of the GPU, beside the weight 1 of the others; between 0.01 and 100.
    pub weight: Option<f64>,
    /// How many jobs may wait.
    pub max_queued: Option<i64>,
    /// How many bytes the bodies of the waiting jobs may have.
    pub max_queued_bytes: Option<i64>,
    /// How many jobs may run at the same time; at least 1.
    pub max_running: Option<i32>,
    /// Past this much of the GPU's time in a day, the client goes last.
    pub gpu_seconds_a_day: Option<f64>,
}

/// What an operator changes of a client's terms. `None` leaves a term as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct TermsChange {
    pub weight: Option<Term<f64>>,
    pub max_queued: Option<Term<i64>>,
    pub max_queued_bytes: Option<Term<i64>>,
    pub max_running: Option<Term<i32>>,
    pub gpu_seconds_a_day: Option<Term<f64>>,
}

/// The new value of a term.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Term<T> {
    Default,
    Is(T),
}

impl<T: Copy> Term<T> {
    /// Whether the term changes, and its new value.
    fn columns(term: Option<Self>) -> (bool, Option<T>) {
        match term {
            None => (false, None),
            Some(Self::Default) => (true, None),
            Some(Self::Is(value)) => (true, Some(value)),
        }
    }
}

/// The terms that the scheduler keeps, of a client for which they are not all at the default.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClientTerms {
    pub client: ClientId,
    pub weight: f64,
    pub max_running: Option<u32>,
    /// Whether it has had its budget of today, by UTC.
    pub is_over_budget: bool,
}

impl Store {
    /// The clients whose weight, ceiling on running jobs or budget differs from the default.
    pub async fn client_terms(&self) -> Result<Vec<ClientTerms>, StoreError> {
        let rows = sqlx::query!(
            r#"-- client_terms
            SELECT c.id AS "client: ClientId", c.weight, c.max_running, CASE WHEN c.gpu_seconds_a_day IS NULL THEN false ELSE
                c.gpu_seconds_a_day <= (
                    SELECT coalesce(sum(u.gpu_seconds), 0) FROM (
                        SELECT h.gpu_seconds FROM usage_hour h
                        WHERE h.client_id = c.id AND h.hour >= date_trunc('day', clock_timestamp(), 'UTC')
                        UNION ALL
                        SELECT e.gpu_seconds FROM usage_entry e
                        WHERE e.client_id = c.id AND e.hour >= date_trunc('day', clock_timestamp(), 'UTC')
                    ) AS u) END AS "is_over_budget!"
            FROM client c
            WHERE c.weight IS NOT NULL OR c.max_running IS NOT NULL OR c.gpu_seconds_a_day IS NOT NULL"#
        )
        .fetch_all(self.once())
        .await?;
        let terms = rows.into_iter().map(|row| ClientTerms {
            client: row.client,
            weight: row.weight.unwrap_or(1.0),
            max_running: row.max_running.map(i32::unsigned_abs),
            is_over_budget: row.is_over_budget,
        });
        Ok(terms.collect())
    }

    pub(crate) async fn set_client_terms(&self, name: &str, change: &TermsChange) -> Result<(), StoreError> {
        let (sets_weight, weight) = Term::columns(change.weight);
        let (sets_max_queued, max_queued) = Term::columns(change.max_queued);
        let (sets_max_queued_bytes, max_queued_bytes) = Term::columns(change.max_queued_bytes);
        let (sets_max_running, max_running) = Term::columns(change.max_running);
        let (sets_gpu_seconds, gpu_seconds) = Term::columns(change.gpu_seconds_a_day);
        sqlx::query!(
            "-- set_client_terms
            UPDATE client
            SET weight = CASE WHEN $2 THEN $3 ELSE weight END,
                max_queued = CASE WHEN $4 THEN $5 ELSE max_queued END,
                max_queued_bytes = CASE WHEN $6 THEN $7 ELSE max_queued_bytes END,
                max_running = CASE WHEN $8 THEN $9 ELSE max_running END,
                gpu_seconds_a_day = CASE WHEN $10 THEN $11 ELSE gpu_seconds_a_day END
            WHERE name = $1",
            name,                  // $1 name
            sets_weight,           // $2
            weight,                // $3 weight
            sets_max_queued,       // $4
            max_queued,            // $5 max_queued
            sets_max_queued_bytes, // $6
            max_queued_bytes,      // $7 max_queued_bytes
            sets_max_running,      // $8
            max_running,           // $9 max_running
            sets_gpu_seconds,      // $10
            gpu_seconds,           // $11 gpu_seconds_a_day
        )
        .execute(self.once())
        .await?;
        Ok(())
    }
}
