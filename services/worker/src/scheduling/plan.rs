//! Which jobs should be claimed next: where work is, whose turn it is, and with which key. Pure.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

use foreman_ollama::ModelName;
use foreman_store::{Claimed, ClientId, JobId, Offer};
use tokio::time::Instant;

use super::backlog::{Backlog, Group, Scan};
use super::client_order::ClientOrder;
use super::estimates::Estimates;
use super::key::{Key, RunsOn};
use super::presence::Presence;
use super::rotation::{Next, Rotation};
use crate::config;

/// A job is claimed ahead of its slot only where the one before it takes about so long: so Ollama never waits for us, and
/// a job that is held is never held for long. Where runs are shorter, a slot is free again before a claim is answered.
const HELD_AHEAD_OF: Range<Duration> = Duration::from_millis(20)..Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Plan {
    backlog: Backlog<Key>,
    presence: Presence,
    /// The keys that have work for this host; nothing when that has changed.
    waiting: Option<Waiting>,
    rotation: Rotation<ClientId, Key>,
    client_order: ClientOrder,
    estimates: Estimates<Key>,
    cloud_next: bool,
    last_in_cloud: Option<Key>,
}

/// Where there is work for this host, by what it runs on.
#[derive(Debug, Default)]
struct Waiting {
    /// Each client with each of its keys.
    gpu: Vec<(ClientId, Key)>,
    cloud: Vec<Key>,
}

/// What there is to be filled.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    /// Slots for which there is no job yet.
    pub(crate) slots: usize,
    /// Whether a job is held already.
    pub(crate) is_held: bool,
}

/// What to claim.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    pub(crate) key: Key,
    pub(crate) runs_on: RunsOn,
    pub(crate) offers: Vec<Offer>,
    pub(crate) limit: usize,
    /// Whether the jobs are begun with the claim, since there is nothing to be loaded for them.
    pub(crate) begins: bool,
    /// Of which scan the offers are.
    scan: Scan,
}

/// For which key to claim, and how.
struct Wish {
    key: Key,
    runs_on: RunsOn,
    /// Whose jobs are offered before all others': the claim is for this client's turn.
    first: Option<ClientId>,
    limit: usize,
    begins: bool,
}

impl Plan {
    pub(crate) fn new(turns: &config::Turns) -> Self {
        Self {
            backlog: Backlog::default(),
            presence: Presence::default(),
            waiting: None,
            rotation: Rotation::new(turns.load_share, turns.max_model_wait),
            client_order: ClientOrder::default(),
            estimates: Estimates::default(),
            cloud_next: false,
            last_in_cloud: None,
        }
    }

    /// Where jobs are ready.
    pub(crate) fn scanned(&mut self, groups: Vec<(Key, Group)>) {
        self.backlog.scanned(groups);
        self.waiting = None;
    }

    /// Which models the host has.
    pub(crate) fn published(&mut self, models: BTreeSet<ModelName>) {
        self.presence.published(models);
        self.waiting = None;
    }

    /// Ollama did not find the model of this key.
    pub(crate) fn missed(&mut self, key: &Key) {
        self.presence.missed(key.model());
        self.waiting = None;
    }

    pub(crate) fn loaded(&mut self, key: &Key, took: Duration, now: Instant) {
        self.estimates.loaded(key, took);
        self.is_loaded(key, now);
    }

    /// The turn of this key, if it is its own, goes on without a load from here.
    pub(crate) fn is_loaded(&mut self, key: &Key, now: Instant) {
        if self.rotation.has_turn(key) {
            self.rotation.loaded(now);
        }
    }

    /// The turn of this key ends, or a model that cannot be loaded would keep the others waiting for its whole queue.
    pub(crate) fn load_failed(&mut self, key: &Key, now: Instant) {
        if self.rotation.has_turn(key) {
            self.rotation.leave(now);
        }
    }

    /// A job of this client and key had the host for so long.
    pub(crate) fn ran(&mut self, client: ClientId, key: &Key, took: Duration) {
        self.estimates.ran(key, took);
        self.client_order.ran(client, took);
    }

    /// Whether jobs will be claimed for this key before any other has its turn.
    pub(crate) fn goes_on_with(&self, key: &Key) -> bool {
        self.rotation.has_turn(key) && self.backlog.has(key)
    }

    /// Whether there is work that this host could do.
    pub(crate) fn work_waits(&mut self) -> bool {
        let waiting = self.waiting();
        !waiting.gpu.is_empty() || !waiting.cloud.is_empty()
    }

