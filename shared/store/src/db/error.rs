//! What can go wrong between Foreman and Postgres, sorted by what the caller can do about it.

/// A statement that did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Postgres cannot be reached, or has no connection for us: nothing was asked.
    #[error("Postgres cannot be reached")]
    Unreached(#[source] sqlx::Error),
    /// Postgres went away before it answered. Whether the statement took effect is not known.
    #[error("Postgres went away before it answered")]
    Away(#[source] sqlx::Error),
    /// Postgres gave up on a conflict between transactions; the same statement may succeed when tried again.
    #[error("Postgres asks to try again")]
    Contended(#[source] sqlx::Error),
    /// Postgres cannot do it as things are: its disk is full, it ran out of time or memory, it is a standby, a partition
    /// is missing. Nothing happened, and the same statement succeeds once that is mended.
    #[error("Postgres cannot do it at present")]
    Unable(#[source] sqlx::Error),
    /// The values themselves are refused; trying again cannot help.
    #[error("Postgres refused a value")]
    BadData(#[source] sqlx::Error),
    /// Anything else: a missing table, a defect of ours.
    #[error("Postgres answered with an error")]
    Other(#[source] sqlx::Error),
}

impl StoreError {
    /// Whether the statement may have taken effect although no answer came.
    pub fn outcome_is_unknown(&self) -> bool {
        matches!(self, Self::Away(_))
    }

    /// Whether Postgres itself has ended the connection, so that nothing else that was sent on it is begun.
    pub(crate) fn is_the_last_word(&self) -> bool {
        let Self::Away(sqlx::Error::Database(error)) = self else { return false };
        error.code().is_some_and(|code| code.starts_with("57P"))
    }

    /// As an executor of sqlx has to say it. It comes back unchanged from `StoreError::from`.
    pub(crate) fn through_sqlx(self) -> sqlx::Error {
        sqlx::Error::AnyDriverError(Box::new(self))
    }

    /// What it means that no connection could be had.
    pub(crate) fn unreached(error: sqlx::Error) -> Self {
        match Self::from(error) {
            Self::Away(error) | Self::Unable(error) | Self::Contended(error) => Self::Unreached(error),
            told => told,
        }
    }
}

/// Whether a connection may be used on after this error. One that met an error of a kind that we do not expect is
/// replaced: it may have prepared a statement for a schema that has changed since.
pub(crate) fn leaves_connection_sound(error: &sqlx::Error) -> bool {
    matches!(class_of(error), Class::Contended | Class::Unable | Class::BadData)
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
                // 57P01..57P05: shut down, crashed, starting, dropped, idle; 25P03: idle in a transaction for too long.
                "57P01" | "57P02" | "57P03" | "57P04" | "57P05" | "25P03" => Class::Away,
                // query_canceled: by its statement_timeout, or by an administrator; read_only_sql_transaction: a standby
                // after a failover.
                "57014" | "25006" => Class::Unable,
                // A check_violation of no constraint: no partition has room for the row. A day is missing, not a value.
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
