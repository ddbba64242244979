//! Which jobs should be claimed next: where work is, whose turn it is, and with which key. Pure.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

use foreman_ollama::ModelName;
use foreman_store::{Claimed, ClientId, JobId, Offer};
use tokio::time::Instant;

use crate::config;
use crate::runner::drain::{Drain, Next};
use crate::runner::job::Lane;
use crate::runner::key::Key;
use crate::runner::pace::Pace;
use crate::runner::presence::Presence;
use crate::runner::ready::{Place, Ready, Scan};
use crate::runner::turns::Turns;

/// A job is claimed ahead of its slot only where the one before it takes about so long: so Ollama never waits for us, and
/// a job that is held is never held for long. Where runs are shorter, a slot is free again before a claim is answered.
const HELD_AHEAD_OF: Range<Duration> = Duration::from_millis(20)..Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Plan {
    ready: Ready<Key>,
    presence: Presence,
    /// The keys that have work for this host; nothing when that has changed.
    waiting: Option<Waiting>,
    drain: Drain<ClientId, Key>,
    turns: Turns,
    pace: Pace<Key>,
    cloud_next: bool,
    last_in_cloud: Option<Key>,
}

/// Where there is work for this host, by the lane that it needs.
#[derive(Debug, Default)]
struct Waiting {
    /// Each client with each of its keys.
    gpu: Vec<(ClientId, Key)>,
    cloud: Vec<Key>,
}

/// What there is to be filled.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    /// Slots for which there is no job yet.
    pub(super) slots: usize,
    /// Whether a job is held already.
    pub(super) is_held: bool,
}

/// What to claim.
#[derive(Debug, Clone)]
pub(super) struct Order {
    pub(super) key: Key,
    pub(super) lane: Lane,
    pub(super) offers: Vec<Offer>,
    pub(super) limit: usize,
    /// Whether the jobs are begun with the claim, since there is nothing to be loaded for them.
    pub(super) begins: bool,
    /// Of which scan the offers are.
    scan: Scan,
}

/// For which key to claim, and how.
struct Wish {
    key: Key,
    lane: Lane,
    /// Whose jobs are offered before all others': the claim is for this client's turn.
    first: Option<ClientId>,
    limit: usize,
    begins: bool,
}

impl Plan {
    pub(super) fn new(turns: &config::Turns) -> Self {
        Self {
            ready: Ready::default(),
            presence: Presence::default(),
            waiting: None,
            drain: Drain::new(turns.load_share, turns.max_model_wait),
            turns: Turns::default(),
            pace: Pace::default(),
            cloud_next: false,
            last_in_cloud: None,
        }
    }

    /// Where jobs are ready.
    pub(super) fn scanned(&mut self, places: Vec<(Key, Place)>) {
        self.ready.scanned(places);
        self.waiting = None;
    }

    /// Which models the host has.
    pub(super) fn published(&mut self, models: BTreeSet<ModelName>) {
        self.presence.published(models);
        self.waiting = None;
    }

    /// Ollama did not find the model of this key.
    pub(super) fn missed(&mut self, key: &Key) {
        self.presence.missed(key.model());
        self.waiting = None;
    }

    pub(super) fn loaded(&mut self, key: &Key, took: Duration, now: Instant) {
        self.pace.loaded(key, took);
        self.is_loaded(key, now);
    }

    /// The turn of this key, if it is its own, goes on without a load from here.
    pub(super) fn is_loaded(&mut self, key: &Key, now: Instant) {
        if self.drain.has_turn(key) {
            self.drain.loaded(now);
        }
    }

    /// The turn of this key ends, or a model that cannot be loaded would keep the others waiting for its whole queue.
    pub(super) fn load_failed(&mut self, key: &Key, now: Instant) {
        if self.drain.has_turn(key) {
            self.drain.leave(now);
        }
    }

    pub(super) fn ran(&mut self, key: &Key, took: Duration) {
        self.pace.ran(key, took);
    }

    /// Whether jobs will be claimed for this key before any other has its turn.
    pub(super) fn goes_on_with(&self, key: &Key) -> bool {
        self.drain.has_turn(key) && self.ready.has(key)
    }

    /// Whether there is work that this host could do.
    pub(super) fn work_waits(&mut self) -> bool {
        let waiting = self.waiting();
        !waiting.gpu.is_empty() || !waiting.cloud.is_empty()
    }

