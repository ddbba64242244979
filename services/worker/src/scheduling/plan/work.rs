//! The work that waits for this host: which jobs are ready, which runner serves them, and who comes next. Pure.

use std::cell::LazyCell;
use std::collections::{BTreeSet, HashMap};

use foreman_ollama::Context;
use foreman_store::{Claimed, ClientId, Offer};

use crate::scheduling::backlog::{Backlog, Group, ScanNo};
use crate::scheduling::contexts::{self, Contexts};
use crate::scheduling::fairness::{Fairness, Picking};
use crate::scheduling::key::Key;
use crate::scheduling::presence::Presence;
use crate::scheduling::rotation::Waits;

use super::{Brought, Charge, Order};

#[derive(Debug, Clone)]
pub(crate) struct Work {
    pub(super) presence: Presence,
    pub(super) contexts: Contexts,
    pub(super) fairness: Fairness,
    backlog: Backlog,
}

impl Work {
    pub(super) fn new(contexts: Contexts) -> Self {
        Self {
            presence: Presence::default(),
            contexts,
            fairness: Fairness::default(),
            backlog: Backlog::default(),
        }
    }

    /// A scan found ready jobs in these groups, and in no others.
    pub(super) fn scanned(&mut self, groups: Vec<Group>) {
        let fairness = &self.fairness;
        self.backlog.scanned(groups, |client, user| fairness.user_had(client, user));
        self.fairness.scanned(&self.backlog);
    }

    pub(super) fn last_scan(&self) -> ScanNo {
        self.backlog.last_scan()
    }

    /// Whether there are ready jobs that this host can run.
    pub(super) fn waits(&self) -> bool {
        self.backlog.waiting().any(|(base, client, ..)| self.can_run(base, client))
    }

    /// Whether jobs are ready that this runner serves.
    pub(super) fn has(&self, runner: &Key) -> bool {
        let base = contexts::base(runner);
        let serves = |key: &Key| self.serves(&base, runner, key);
        self.backlog
            .clients(&base)
            .any(|(client, queue)| self.can_run(&base, client) && queue.keys().any(serves))
    }

    /// Every group with ready jobs that this host can run, as far as is known.
    pub(super) fn groups(&self) -> impl Iterator<Item = &Group> {
        self.backlog.groups().filter(|group| self.presence.has(group.key.model()))
    }

    /// What each client waits for on the GPU. Jobs that these runners serve wait for them, and others for what would be
    /// loaded.
    pub(super) fn waiting_for_gpu<'a>(
        &self,
        runners: impl Iterator<Item = &'a Key>,
    ) -> Vec<Waits<ClientId, Key>> {
        let runners: Vec<_> = runners.map(|runner| (contexts::base(runner), runner)).collect();
        let mut waiting = Vec::new();
        for base in self.backlog.models() {
            if base.model().is_cloud() || !self.presence.has(base.model()) {
                continue;
            }
            // The load keys of a model differ only in their contexts, and many clients have the same one.
            let mut runner_of: HashMap<Context, Key> = HashMap::new();
            let asked = self.backlog.keys(base).map(|key| key.context());
            let need = LazyCell::new(|| self.contexts.longest_need(base, asked));
            for (client, key, sync) in self.backlog.waiting_for(base) {
                if !self.fairness.may_run_more(client) {
                    continue;
                }
                let runner = runner_of.entry(key.context()).or_insert_with_key(|context| {
                    let serves = |(its, runner): &&(Key, &Key)| its == base && self.serves(base, runner, key);
                    runners.iter().find(serves).map_or_else(
                        || contexts::with(base, self.contexts.runner_for(base, *context, *need)),
                        |(_, runner)| Key::clone(runner),
                    )
                });
                waiting.push(Waits { client, key: Key::clone(runner), sync });
            }
        }
        waiting
    }

    /// The load keys that wait for the model of this runner, loaded with its options, whatever their context.
    pub(super) fn load_keys(&self, runner: &Key) -> Vec<Key> {
        let keys: BTreeSet<_> = self.backlog.keys(&contexts::base(runner)).cloned().collect();
        keys.into_iter().collect()
    }

    /// The load keys of the cloud that have ready jobs.
    pub(super) fn waiting_for_cloud(&self) -> BTreeSet<&Key> {
        let waiting = self.backlog.waiting();
        let in_cloud =
            waiting.filter(|(base, client, ..)| base.model().is_cloud() && self.can_run(base, *client));
        in_cloud.map(|(_, _, key, _)| key).collect()
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

    /// A claimed job is ours no longer. It has had so many GPU-seconds more than it was charged.
    pub(super) fn ended(&mut self, charge: &Charge, more: f64) {
        self.fairness.ended(charge.client, &charge.user, more, &mut self.backlog);
    }

    fn serves(&self, base: &Key, runner: &Key, job: &Key) -> bool {
        if runner.model().is_cloud() {
            return runner == job;
        }
        self.contexts.serves(base, runner.context(), job.context())
    }

    fn can_run(&self, base: &Key, client: ClientId) -> bool {
        self.presence.has(base.model()) && self.fairness.may_run_more(client)
    }
}

/// Whether a claim took this job for this offer.
pub(super) fn brings(offer: &Offer, job: &Claimed) -> bool {
    (offer.client, &offer.user, offer.priority, offer.sync) == (job.client, &job.user, job.priority, job.sync)
        && *offer.load_key == *job.load_key
}
