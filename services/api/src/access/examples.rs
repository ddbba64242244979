//! Limits how often a client may have an example sent to one of its endpoints.

use std::time::Duration;

use foreman_store::ClientId;

use crate::access::allowance::Allowance;
use crate::access::shares::{Refusals, Resource};
use crate::refusal::Refusal;

/// A client may have this many examples sent at once, and after that one per interval: each holds a request for as long as its
/// receiver takes.
const EXAMPLES_AT_ONCE: u32 = 20;
const EXAMPLE_INTERVAL: Duration = Duration::from_secs(3);

const EXAMPLES: Resource = Resource {
    name: "examples",
    code: "too_many_examples",
    error: "this client asks for more than 20 examples a minute; go on when the time in Retry-After has passed",
};

/// Counts the examples of each client.
pub(crate) struct Examples {
    allowance: Allowance<ClientId>,
    refusals: Refusals,
}

impl Examples {
    pub(crate) fn new() -> Self {
        let allowance = Allowance::new(EXAMPLES_AT_ONCE, EXAMPLE_INTERVAL);
        Self { allowance, refusals: Refusals::new(EXAMPLES) }
    }

    /// Counts one example of this client, or refuses it.
    pub(crate) fn count(&self, client: ClientId) -> Result<(), Refusal> {
        self.allowance.take(client).map_err(|wait| self.refusals.part_is_used().retry_after(wait))
    }
}