    /// Which key has the GPU next, and for whom. What is held is work for the key that has the turn, though nothing more
    /// may be ready.
    pub(super) fn next(
        &mut self,
        held: impl Iterator<Item = (ClientId, Key)>,
        gpu_is_busy: bool,
        now: Instant,
    ) -> Next<ClientId, Key> {
        let mut waiting = self.waiting().gpu.clone();
        waiting.extend(held);
        self.drain.next(&waiting, gpu_is_busy, &self.pace, now)
    }

    /// What to claim, if anything. `needs_no_load` says so of a key and its lane; `floor` is the lowest id that a job not
    /// yet committed may have.
    pub(super) fn order(
        &mut self,
        next: Next<ClientId, Key>,
        room: Room,
        needs_no_load: impl Fn(&Key, Lane) -> bool,
        floor: JobId,
    ) -> Option<Order> {
        let Wish { key, lane, first, limit, begins } = self.wish(next, room, needs_no_load)?;
        let offers = self.turns.offers(&self.ready.places(&key), first, limit, floor);
        Some(Order { key, lane, offers, limit, begins, scan: self.ready.scan() })
    }

    /// Learns what an order brought.
    pub(super) fn claimed(&mut self, order: &Order, claimed: &[Claimed], now: Instant) {
        let brought: Vec<_> =
            claimed.iter().map(|job| (job.client, job.priority, job.lease.job_id)).collect();
        self.ready.claimed(&order.key, &order.offers, order.limit, &brought, order.scan);
        self.waiting = None;
        if order.lane == Lane::Gpu
            && let Some(first) = claimed.first()
        {
            self.drain.enter(first.client, &order.key, now);
        }
        claimed.iter().for_each(|job| self.turns.served(job.client));
    }

    fn waiting(&mut self) -> &Waiting {
        let (ready, presence) = (&self.ready, &self.presence);
        self.waiting.get_or_insert_with(|| {
            let mut waiting = Waiting::default();
            for key in ready.keys().filter(|key| presence.has(key.model())) {
                if key.model().is_cloud() {
                    waiting.cloud.push(Key::clone(key));
                } else {
                    let clients = ready.clients(key).into_iter();
                    waiting.gpu.extend(clients.map(|client| (client, Key::clone(key))));
                }
            }
            waiting
        })
    }

    fn wish(
        &mut self,
        next: Next<ClientId, Key>,
        room: Room,
        needs_no_load: impl Fn(&Key, Lane) -> bool,
    ) -> Option<Wish> {
        let last_in_cloud = self.last_in_cloud.clone();
        let Waiting { cloud, .. } = self.waiting();
        // In a ring: nothing has to be loaded for any of them.
        let cloud = cloud.iter().find(|key| Some(*key) > last_in_cloud.as_ref()).or(cloud.first()).cloned();
        // GPU and cloud share the slots, so they take turns, and neither holds a job ahead of the other's.
        let cloud_first = self.cloud_next && cloud.is_some();
        let wish = |key: Key, lane, may_hold| {
            let needs_no_load = needs_no_load(&key, lane);
            self.wish_for(key, lane, room, needs_no_load, may_hold)
        };
        let on_gpu = match next {
            Next::Stay(key) => wish(key, Lane::Gpu, !cloud_first),
            Next::Switch { client, key } => {
                wish(key, Lane::Gpu, false).map(|wish| Wish { first: Some(client), ..wish })
            }
            Next::Drain | Next::Rest => None,
        };
        let on_gpu = on_gpu.filter(|wish| self.ready.has(&wish.key));
        let in_cloud = cloud.and_then(|key| wish(key, Lane::Cloud, true));
        let wish = if cloud_first { in_cloud.or(on_gpu) } else { on_gpu.or(in_cloud) };
        if let Some(Wish { key, lane, .. }) = &wish {
            self.cloud_next = *lane == Lane::Gpu;
            if *lane == Lane::Cloud {
                self.last_in_cloud = Some(Key::clone(key));
            }
        }
        wish
    }

    /// A claim for the free slots, or for one job more that may be held until a slot is free.
    fn wish_for(
        &self,
        key: Key,
        lane: Lane,
        room: Room,
        needs_no_load: bool,
        may_hold: bool,
    ) -> Option<Wish> {
        // Held jobs come first, and a job that is begun waits for nothing.
        if room.slots > 0 && needs_no_load && !room.is_held {
            return Some(Wish { key, lane, first: None, limit: room.slots, begins: true });
        }
        let quick = self.pace.usual_run(&key).is_some_and(|usual| HELD_AHEAD_OF.contains(&usual));
        let limit = room.slots + usize::from(may_hold && quick && !room.is_held);
        (limit > 0).then_some(Wish { key, lane, first: None, limit, begins: false })
    }
}
