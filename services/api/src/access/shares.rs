//! Shares a limited resource between all clients, so that no client can use all of it: memory for the bodies of requests, for
//! example, or connections to the database.
//!
//! Must never wait. A client that holds its own part is refused with 429, and can mend this itself. When all clients together
//! hold everything, every client is refused with 503.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use foreman_runtime::metrics::Metric;
use foreman_store::ClientId;
use metrics::{Counter, Gauge, counter, gauge};

use crate::refusal::Refusal;

const USED: Metric = Metric::gauge("foreman_share_used", "Units in use by all clients together, by share.");
const LIMIT: Metric =
    Metric::gauge("foreman_share_limit", "Units that all clients together may use, by share.");
const REFUSALS: Metric = Metric::labelled_counter(
    "foreman_share_refusals_total",
    "Requests refused, by share and by what was used up: the part of the client, or the whole.",
);
pub(crate) const METRICS: &[Metric] = &[USED, LIMIT, REFUSALS];

/// A refused client is told to come back after this time. Most requests are over by then.
const COME_BACK_AFTER: Duration = Duration::from_secs(2);

/// Describes one shared resource.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Resource {
    /// The value of the metrics' label `share`.
    pub(crate) name: &'static str,
    /// The `code` of the refusal of a client that holds its own part.
    pub(crate) code: &'static str,
    /// The sentence of that refusal.
    pub(crate) error: &'static str,
}

/// The limits, in units of the resource.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// All clients together hold at most this.
    pub(crate) whole: usize,
    /// One client holds at most this.
    pub(crate) part: usize,
    /// Only small holdings may use these units, so that large holdings never keep small ones out.
    pub(crate) reserve: usize,
    /// A holding is small up to this size.
    pub(crate) small: usize,
}

impl Bounds {
    /// Each client may hold a quarter of the whole, and there is no reserve. So three greedy clients leave room for the others.
    pub(crate) fn quarters(whole: usize) -> Self {
        Self { whole, part: (whole / 4).max(1), reserve: 0, small: 0 }
    }
}

/// A resource, shared by all clients.
#[derive(Debug, Clone)]
pub(crate) struct Shares(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    bounds: Bounds,
    uses: Mutex<Uses>,
    used: Gauge,
    refusals: Refusals,
}

/// Makes the refusals of one resource, and counts them.
#[derive(Debug)]
pub(crate) struct Refusals {
    resource: Resource,
    for_part: Counter,
    for_whole: Counter,
}

#[derive(Debug, Default)]
struct Uses {
    all: usize,
    /// Has only the clients that hold something.
    clients: HashMap<ClientId, usize>,
}

/// The units that a client holds for one purpose. Dropping it gives them back.
#[derive(Debug)]
pub(crate) struct Holding {
    shares: Shares,
    client: ClientId,
    units: usize,
}

impl Shares {
    pub(crate) fn new(resource: Resource, bounds: Bounds) -> Self {
        let inner = Inner {
            bounds,
            uses: Mutex::default(),
            used: gauge!(USED.name, "share" => resource.name),
            refusals: Refusals::new(resource),
        };
        inner.used.set(0.0);
        gauge!(LIMIT.name, "share" => resource.name).set(bounds.whole as f64);
        Self(Arc::new(inner))
    }

    pub(crate) fn refusals(&self) -> &Refusals {
        &self.0.refusals
    }

    /// Takes this many units, or refuses. A request for more than one client's part takes exactly the part, so that it
    /// succeeds when the client holds nothing else.
    pub(crate) fn take(&self, client: ClientId, units: usize) -> Result<Holding, Refusal> {
        let mut held = Holding { shares: self.clone(), client, units: 0 };
        held.grow(units)?;
        Ok(held)
    }
}

