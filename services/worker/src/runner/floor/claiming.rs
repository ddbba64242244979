//! What the floor asks Postgres for: more work, and now and then what it holds.

use std::collections::HashSet;
use std::time::Duration;

use chrono::TimeDelta;
use foreman_runtime::background_error;
use foreman_store::{Claimed, Exit, Holder, LeaseNo, Offer, OwnLease, ulid_floor};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::Floor;
use crate::liveness::Spell;
use crate::patience::{NoAnswer, within};
use crate::runner::drain::Next;
use crate::runner::job::{Job, Lane};
use crate::runner::load::Key;
use crate::runner::outcome::reason;
use crate::runner::presence::Stands;
use crate::runner::ready::Scan;
use crate::runner::record::Leaving;

/// The wait after a question that Postgres did not answer, doubled for each in a row.
pub(super) const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(2);

/// Past this many outcomes a slot that Postgres has not taken yet, nothing more is claimed.
const UNSETTLED_A_SLOT: usize = 4;

/// A job is claimed ahead of its slot only where the one before it takes less: so Ollama never waits for us, and a job
/// that is held is never held for long.
const HELD_AHEAD_OF: Duration = Duration::from_secs(1);

/// Ids are stamped before they commit. No bound may pass an id that can still come.
const LATE_COMMITS: TimeDelta = TimeDelta::seconds(2);

/// Jobs without a model that fail together.
const GONE_AT_ONCE: usize = 32;

/// The keys that have work, by the lane that their jobs need.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    gpu: Vec<Key>,
    cloud: Vec<Key>,
    gone: Vec<Key>,
}

pub(crate) enum Answer {
    Claimed {
        order: Order,
        result: Result<Vec<Claimed>, NoAnswer>,
    },
    /// What we hold by Postgres' account, and what we knew of when it was asked.
    Own {
        known: HashSet<LeaseNo>,
        result: Result<Vec<OwnLease>, NoAnswer>,
    },
}

/// A claim that was asked for.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    key: Key,
    lane: Lane,
    offers: Vec<Offer>,
    limit: usize,
    /// Of which scan the offers are.
    scan: Scan,
    spell: Spell,
}

impl Floor {
    /// Which key has the GPU next.
    pub(super) fn next_key(&mut self, now: Instant) -> Next<Key> {
        let mut waiting = self.waiting(now).gpu.clone();
        // What is held already is work for the key that has the turn, though nothing more may be ready.
        for job in self.held.iter().filter(|job| job.lane == Lane::Gpu) {
            if !waiting.contains(&job.key) {
                waiting.push(Key::clone(&job.key));
            }
        }
        let busy = self.gpu_is_busy();
        self.drain.next(&waiting, busy, &self.pace, now)
    }

    fn waiting(&mut self, now: Instant) -> &Waiting {
        let (ready, presence) = (&self.ready, &mut self.presence);
        self.waiting.get_or_insert_with(|| {
            let mut waiting = Waiting::default();
            for key in ready.keys() {
                match presence.of(key.model(), now) {
                    Stands::Here if key.model().is_cloud() => waiting.cloud.push(Key::clone(key)),
                    Stands::Here => waiting.gpu.push(Key::clone(key)),
                    Stands::Missing => {}
                    Stands::Gone => waiting.gone.push(Key::clone(key)),
                }
            }
            waiting
        })
    }

