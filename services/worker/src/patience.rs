//! How long Postgres is waited for. A connection that has gone silent would otherwise stop its loop for as long as TCP
//! goes on hoping.

use std::time::Duration;

use foreman_store::StoreError;
use tokio::time::timeout;

/// For statements that have no deadline of their own: far more than any takes that is going to be answered.
const USUAL: Duration = Duration::from_secs(10);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoAnswer {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("Postgres did not answer within {0:?}")]
    Silence(Duration),
}

impl NoAnswer {
    /// Whether the statement may have taken effect all the same.
    pub(crate) fn outcome_is_unknown(&self) -> bool {
        match self {
            Self::Store(error) => error.outcome_is_unknown(),
            Self::Silence(_) => true,
        }
    }
}

pub(crate) async fn ask<T>(statement: impl Future<Output = Result<T, StoreError>>) -> Result<T, NoAnswer> {
    within(USUAL, statement).await
}

pub(crate) async fn within<T>(
    limit: Duration,
    statement: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, NoAnswer> {
    Ok(timeout(limit, statement).await.map_err(|_elapsed| NoAnswer::Silence(limit))??)
}