impl Holding {
    /// Takes this many units more. A refusal leaves the holding as it is.
    pub(crate) fn grow(&mut self, units: usize) -> Result<(), Refusal> {
        let Inner { bounds, .. } = *self.shares.0;
        let size = self.units.saturating_add(units).min(bounds.part);
        let more = size - self.units;
        if more == 0 {
            return Ok(());
        }
        let ceiling = if size <= bounds.small { bounds.whole } else { bounds.whole - bounds.reserve };
        let mut uses = self.shares.uses();
        let of_client = uses.clients.get(&self.client).map_or(0, |used| *used);
        if of_client + more > bounds.part {
            drop(uses);
            return Err(self.shares.0.refusals.part_is_used());
        }
        if uses.all + more > ceiling {
            drop(uses);
            return Err(self.shares.0.refusals.whole_is_used());
        }
        uses.all += more;
        uses.clients.insert(self.client, of_client + more);
        drop(uses);
        self.units = size;
        self.shares.0.used.increment(more as f64);
        Ok(())
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        if self.units == 0 {
            return;
        }
        let mut uses = self.shares.uses();
        uses.all -= self.units;
        if let Entry::Occupied(mut of_client) = uses.clients.entry(self.client) {
            *of_client.get_mut() -= self.units;
            if *of_client.get() == 0 {
                of_client.remove();
            }
        }
        drop(uses);
        self.shares.0.used.decrement(self.units as f64);
    }
}

impl Shares {
    fn uses(&self) -> MutexGuard<'_, Uses> {
        self.0.uses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Refusals {
    pub(crate) fn new(resource: Resource) -> Self {
        let refused = |short| counter!(REFUSALS.name, "share" => resource.name, "short" => short);
        let refusals = Self { resource, for_part: refused("client"), for_whole: refused("all") };
        refusals.for_part.increment(0);
        refusals.for_whole.increment(0);
        refusals
    }

    /// The client has used its own part.
    pub(crate) fn part_is_used(&self) -> Refusal {
        self.for_part.increment(1);
        let Resource { code, error, .. } = self.resource;
        Refusal::too_many(code, error).retry_after(COME_BACK_AFTER)
    }

    /// All clients together have used the whole.
    pub(crate) fn whole_is_used(&self) -> Refusal {
        self.for_whole.increment(1);
        let error = "too much is under way at this moment; try again in a few seconds";
        Refusal::unavailable("busy", error).retry_after(COME_BACK_AFTER)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    const ANYTHING: Resource = Resource { name: "test", code: "part_used", error: "wait" };

    /// Shares of this many units. Each client may hold all of them.
    pub(crate) fn one_client_may_have(whole: usize) -> Shares {
        Shares::new(ANYTHING, Bounds { part: whole, ..Bounds::quarters(whole) })
    }

    fn clients<const N: usize>() -> [ClientId; N] {
        std::array::from_fn(|_| ClientId::generate())
    }

    fn code<T>(answer: Result<T, Refusal>) -> &'static str {
        answer.err().map_or("taken", |refusal| refusal.code())
    }

    #[test]
    fn a_client_has_its_part_and_all_have_the_whole() {
        let shares = Shares::new(ANYTHING, Bounds { part: 40, ..Bounds::quarters(100) });
        let [one, two, three] = clients();
        let mut held = shares.take(one, 30).unwrap();
        assert_eq!(code(shares.take(one, 11)), "part_used");
        held.grow(10).unwrap();
        assert_eq!(code(held.grow(0)), "taken", "nothing always fits");
        assert_eq!(code(shares.take(one, 1)), "part_used");
        let _others = (shares.take(two, 40).unwrap(), shares.take(three, 20).unwrap());
        assert_eq!(code(shares.take(three, 1)), "busy");
        drop(held);
        assert_eq!(code(shares.take(three, 1)), "taken");
    }

    #[test]
    fn a_dropped_holding_gives_back_all_its_units() {
        let shares = Shares::new(ANYTHING, Bounds::quarters(100));
        let [client] = clients();
        let mut held = shares.take(client, 20).unwrap();
        assert_eq!(code(held.grow(30)), "taken", "more than a part takes the part");
        assert_eq!(shares.uses().all, 25);
        drop(held);
        assert_eq!(shares.uses().all, 0);
        assert!(shares.uses().clients.is_empty());
        assert_eq!(
            code(shares.take(client, 1_000)),
            "taken",
            "a request for more than a part succeeds alone"
        );
    }

    #[test]
    fn large_holdings_leave_the_reserve_to_small_ones() {
        let shares = Shares::new(ANYTHING, Bounds { whole: 100, part: 100, reserve: 20, small: 5 });
        let [large, small] = clients();
        let held = shares.take(large, 80).unwrap();
        assert_eq!(code(shares.take(small, 6)), "busy");
        let mut few = shares.take(small, 5).unwrap();
        assert_eq!(code(few.grow(1)), "busy", "then it would not be small any more");
        drop(held);
        assert_eq!(code(few.grow(1)), "taken");
    }
}
