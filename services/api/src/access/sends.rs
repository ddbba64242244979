//! Limits how often a client may have webhooks sent by hand.

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

/// The same for examples. Each holds a request for as long as its receiver takes.
const EXAMPLES_AT_ONCE: u32 = 20;
const EXAMPLE_INTERVAL: Duration = Duration::from_secs(3);

const EXAMPLES: Resource = Resource {
    name: "examples",
    code: "too_many_examples",
    error: "this client asks for more than 20 examples a minute; go on when the time in Retry-After has passed",
};

/// Counts what each client asks for.
pub(crate) struct Sends {
    allowance: Allowance<ClientId>,
    refusals: Refusals,
}

impl Sends {
    pub(crate) fn redeliveries() -> Self {
        Self::new(REDELIVERIES_AT_ONCE, REDELIVERY_INTERVAL, REDELIVERIES)
    }

    pub(crate) fn examples() -> Self {
        Self::new(EXAMPLES_AT_ONCE, EXAMPLE_INTERVAL, EXAMPLES)
    }

    fn new(at_once: u32, interval: Duration, resource: Resource) -> Self {
        Self { allowance: Allowance::new(at_once, interval), refusals: Refusals::new(resource) }
    }

    /// Counts one more of this client, or refuses it.
    pub(crate) fn count(&self, client: ClientId) -> Result<(), Refusal> {
        self.allowance.take(client).map_err(|wait| self.refusals.part_is_used().retry_after(wait))
    }
}