    pub(super) fn next_question(
        &mut self,
        next: Next<Key>,
        now: Instant,
    ) -> Option<BoxFuture<'static, Answer>> {
        if self.look_at_own {
            return self.ask_for_own();
        }
        let (holder, spell) = self.right_to_claim()?;
        if self.unsettled.len() >= UNSETTLED_A_SLOT * self.worker.config.host.slots {
            return None;
        }
        let (key, lane, limit) = self.next_claim(next, now)?;
        let floor = ulid_floor(self.desk.clock.now() - LATE_COMMITS);
        let offers = self.turns.offers(&self.ready.places(&key), limit, floor);
        Some(self.claim(holder, Order { key, lane, offers, limit, scan: self.ready.scan(), spell }))
    }

    /// For which key to claim, and how many at most.
    fn next_claim(&mut self, next: Next<Key>, now: Instant) -> Option<(Key, Lane, usize)> {
        let last_in_cloud = self.last_in_cloud.clone();
        let Waiting { gone, cloud, .. } = self.waiting(now);
        if let Some(key) = gone.first() {
            return Some((Key::clone(key), Lane::Gone, GONE_AT_ONCE));
        }
        // In a ring: nothing has to be loaded for any of them.
        let cloud = cloud.iter().find(|key| Some(*key) > last_in_cloud.as_ref()).or(cloud.first()).cloned();
        let free = self.free_slots().saturating_sub(self.held.len());
        // GPU and cloud share the slots, so they take turns, and neither holds a job ahead of the other's.
        let cloud_first = self.cloud_next && cloud.is_some();
        let ahead = |key: &Key| {
            let quick = self.pace.usual_run(key).is_some_and(|usual| usual < HELD_AHEAD_OF);
            usize::from(quick && self.held.is_empty())
        };
        let on_gpu = match next {
            Next::Stay(key) if cloud_first => Some((key, Lane::Gpu, free)),
            Next::Stay(key) => Some((Key::clone(&key), Lane::Gpu, free + ahead(&key))),
            Next::Switch(key) => Some((key, Lane::Gpu, free)),
            Next::Drain | Next::Rest => None,
        };
        let in_cloud = cloud.map(|key| (Key::clone(&key), Lane::Cloud, free + ahead(&key)));
        let on_gpu = on_gpu.filter(|(key, _, limit)| *limit > 0 && self.ready.has(key));
        let in_cloud = in_cloud.filter(|(_, _, limit)| *limit > 0);
        let order = if cloud_first { in_cloud.or(on_gpu) } else { on_gpu.or(in_cloud) };
        if let Some((key, lane, _)) = &order {
            self.cloud_next = *lane == Lane::Gpu;
            if *lane == Lane::Cloud {
                self.last_in_cloud = Some(Key::clone(key));
            }
        }
        order
    }

    fn claim(&self, holder: Holder, order: Order) -> BoxFuture<'static, Answer> {
        let (store, patience) = (self.worker.store.clone(), self.patience());
        async move {
            let claim = store.claim(&holder, order.key.as_str(), &order.offers, order.limit);
            let result = within(patience, claim).await;
            Answer::Claimed { order, result }
        }
        .boxed()
    }

    fn ask_for_own(&self) -> Option<BoxFuture<'static, Answer>> {
        let id = self.worker.liveness.id()?;
        let (store, patience) = (self.worker.store.clone(), self.patience());
        let running = self.running.values().map(|running| running.number());
        let held = self.held.iter().map(|job| job.lease.no);
        let known = running.chain(held).chain(self.unsettled.iter().copied()).collect();
        let question = async move {
            let result = within(patience, store.own_leases(id)).await;
            Answer::Own { known, result }
        };
        Some(question.boxed())
    }

    /// Long enough for a busy Postgres, and short enough that a lost answer does not cost the lease.
    fn patience(&self) -> Duration {
        self.worker.config.lease_ttl / 4
    }

    pub(super) fn answered(&mut self, answer: Answer, now: Instant) {
        let no_answer = match answer {
            Answer::Claimed { order, result: Ok(claimed) } => {
                self.claimed(&order, claimed, now);
                None
            }
            Answer::Claimed { result: Err(no_answer), .. } => {
                // What may have been claimed without our knowing stands among our own leases.
                self.look_at_own |= no_answer.outcome_is_unknown();
                Some(no_answer)
            }
            Answer::Own { known, result: Ok(own) } => {
                self.look_at_own = false;
                self.hand_back_unknown(&known, own);
                None
            }
            Answer::Own { result: Err(no_answer), .. } => Some(no_answer),
        };
        match no_answer {
            None => self.ask_delay = FIRST_DELAY,
            Some(no_answer) => {
                background_error!("claim", no_answer);
                self.ask_again_at = now + self.ask_delay;
                self.ask_delay = (self.ask_delay * 2).min(LONGEST_DELAY);
            }
        }
    }

    fn claimed(&mut self, order: &Order, claimed: Vec<Claimed>, now: Instant) {
        let brought: Vec<_> =
            claimed.iter().map(|job| (job.client, job.priority, job.lease.job_id)).collect();
        self.ready.claimed(&order.key, &order.offers, order.limit, &brought, order.scan);
        self.waiting = None;
        if order.lane == Lane::Gpu && !claimed.is_empty() {
            self.drain.enter(&order.key, now);
        }
        for job in claimed {
            self.turns.served(job.client);
            let max_attempts = self.desk.limits.max_attempts;
            match Job::new(job, &order.key, order.lane, &order.spell, max_attempts) {
                Ok(job) if order.lane == Lane::Gone => self.fail_for_want_of_model(job),
                Ok(job) => self.held.push_back(job),
                Err(leaving) => self.settle(leaving),
            }
        }
    }

    fn fail_for_want_of_model(&mut self, job: Job) {
        let model = job.key.model();
        let error = format!(
            "no Ollama has the model {model} any more; run `ollama pull {model}` and submit the job again"
        );
        tracing::warn!(job.id = %job.lease.job_id, code = "model_gone", "a job failed for want of its model");
        self.settle(job.leave(Exit::Failed(reason("model_gone", &error))));
    }

    /// Jobs that a claim brought whose answer was lost. Nothing was claimed between question and answer.
    fn hand_back_unknown(&mut self, known: &HashSet<LeaseNo>, own: Vec<OwnLease>) {
        for OwnLease { lease, phase, model_label } in own {
            if !known.contains(&lease.no) {
                tracing::warn!(job.id = %lease.job_id, phase = phase.as_str(), "a lease that nobody here knows of is handed back");
                let exit = Exit::HandBack {
                    reason: reason("claim_lost", "the worker did not hear of its own claim"),
                };
                self.settle(Leaving { lease, exit, model_label });
            }
        }
    }
}
