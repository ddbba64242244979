//! Limits how often a client may ask us to send webhooks again.

use std::time::Duration;

use foreman_store::ClientId;

use crate::access::allowance::Allowance;
use crate::access::shares::{Refusals, Resource};
use crate::refusal::Refusal;

/// A client may ask for this many redeliveries at once, and after that for one per interval. A receiver that was down for a
/// long time does better with a slow stream of webhooks.
const REDELIVERIES_AT_ONCE: u32 = 60;
const REDELIVERY_INTERVAL: Duration = Duration::from_secs(1);

const REDELIVERIES: Resource = Resource {
    name: "redeliveries",
    code: "redelivered_too_often",
    error: "this client asks for more than 60 redeliveries a minute; go on when the time in Retry-After has passed",
};

/// Counts the redeliveries of each client.
pub(crate) struct Redeliveries {
    allowance: Allowance<ClientId>,
    refusals: Refusals,
}

impl Redeliveries {
    pub(crate) fn new() -> Self {
        let allowance = Allowance::new(REDELIVERIES_AT_ONCE, REDELIVERY_INTERVAL);
        Self { allowance, refusals: Refusals::new(REDELIVERIES) }
    }

    /// Counts one redelivery of this client, or refuses it.
    pub(crate) fn count(&self, client: ClientId) -> Result<(), Refusal> {
        self.allowance.take(client).map_err(|wait| self.refusals.part_is_used().retry_after(wait))
    }
}
