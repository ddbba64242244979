//! Decides which jobs to claim next: for which key, for which client first, and how many. Pure.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

use foreman_ollama::ModelName;
use foreman_store::{Claimed, ClientId, JobId, Offer};
use tokio::time::Instant;

use super::backlog::{self, Backlog, Group, ScanNo};
use super::client_order::ClientOrder;
use super::estimates::Estimates;
use super::key::{Key, RunsOn};
use super::presence::Presence;
use super::rotation::{Next, Rotation};
use crate::config;

/// Claim one job ahead of its slot only if runs of its key usually take this long. Then Ollama gets its next job
/// without waiting for a claim. A shorter run ends before Postgres answers the claim, and during a longer one the job
/// would be held for long.
const HOLD_AHEAD_OF: Range<Duration> = Duration::from_millis(20)..Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Plan {
    backlog: Backlog<Key>,
    presence: Presence,
    /// The work for this host. `None` after it may have changed, until it is needed again.
    waiting: Option<Waiting>,
    rotation: Rotation<ClientId, Key>,
    client_order: ClientOrder,
    estimates: Estimates<Key>,
    /// Whether the cloud comes before the GPU in the next claim.
    cloud_next: bool,
    last_in_cloud: Option<Key>,
}

/// The ready jobs that this host can run, by where they run.
#[derive(Debug, Default)]
struct Waiting {
    /// Each client with each key that it has ready jobs of.
    gpu: Vec<(ClientId, Key)>,
    cloud: Vec<Key>,
}

/// How many jobs the host can take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Capacity {
    /// Slots with neither a running nor a held job.
    pub(crate) free_slots: usize,
    /// Whether a job is held already.
    pub(crate) holds_job: bool,
}

/// One claim to make.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    pub(crate) key: Key,
    pub(crate) runs_on: RunsOn,
    pub(crate) offers: Vec<Offer>,
    pub(crate) limit: usize,
    /// Whether the claim also begins the jobs, because no model must be loaded for them.
    pub(crate) begins: bool,
    /// The scan that the offers came from.
    scan: ScanNo,
}

/// A claim before its offers are made.
struct Wish {
    key: Key,
    runs_on: RunsOn,
    /// The client whose turn the claim is for. Its jobs are offered before all others.
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

    /// A scan found ready jobs in these groups, and in no others.
    pub(crate) fn scanned(&mut self, groups: Vec<(Key, Group)>) {
        self.backlog.scanned(groups);
        self.waiting = None;
    }

    /// The host has these models now, and no others.
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

    /// This key is resident. If it has the turn, its quantum runs from now on.
    pub(crate) fn is_loaded(&mut self, key: &Key, now: Instant) {
        if self.rotation.has_turn(key) {
            self.rotation.loaded(now);
        }
    }

    /// The load of this key failed. If the key has the turn, the turn ends: otherwise a model that cannot be loaded
    /// would keep its turn until its whole queue has failed.
    pub(crate) fn load_failed(&mut self, key: &Key, now: Instant) {
        if self.rotation.has_turn(key) {
            self.rotation.leave(now);
        }
    }

    /// A job of this client and key has run for this long.
    pub(crate) fn ran(&mut self, client: ClientId, key: &Key, took: Duration) {
        self.estimates.ran(key, took);
        self.client_order.ran(client, took);
    }

    /// Whether this key has the turn and still has ready jobs.
    pub(crate) fn goes_on_with(&self, key: &Key) -> bool {
        self.rotation.has_turn(key) && self.backlog.has(key)
    }

    /// Whether there are ready jobs that this host can run.
    pub(crate) fn work_waits(&mut self) -> bool {
        let waiting = self.waiting();
        !waiting.gpu.is_empty() || !waiting.cloud.is_empty()
    }

    /// Which key has the GPU next, and for which client. `held` are client and key of each held job: a key with held
    /// jobs has work, even if no more of its jobs are ready.
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

    /// The next claim to make, if any. `needs_no_load` tells whether jobs of a key can run at once.
    /// `lowest_uncommitted` is the lowest id that a job not yet committed may have.
    pub(crate) fn order(
        &mut self,
        next: Next<ClientId, Key>,
        capacity: Capacity,
        needs_no_load: impl Fn(&Key, RunsOn) -> bool,
        lowest_uncommitted: JobId,
    ) -> Option<Order> {
        let Wish { key, runs_on, first, limit, begins } = self.wish(next, capacity, needs_no_load)?;
        let groups = self.backlog.groups(&key);
        let offers = self.client_order.offers(key.as_str(), &groups, first, limit, lowest_uncommitted);
        Some(Order { key, runs_on, offers, limit, begins, scan: self.backlog.last_scan() })
    }

    /// Learns which jobs the claim of an order brought.
    pub(crate) fn claimed(&mut self, order: &Order, claimed: &[Claimed], now: Instant) {
        let group = |job: &Claimed| backlog::name(job.client, &job.user, job.priority, job.sync);
        let brought: Vec<_> = claimed.iter().map(|job| (group(job), job.lease.job_id)).collect();
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
        let (backlog, presence) = (&self.backlog, &self.presence);
        self.waiting.get_or_insert_with(|| {
            let mut waiting = Waiting::default();
            for key in backlog.keys().filter(|key| presence.has(key.model())) {
                if key.model().is_cloud() {
                    waiting.cloud.push(Key::clone(key));
                } else {
                    let clients = backlog.clients(key).into_iter();
                    waiting.gpu.extend(clients.map(|client| (client, Key::clone(key))));
                }
            }
            waiting
        })
    }

    fn wish(
        &mut self,
        next: Next<ClientId, Key>,
        capacity: Capacity,
        needs_no_load: impl Fn(&Key, RunsOn) -> bool,
    ) -> Option<Wish> {
        let last_in_cloud = self.last_in_cloud.clone();
        let Waiting { cloud, .. } = self.waiting();
        // Cloud keys take turns in the order of their names. No turn needs a load, so each can be a single claim.
        let cloud = cloud.iter().find(|key| Some(*key) > last_in_cloud.as_ref()).or(cloud.first()).cloned();
        // GPU and cloud jobs share the slots, so claims for them alternate. While the cloud is next, no GPU job is
        // held ahead.
        let cloud_first = self.cloud_next && cloud.is_some();
        let wish = |key: Key, runs_on, may_hold| {
            let needs_no_load = needs_no_load(&key, runs_on);
            self.wish_for(key, runs_on, capacity, needs_no_load, may_hold)
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

    /// A claim of this key for all free slots. If `may_hold`, it may bring one job more, which is held until a slot
    /// is free.
    fn wish_for(
        &self,
        key: Key,
        runs_on: RunsOn,
        capacity: Capacity,
        needs_no_load: bool,
        may_hold: bool,
    ) -> Option<Wish> {
        let Capacity { free_slots, holds_job } = capacity;
        // A job that its claim begins must start at once. So it must neither wait for a load nor for a held job
        // before it.
        if free_slots > 0 && needs_no_load && !holds_job {
            return Some(Wish { key, runs_on, first: None, limit: free_slots, begins: true });
        }
        let is_quick = self.estimates.usual_run(&key).is_some_and(|usual| HOLD_AHEAD_OF.contains(&usual));
        let limit = free_slots + usize::from(may_hold && is_quick && !holds_job);
        (limit > 0).then_some(Wish { key, runs_on, first: None, limit, begins: false })
    }
}

#[cfg(test)]
mod tests;
