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
//! - One statement changes the job's room and writes its outbox row. No transition is seen without its event, and no event
//!   without its transition. Two moves are no transitions, and write no event: `promote`, because both of its rooms are
//!   `queued`, and `drop`, because the job's request is gone. A request to cancel a leased job only marks the lease.
//! - A holder proves the number of its lease with every write. A lease that has gone to another is left alone: such members
//!   of a batch fall out one by one, and the caller is told which they are.
//! - What the statement takes away, it derives from the rows that it itself deleted or changed: never from what the caller
//!   believed, nor from what an earlier statement read.
//! - A cancel that somebody asked for wins at each exit from a lease, but for a success.
//! - A batch locks its rows in the order of their ids, or skips those that are locked: two batches never wait for each other.
//! - After the commit, and not before, [`Store::tell`](crate::connect::Store::tell) wakes those who wait for what the
//!   transition may have freed.
//!
//! The `CHECK`s of the migrations say the same once more, as far as a row by itself can show it.

pub(crate) mod accept;
pub(crate) mod begin;
pub(crate) mod cancel;
pub(crate) mod claim;
mod drop;
mod expire;
mod fail;
pub(crate) mod look_up;
mod promote;
pub(crate) mod rescue;
pub(crate) mod settle;

/// Why a job failed or goes back: a sentence for people and a stable code for programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    pub error: String,
    pub code: String,
}
