//! How often a client may have webhooks sent again.

use std::time::Duration;

use foreman_store::ClientId;

use crate::access::allowance::Allowance;
use crate::access::shares::{Refusals, Resource};
use crate::refusal::Refusal;

/// Redeliveries that a client may ask for at once, and how often after that. Receivers that were down for long are better
/// served slowly.
const REDELIVERIES_AT_ONCE: u32 = 60;
const REDELIVERY_EACH: Duration = Duration::from_secs(1);

const REDELIVERIES: Resource = Resource {
    name: "redeliveries",
    code: "redelivered_too_often",
    error: "this client asks for more than 60 redeliveries a minute; go on when the time in Retry-After has passed",
};

/// How often clients may have webhooks sent again.
pub(crate) struct Redeliveries {
    allowance: Allowance<ClientId>,
    refusals: Refusals,
}

impl Redeliveries {
    pub(crate) fn new() -> Self {
        let allowance = Allowance::new(REDELIVERIES_AT_ONCE, REDELIVERY_EACH);
        Self { allowance, refusals: Refusals::new(REDELIVERIES) }
    }

    /// Uses the allowance of this client once.
    pub(crate) fn ask(&self, client: ClientId) -> Result<(), Refusal> {
        self.allowance.take(client).map_err(|wait| self.refusals.part_is_used().retry_after(wait))
    }
}
