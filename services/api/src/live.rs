//! Sync calls while they wait: where their attempts run, how the answer comes from a worker, and the end of a call whose caller
//! has hung up. Knows no surface: what a caller is told, and in which form, is for `surface/`.

use std::time::Duration;

pub(crate) mod announcements;
pub(crate) mod call;
pub(crate) mod following;
pub(crate) mod hang_ups;
pub(crate) mod process;
pub(crate) mod stored;

/// When a call shows signs of life.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Signs {
    pub(crate) first_after: Duration,
    pub(crate) every: Duration,
}
