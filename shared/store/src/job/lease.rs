//! The right to run a job, and the right to ask for it.

use crate::id::{JobId, LeaseNo, WorkerId};

/// Who claims: a live worker that holds the host, proved by the fence number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    pub worker: WorkerId,
    pub host: String,
    pub fence: i64,
}

/// The right to run a job and to say what became of it. It is consumed by the write that ends it.
#[derive(Debug, PartialEq, Eq)]
pub struct Lease {
    pub job_id: JobId,
    pub no: LeaseNo,
}
