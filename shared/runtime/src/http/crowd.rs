//! The connections of one listener, and which of them makes room for a new one.
//!
//! A connection costs its client nothing and needs no key, so a limit alone would let idle connections keep everybody out.
//! When all places are taken, the connection that has waited longest for a request gives its place to the next client. A
//! connection whose request is being read or answered keeps its place.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use metrics::{Counter, Gauge, counter, gauge};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metric;

const OPEN: Metric = Metric::gauge("foreman_connections", "Connections of clients, by listener.");
const SHED: Metric = Metric::labelled_counter(
    "foreman_connections_shed_total",
    "Connections closed to make room, because they had waited longest for a request, by listener.",
);
pub(crate) const METRICS: &[Metric] = &[OPEN, SHED];

/// All connections of one listener.
pub(super) struct Crowd {
    most: usize,
    members: Mutex<Members>,
    /// Told when a place may have become free.
    changed: Notify,
    open: Gauge,
    shed: Counter,
}

#[derive(Default)]
struct Members {
    /// Places taken. A connection that was told to go has passed its place on, and counts no more.
    taken: usize,
    /// Connections without a request, the one that has waited longest first.
    waiting: BTreeMap<u64, CancellationToken>,
    next_ticket: u64,
}

/// The place of one connection; given up when dropped.
pub(super) struct Place {
    crowd: Arc<Crowd>,
    told_to_go: CancellationToken,
    phase: Mutex<Phase>,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    /// No request is in flight. The ticket is the key of `waiting`.
    Waiting(u64),
    /// From a request's head to the end of its answer.
    Answering,
    /// The answer is complete, but some of it may still be in our own buffer.
    Answered,
}

impl Crowd {
    pub(super) fn new(listener: &'static str, most: usize) -> Arc<Self> {
        let crowd = Self {
            most,
            members: Mutex::default(),
            changed: Notify::new(),
            open: gauge!(OPEN.name, "listener" => listener),
            shed: counter!(SHED.name, "listener" => listener),
        };
        crowd.open.set(0.0);
        crowd.shed.increment(0);
        Arc::new(crowd)
    }

    /// Takes a place for a new connection. This waits only while every connection has a request in flight.
    pub(super) async fn enter(self: &Arc<Self>) -> Arc<Place> {
        loop {
            if let Some(place) = self.try_enter() {
                return place;
            }
            self.changed.notified().await;
        }
    }

    /// The same, or nothing where one would have to wait.
    pub(super) fn try_enter(self: &Arc<Self>) -> Option<Arc<Place>> {
        let mut members = self.members();
        if members.taken < self.most {
            members.taken += 1;
        } else {
            let (_, longest) = members.waiting.pop_first()?;
            longest.cancel();
            self.shed.increment(1);
        }
        let told_to_go = CancellationToken::new();
        let phase = Mutex::new(members.wait(told_to_go.clone()));
        drop(members);
        self.open.increment(1.0);
        Some(Arc::new(Place { crowd: Arc::clone(self), told_to_go, phase }))
    }

    fn members(&self) -> MutexGuard<'_, Members> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Members {
    fn wait(&mut self, told_to_go: CancellationToken) -> Phase {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.waiting.insert(ticket, told_to_go);
        Phase::Waiting(ticket)
    }
}

impl Place {
    /// Returns when the place was given to another connection.
    pub(super) async fn told_to_go(&self) {
        self.told_to_go.cancelled().await;
    }

    pub(super) fn has_request(&self) -> bool {
        !matches!(*self.phase(), Phase::Waiting(_))
    }

    /// A request's head has come.
    pub(super) fn begin(&self) {
        let mut phase = self.phase();
        if let Phase::Waiting(ticket) = *phase {
            self.crowd.members().waiting.remove(&ticket);
        }
        *phase = Phase::Answering;
    }

    /// The answer to it is complete.
    pub(super) fn answered(&self) {
        *self.phase() = Phase::Answered;
    }

    /// Everything that was to be sent is with the system.
    pub(super) fn flushed(&self) {
        let mut phase = self.phase();
        if matches!(*phase, Phase::Answered) {
            let mut members = self.crowd.members();
            if !self.told_to_go.is_cancelled() {
                *phase = members.wait(self.told_to_go.clone());
                drop(members);
                self.crowd.changed.notify_one();
            }
        }
    }

    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let phase = *self.phase();
        let mut members = self.crowd.members();
        if !self.told_to_go.is_cancelled() {
            if let Phase::Waiting(ticket) = phase {
                members.waiting.remove(&ticket);
            }
            members.taken -= 1;
        }
        drop(members);
        self.crowd.changed.notify_one();
        self.crowd.open.decrement(1.0);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn must_go(place: &Place) -> bool {
        place.told_to_go.is_cancelled()
    }

    #[test]
    fn the_one_that_has_waited_longest_makes_room_and_never_one_with_a_request() {
        let crowd = Crowd::new("test_crowd", 3);
        let places: Vec<_> = (0..3).map(|_| crowd.try_enter().unwrap()).collect();
        places[0].begin();
        let fourth = crowd.try_enter().unwrap();
        assert_eq!(places.iter().map(|place| must_go(place)).collect::<Vec<_>>(), [false, true, false]);
        // The first waits again, and since a later moment than the others.
        places[0].answered();
        assert!(places[0].has_request(), "until all of it is sent");
        places[0].flushed();
        let fifth = crowd.try_enter().unwrap();
        assert!(must_go(&places[2]) && !must_go(&places[0]) && !must_go(&fourth));

        for place in [&places[0], &fourth, &fifth] {
            place.begin();
        }
        assert!(crowd.try_enter().is_none(), "all have a request");
    }

    #[test]
    fn a_place_is_given_up_once() {
        let crowd = Crowd::new("test_crowd", 1);
        let shed = crowd.try_enter().unwrap();
        let next = crowd.try_enter().unwrap();
        assert!(must_go(&shed));
        // It was told to go at the moment at which its request came: it may finish, in no place.
        shed.begin();
        shed.answered();
        shed.flushed();
        drop(shed);
        next.begin();
        assert!(crowd.try_enter().is_none());
        drop(next);
        assert!(crowd.try_enter().is_some());
        assert!(crowd.members().waiting.is_empty(), "{:?}", crowd.members().taken);
    }

    #[tokio::test]
    async fn a_newcomer_waits_until_a_request_ends() {
        let crowd = Crowd::new("test_crowd", 1);
        let busy = crowd.try_enter().unwrap();
        busy.begin();
        let mut newcomer = Box::pin(crowd.enter());
        assert!((&mut newcomer).now_or_never().is_none());
        busy.answered();
        busy.flushed();
        newcomer.await;
        assert!(must_go(&busy));
    }
}
