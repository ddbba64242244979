//! What can go wrong between Foreman and Postgres, sorted by what the caller can do about it.
//!
//! Must never call an outcome known if the answer to its COMMIT was lost.

/// A statement that failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Postgres cannot be reached, or has no free connection. The statement was not sent.
    #[error("Postgres cannot be reached")]
    Unreached(#[source] sqlx::Error),
    /// Postgres went away before it answered. Nobody knows whether the statement took effect.
    #[error("Postgres went away before it answered")]
    Away(#[source] sqlx::Error),
    /// Postgres gave up because of a conflict between transactions. The same statement may succeed when tried again.
    #[error("Postgres gave up because of a conflict; try again")]
    Contended(#[source] sqlx::Error),
    /// Postgres cannot run the statement at present: its disk is full, it ran out of time or memory, it is a standby,
    /// or a partition is missing. Nothing was written. The same statement succeeds once somebody has mended the
    /// cause.
    #[error("Postgres cannot run the statement at present")]
    Unable(#[source] sqlx::Error),
    /// Postgres refuses the values themselves. Trying again cannot help.
    #[error("Postgres refused a value")]
    BadData(#[source] sqlx::Error),
    /// Any other error, such as a missing table or a defect in Foreman.
    #[error("Postgres answered with an error")]
    Other(#[source] sqlx::Error),
}

impl StoreError {
    /// Whether the statement may have taken effect although no answer came.
    pub fn outcome_is_unknown(&self) -> bool {
        matches!(self, Self::Away(_))
    }

    /// Whether Postgres itself ended the connection. If so, it does not begin anything else that was sent on this
    /// connection.
    pub(crate) fn is_the_last_word(&self) -> bool {
        let Self::Away(sqlx::Error::Database(error)) = self else { return false };
        error.code().is_some_and(|code| code.starts_with("57P"))
    }

    /// Wraps the error for an executor of sqlx, which must return a `sqlx::Error`. `StoreError::from` unwraps it
    /// unchanged.
    pub(crate) fn through_sqlx(self) -> sqlx::Error {
        sqlx::Error::AnyDriverError(Box::new(self))
    }

    /// The error of a caller that got no connection.
    pub(crate) fn unreached(error: sqlx::Error) -> Self {
        match Self::from(error) {
            Self::Away(error) | Self::Unable(error) | Self::Contended(error) => Self::Unreached(error),
            told => told,
        }
    }
}

/// Whether a connection may be used again after this error. After an error of an unexpected kind it is replaced: it
/// may have prepared a statement for a schema that has changed since.
pub(crate) fn leaves_connection_sound(error: &sqlx::Error) -> bool {
    matches!(class_of(error), Class::Contended | Class::Unable | Class::BadData)
}

/// Whether Postgres gave up because of a conflict between transactions.
pub(crate) fn is_contended(error: &sqlx::Error) -> bool {
    class_of(error) == Class::Contended
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Away,
    Contended,
    Unable,
    BadData,
    Other,
}

fn class_of(error: &sqlx::Error) -> Class {
    use sqlx::Error as E;
    match error {
        E::Io(_) | E::Tls(_) | E::Protocol(_) | E::PoolTimedOut | E::PoolClosed | E::WorkerCrashed => {
            Class::Away
        }
        E::Database(database) => {
            let code = database.code().unwrap_or_default();
            match &*code {
                // serialization_failure, deadlock_detected, lock_not_available.
                "40001" | "40P01" | "55P03" => Class::Contended,
                // 57P01 to 57P05: shutdown, crash, still starting, database dropped, idle too long. 25P03: idle in a
                // transaction.
                "57P01" | "57P02" | "57P03" | "57P04" | "57P05" | "25P03" => Class::Away,
                // query_canceled: by statement_timeout or by an administrator. read_only_sql_transaction: a standby
                // after a failover.
                "57014" | "25006" => Class::Unable,
                // A check_violation without a constraint means that no partition has room for the row. A day is
                // missing; no value is wrong.
                "23514" if database.constraint().is_none() => Class::Unable,
                _ => match code.get(..2) {
                    // connection_exception.
                    Some("08") => Class::Away,
                    // insufficient_resources (disk, memory, connections), system_error.
                    Some("53" | "58") => Class::Unable,
                    // data_exception, integrity_constraint_violation, program_limit_exceeded.
                    Some("22" | "23" | "54") => Class::BadData,
                    _ => Class::Other,
                },
            }
        }
        _ => Class::Other,
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        let error = match error {
            sqlx::Error::AnyDriverError(inner) => match inner.downcast::<Self>() {
                Ok(told) => return *told,
                Err(inner) => sqlx::Error::AnyDriverError(inner),
            },
            error => error,
        };
        match class_of(&error) {
            Class::Away => Self::Away(error),
            Class::Contended => Self::Contended(error),
            Class::Unable => Self::Unable(error),
            Class::BadData => Self::BadData(error),
            Class::Other => Self::Other(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_that_goes_through_sqlx_stays_what_it_was() {
        let unreached = StoreError::unreached(sqlx::Error::PoolTimedOut);
        let told = StoreError::from(unreached.through_sqlx());
        assert!(matches!(told, StoreError::Unreached(sqlx::Error::PoolTimedOut)), "{told:?}");
        assert!(!told.outcome_is_unknown());
    }
}
