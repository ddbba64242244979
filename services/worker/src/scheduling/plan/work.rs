//! The work that waits for this host: which jobs are ready, which runner serves them, and who comes next. Pure.

use std::collections::BTreeSet;

use foreman_store::{Claimed, ClientId, Offer, UserName};

use crate::scheduling::backlog::{Backlog, Group, Queue, ScanNo};
use crate::scheduling::contexts::{self, Contexts};
use crate::scheduling::fairness::{Fairness, Picking};
use crate::scheduling::key::Key;
use crate::scheduling::presence::Presence;

use super::{Brought, Charge, Order};

#[derive(Debug, Clone)]
pub(crate) struct Work {
    pub(super) presence: Presence,
    pub(super) contexts: Contexts,
    pub(super) fairness: Fairness,
    pub(super) backlog: Backlog,
}

impl Work {
    pub(super) fn new(contexts: Contexts, slots: usize) -> Self {
        Self {
            presence: Presence::default(),
            contexts,
            fairness: Fairness::new(slots),
            backlog: Backlog::default(),
        }
    }

    /// A scan found ready jobs in these groups, and in no others.
    pub(super) fn scanned(&mut self, groups: Vec<Group>) {
        let fairness = &self.fairness;
        self.backlog.scanned(groups, |client, user| fairness.user_had(client, user));
        self.fairness.forget(&self.backlog);
    }

    /// The user of this client that alone waits for this runner, if it is a single one.
    pub(super) fn only_user(&self, client: ClientId, runner: &Key) -> Option<UserName> {
        let base = contexts::base(runner);
        let queue = self.backlog.queue(client, &base)?;
        let mut users =
            queue.keys().filter(|key| self.serves(&base, runner, key)).map(|key| queue.only_user(key));
        let first = users.next()??;
        users.all(|user| user == Some(first)).then(|| first.clone())
    }

    pub(super) fn last_scan(&self) -> ScanNo {
        self.backlog.last_scan()
    }

    /// Whether there are ready jobs that this host can run.
    pub(super) fn waits(&self) -> bool {
        self.backlog.models().any(|base| self.has_any_of(base, |_| true))
    }

    /// Whether jobs are ready that this runner serves.
    pub(super) fn has(&self, runner: &Key) -> bool {
        let base = contexts::base(runner);
        self.has_any_of(&base, |key| self.serves(&base, runner, key))
    }

    /// Whether jobs of such load keys are ready that this host can run.
    fn has_any_of(&self, base: &Key, which: impl Fn(&Key) -> bool) -> bool {
        let mut keys = self.backlog.keys(base).filter(|key| which(key));
        self.presence.has(base.model()) && keys.any(|key| self.who_waits(base, key).next().is_some())
    }

    /// The clients that wait for this load key and may have another job in flight.
    pub(super) fn who_waits<'a>(
        &'a self,
        base: &Key,
        key: &'a Key,
    ) -> impl Iterator<Item = (ClientId, &'a Queue)> {
        let waits =
            |(client, queue): &(ClientId, &Queue)| self.fairness.may_run_more(*client) && queue.has(key);
        self.backlog.clients_of(base).filter(waits)
    }

    /// Every group with ready jobs of this host's models, as far as is known.
    pub(super) fn groups(&self) -> impl Iterator<Item = &Group> {
        self.backlog.groups().filter(|group| self.presence.lists(group.key.model()))
    }

    /// The load keys that wait for the model of this runner, loaded with its options, whatever their context.
    pub(super) fn load_keys(&self, runner: &Key) -> Vec<Key> {
        self.backlog.keys(&contexts::base(runner)).cloned().collect()
    }

    /// The load keys of the cloud that have ready jobs.
    pub(super) fn waiting_for_cloud(&self) -> BTreeSet<&Key> {
        let models = self.backlog.models().filter(|base| base.model().is_cloud());
        let models = models.filter(|base| self.presence.has(base.model()));
        let keys = models.flat_map(|base| self.backlog.keys(base).map(move |key| (base, key)));
        keys.filter(|(base, key)| self.who_waits(base, key).next().is_some()).map(|(_, key)| key).collect()
    }

    /// The offers of a claim for this runner.
    pub(super) fn offers(&self, runner: &Key, picking: Picking) -> Vec<Offer> {
        let base = contexts::base(runner);
        self.fairness.offers(&self.backlog, &base, |job| self.serves(&base, runner, job), &picking)
    }

    /// Learns which jobs the claim of an order brought. Each of them will probably take so many GPU-seconds.
    pub(super) fn claimed(&mut self, order: &Order, brought: &[Brought], gpu_seconds: f64) {
        let base = contexts::base(&order.runner);
        let by_offer: Vec<_> = brought.iter().filter_map(|job| Some((job.offer?, job.job))).collect();
        self.backlog.claimed(&base, &order.offers, order.limit, &by_offer, order.scan);
        for job in brought {
            self.fairness.claimed(job.client, &job.user, gpu_seconds, &mut self.backlog);
        }
    }

    /// A load took so many seconds of the GPU. It was made for this client, and for this user of it if it alone waited.
    pub(super) fn loaded(&mut self, client: ClientId, user: Option<&UserName>, seconds: f64) {
        self.fairness.loaded(client, user, seconds, &mut self.backlog);
    }

    /// A claimed job is ours no longer. It has had so many GPU-seconds more than it was charged.
    pub(super) fn ended(&mut self, charge: &Charge, more: f64) {
        self.fairness.ended(charge.client, &charge.user, more, &mut self.backlog);
    }

    pub(super) fn serves(&self, base: &Key, runner: &Key, job: &Key) -> bool {
        if runner.model().is_cloud() {
            return runner == job;
        }
        self.contexts.serves(base, runner.context(), job.context())
    }
}

/// Whether a claim took this job for this offer.
pub(super) fn brings(offer: &Offer, job: &Claimed) -> bool {
    (offer.client, &offer.user, offer.priority, offer.sync) == (job.client, &job.user, job.priority, job.sync)
        && *offer.load_key == *job.load_key
}