    /// Which key has the GPU next, and for whom. What is held is work for the key that has the turn, though nothing more
    /// may be ready.
    pub(crate) fn next(
        &mut self,
        held: impl Iterator<Item = (ClientId, Key)>,
        gpu_is_busy: bool,
        now: Instant,
    ) -> Next<ClientId, Key> {
        let mut waiting = self.waiting().gpu.clone();
        waiting.extend(held);
        self.rotation.next(&waiting, gpu_is_busy, &self.estimates, now)
    }

    /// What to claim, if anything. `needs_no_load` says so of a key and what it runs on; `floor` is the lowest id that a job not
    /// yet committed may have.
    pub(crate) fn order(
        &mut self,
        next: Next<ClientId, Key>,
        room: Room,
        needs_no_load: impl Fn(&Key, RunsOn) -> bool,
        floor: JobId,
    ) -> Option<Order> {
        let Wish { key, runs_on, first, limit, begins } = self.wish(next, room, needs_no_load)?;
        let offers = self.client_order.offers(&self.backlog.groups(&key), first, limit, floor);
        Some(Order { key, runs_on, offers, limit, begins, scan: self.backlog.scan() })
    }

    /// Learns what an order brought.
    pub(crate) fn claimed(&mut self, order: &Order, claimed: &[Claimed], now: Instant) {
        let brought: Vec<_> =
            claimed.iter().map(|job| (job.client, job.priority, job.lease.job_id)).collect();
        self.backlog.claimed(&order.key, &order.offers, order.limit, &brought, order.scan);
        self.waiting = None;
        if order.runs_on == RunsOn::Gpu
            && let Some(first) = claimed.first()
        {
            self.rotation.enter(first.client, &order.key, now);
        }
        claimed.iter().for_each(|job| self.client_order.served(job.client));
    }

    fn waiting(&mut self) -> &Waiting {
        let (ready, presence) = (&self.backlog, &self.presence);
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
        needs_no_load: impl Fn(&Key, RunsOn) -> bool,
    ) -> Option<Wish> {
        let last_in_cloud = self.last_in_cloud.clone();
        let Waiting { cloud, .. } = self.waiting();
        // In a ring: nothing has to be loaded for any of them.
        let cloud = cloud.iter().find(|key| Some(*key) > last_in_cloud.as_ref()).or(cloud.first()).cloned();
        // GPU and cloud share the slots, so they take turns, and neither holds a job ahead of the other's.
        let cloud_first = self.cloud_next && cloud.is_some();
        let wish = |key: Key, runs_on, may_hold| {
            let needs_no_load = needs_no_load(&key, runs_on);
            self.wish_for(key, runs_on, room, needs_no_load, may_hold)
        };
        let on_gpu = match next {
            Next::Stay(key) => wish(key, RunsOn::Gpu, !cloud_first),
            Next::Switch { client, key } => {
                wish(key, RunsOn::Gpu, false).map(|wish| Wish { first: Some(client), ..wish })
            }
            Next::WaitForIdle | Next::Rest => None,
        };
        let on_gpu = on_gpu.filter(|wish| self.backlog.has(&wish.key));
        let in_cloud = cloud.and_then(|key| wish(key, RunsOn::Cloud, true));
        let wish = if cloud_first { in_cloud.or(on_gpu) } else { on_gpu.or(in_cloud) };
        if let Some(Wish { key, runs_on, .. }) = &wish {
            self.cloud_next = *runs_on == RunsOn::Gpu;
            if *runs_on == RunsOn::Cloud {
                self.last_in_cloud = Some(Key::clone(key));
            }
        }
        wish
    }

    /// A claim for the free slots, or for one job more that may be held until a slot is free.
    fn wish_for(
        &self,
        key: Key,
        runs_on: RunsOn,
        room: Room,
        needs_no_load: bool,
        may_hold: bool,
    ) -> Option<Wish> {
        // Held jobs come first, and a job that is begun waits for nothing.
        if room.slots > 0 && needs_no_load && !room.is_held {
            return Some(Wish { key, runs_on, first: None, limit: room.slots, begins: true });
        }
        let quick = self.estimates.usual_run(&key).is_some_and(|usual| HELD_AHEAD_OF.contains(&usual));
        let limit = room.slots + usize::from(may_hold && quick && !room.is_held);
        (limit > 0).then_some(Wish { key, runs_on, first: None, limit, begins: false })
    }
}
