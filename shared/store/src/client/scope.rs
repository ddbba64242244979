//! Whose jobs a reader may see.
//!
//! A read must never show one client the jobs of another.

use crate::id::ClientId;

/// Whose jobs may be seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    Client(ClientId),
    /// Every job, for an administrator.
    Everyone,
}

impl Scope {
    pub(crate) fn client(self) -> Option<uuid::Uuid> {
        match self {
            Self::Client(client) => Some(client.uuid()),
            Self::Everyone => None,
        }
    }
}
