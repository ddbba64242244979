//! The right to run a job, and the right to ask for it.

use crate::id::{JobId, LeaseNo, WorkerId};

/// A live worker that holds a host and may claim for it. The fence number proves that it still holds the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    pub worker: WorkerId,
    pub host: String,
    pub fence: i64,
}

/// The right to run a job and to say what became of it. Every write proves its number.
/// [`Store::settle`](crate::Store::settle) ends it. That call borrows the lease, because after a lost answer the
/// holder must repeat the same call. A lease cannot be cloned.
#[derive(Debug, PartialEq, Eq)]
pub struct Lease {
    pub job_id: JobId,
    pub no: LeaseNo,
}
