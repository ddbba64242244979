//! The connections of one listener, and which of them makes room for a new one.
//!
//! A connection costs its client nothing and needs no key. So with a limit alone, idle connections could keep everybody out.
//! When the limit is reached, the connection that has waited longest for a request is told to go, and the next client takes
//! its place. A connection whose request is being read or answered is never told to go.

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
    /// Notified when a new connection may find room.
    changed: Notify,
    open: Gauge,
    shed: Counter,
}

#[derive(Default)]
struct Members {
    /// How many connections count towards the limit. A connection that was told to go does not count any more.
    taken: usize,
    /// Connections without a request. The first one has waited longest.
    waiting: BTreeMap<u64, CancellationToken>,
    next_ticket: u64,
}

/// One connection in the crowd. Dropping the value makes room for another connection.
pub(super) struct OpenConnection {
    crowd: Arc<Crowd>,
    told_to_go: CancellationToken,
    phase: Mutex<Phase>,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    /// The connection waits for a request. The ticket is its key in `waiting`.
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

    /// Lets a new connection in. This waits only while every connection has a request in flight.
    pub(super) async fn enter(self: &Arc<Self>) -> Arc<OpenConnection> {
        loop {
            if let Some(open) = self.try_enter() {
                return open;
            }
            self.changed.notified().await;
        }
    }

    /// Lets a new connection in. `None` if it would have to wait.
    pub(super) fn try_enter(self: &Arc<Self>) -> Option<Arc<OpenConnection>> {
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
        Some(Arc::new(OpenConnection { crowd: Arc::clone(self), told_to_go, phase }))
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

impl OpenConnection {
    /// Returns when the connection must make room for another one.
    pub(super) async fn told_to_go(&self) {
        self.told_to_go.cancelled().await;
    }

    pub(super) fn has_request(&self) -> bool {
        !matches!(*self.phase(), Phase::Waiting(_))
    }

    /// Records that the head of a request has come.
    pub(super) fn begin(&self) {
        let mut phase = self.phase();
        if let Phase::Waiting(ticket) = *phase {
            self.crowd.members().waiting.remove(&ticket);
        }
        *phase = Phase::Answering;
    }

    /// Records that the answer is complete.
    pub(super) fn answered(&self) {
        *self.phase() = Phase::Answered;
    }

    /// Records that our own buffer is empty: the operating system has everything that was written.
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

impl Drop for OpenConnection {
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

    fn must_go(open: &OpenConnection) -> bool {
        open.told_to_go.is_cancelled()
    }

    #[test]
    fn the_one_that_has_waited_longest_makes_room_and_never_one_with_a_request() {
        let crowd = Crowd::new("test_crowd", 3);
        let opened: Vec<_> = (0..3).map(|_| crowd.try_enter().unwrap()).collect();
        opened[0].begin();
        let fourth = crowd.try_enter().unwrap();
        assert_eq!(opened.iter().map(|open| must_go(open)).collect::<Vec<_>>(), [false, true, false]);
        // The first one waits again, but for a shorter time than the others.
        opened[0].answered();
        assert!(opened[0].has_request(), "until all of it is sent");
        opened[0].flushed();
        let fifth = crowd.try_enter().unwrap();
        assert!(must_go(&opened[2]) && !must_go(&opened[0]) && !must_go(&fourth));

        for open in [&opened[0], &fourth, &fifth] {
            open.begin();
        }
        assert!(crowd.try_enter().is_none(), "all have a request");
    }

    #[test]
    fn a_connection_makes_room_once() {
        let crowd = Crowd::new("test_crowd", 1);
        let shed = crowd.try_enter().unwrap();
        let next = crowd.try_enter().unwrap();
        assert!(must_go(&shed));
        // It was told to go at the moment when its request came. It may finish, and does not count any more.
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
