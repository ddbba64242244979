//! What can go wrong between Foreman and Postgres, sorted by what the caller can do about it.

/// A statement that did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Postgres cannot be reached, or went away in the middle. Whether the statement took effect is not known.
    #[error("Postgres cannot be reached")]
    Away(#[source] sqlx::Error),
    /// Postgres gave up on a conflict between transactions; the same statement may succeed when tried again.
    #[error("Postgres asks to try again")]
    Contended(#[source] sqlx::Error),
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
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        use sqlx::Error as E;
        match &error {
            E::Io(_) | E::Tls(_) | E::Protocol(_) | E::PoolTimedOut | E::PoolClosed | E::WorkerCrashed => {
                Self::Away(error)
            }
            E::Database(database) => match database.code().as_deref() {
                // serialization_failure, deadlock_detected, lock_not_available.
                Some("40001" | "40P01" | "55P03") => Self::Contended(error),
                // Class 08: connection exceptions; 57P01..57P05: shut down, crashed, starting, dropped, idle;
                // 53300: too many connections; 25P03: idle in a transaction for too long.
                Some("57P01" | "57P02" | "57P03" | "57P04" | "57P05" | "53300" | "25P03") => {
                    Self::Away(error)
                }
                Some(code) if code.starts_with("08") => Self::Away(error),
                // Class 22: data exceptions; class 23: constraint violations; 54000: a limit of Postgres itself.
                Some(code) if code.starts_with("22") || code.starts_with("23") || code.starts_with("54") => {
                    Self::BadData(error)
                }
                _ => Self::Other(error),
            },
            _ => Self::Other(error),
        }
    }
}
