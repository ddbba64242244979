//! Every way a job moves: one verb per file. The job's state is the room (table) that it stands in.
//!
//! ```text
//!            accept                      claim            begin
//! (client) ─────────▶ ready / scheduled ──────▶ lease: held ──▶ loading ──▶ working
//!                       ▲      │ promote          │                 │          │
//!                       │      ▼                  └──────── settle ─┴──────────┤
//!                       └── hand back, retry, rescue ◀──────────────────────────┤
//!                                                                              ▼
//!            cancel, expire, fail ─────────────────────────────────────────▶ done
//! ```
//!
//! The law of every transition:
//!
//! - One statement moves the job. If the job's state changes, the same statement writes the outbox row, so that
//!   nobody sees a new state without its event, or an event without its state. Moves within `queued` write no event:
//!   a promotion, a claim until its job begins, and the return from such a claim. A `drop` writes no event either,
//!   because nobody could read the event of a job without a request. A request to cancel a leased job moves nothing:
//!   it marks the lease.
//! - A claim proves that its worker lives and holds the host. From then on every write of the holder proves the
//!   number of its lease. A batch skips the leases that now belong to another worker, and tells the caller which ones
//!   these are.
//! - The statement that ends a job or an attempt also writes what it has used, so that nothing is counted twice or lost.
//! - A statement computes the new row from the rows that it deleted or changed itself, never from what the caller
//!   believed.
//! - Once somebody has asked to cancel a leased job, its end is `cancelled`, unless the job succeeded.
//! - A sync call that worked goes back to the queue from a dead worker only while its api lives, because its caller may
//!   have got a part of the answer.
//! - A batch locks its rows in the order of their ids, or skips locked rows. So no two batches deadlock.
//! - After the commit, never before, [`Store::tell`](crate::db::connect::Store::tell) wakes the waiters whom the
//!   transition may concern.
//!
//! The `CHECK`s of the migrations state the same law again, as far as one row alone can show it.

pub(crate) mod accept;
pub(crate) mod look_up;
mod promote;
pub(crate) mod claim;
pub(crate) mod begin;
pub(crate) mod settle;
pub(crate) mod rescue;
pub(crate) mod cancel;
mod expire;
mod fail;
mod drop;

/// Why a job failed or goes back to the queue: a sentence for people and a stable code for programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    pub error: String,
    pub code: String,
}
