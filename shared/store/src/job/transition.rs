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
//! - One statement moves the job and, where its state changes, writes the outbox row. So nobody sees a new state without
//!   its event, or an event without its state. Moves within `queued` write no event: a promotion, a claim until its job
//!   begins, and the way back from such a claim. Nor does `drop`, because nobody could read the event of a job without a
//!   request. A request to cancel a leased job moves nothing: it marks the lease.
//! - A claim proves that its worker lives and holds the host. From then on the holder proves the number of its lease with
//!   every write. A batch leaves alone the leases that have gone to another, and tells the caller which these are.
//! - What the statement takes away, it derives from the rows that it itself deleted or changed, and never from what the
//!   caller believed.
//! - A cancel that somebody asked for wins at each exit from a lease, but for a success.
//! - A batch locks its rows in the order of their ids, or skips those that are locked. So no two batches deadlock.
//! - After the commit, and not before, [`Store::tell`](crate::db::connect::Store::tell) wakes those who wait for what the
//!   transition may have freed.
//!
//! The `CHECK`s of the migrations say the same once more, as far as a row by itself can show it.

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

/// Why a job failed or goes back: a sentence for people and a stable code for programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    pub error: String,
    pub code: String,
}
