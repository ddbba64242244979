//! What the floor asks Postgres for: more work, and now and then what it holds.

use std::collections::HashSet;
use std::ops::Range;
use std::time::Duration;

use foreman_runtime::background_error;
use foreman_store::{Claimed, ClientId, Holder, JobId, LeaseNo, Offer, OwnLease, StoreError, ulid_floor};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::Floor;
use crate::liveness::Spell;
use crate::runner::drain::Next;
use crate::runner::fate::{Ending, Past, reason};
use crate::runner::job::{Job, Lane, Left};
use crate::runner::load::Key;
use crate::runner::ready::{LATE_COMMITS, Scan};

/// The wait after a question that Postgres did not answer, doubled for each until a claim is answered: a look at our own
/// leases proves too little, and what it hands back would be claimed again at once.
pub(super) const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(2);

/// Past this many outcomes a slot that Postgres has not taken yet, nothing more is claimed.
const UNSETTLED_A_SLOT: usize = 4;
/// Nor past this many bytes of them, which stay in memory until Postgres has them. What runs by then comes on top.
const UNSETTLED_BYTES: usize = 64 << 20;

/// A job is claimed ahead of its slot only where the one before it takes about so long: so Ollama never waits for us, and
/// a job that is held is never held for long. Where runs are shorter, a slot is free again before a claim is answered.
const HELD_AHEAD_OF: Range<Duration> = Duration::from_millis(20)..Duration::from_secs(1);

/// Where there is work for this host, by the lane that it needs.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    /// Each client with each of its keys.
    gpu: Vec<(ClientId, Key)>,
    cloud: Vec<Key>,
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.gpu.is_empty() && self.cloud.is_empty()
    }
}

pub(crate) enum Answer {
    Claimed {
        order: Order,
        result: Result<Vec<Claimed>, StoreError>,
    },
    /// What we hold by Postgres' account, after it dropped what cannot be run, and what we knew of when it was asked.
    Own {
        known: HashSet<LeaseNo>,
        result: Result<(Vec<JobId>, Vec<OwnLease>), StoreError>,
    },
}

/// A claim that was asked for.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    key: Key,
    lane: Lane,
    offers: Vec<Offer>,
    limit: usize,
    /// Whether the jobs are begun with the claim, since there is nothing to be loaded for them.
    begins: bool,
    /// Of which scan the offers are.
    scan: Scan,
    spell: Spell,
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

impl Floor {
    /// Which key has the GPU next, and for whom.
    pub(super) fn next_key(&mut self, now: Instant) -> Next<ClientId, Key> {
        let mut waiting = self.waiting().gpu.clone();
        // What is held already is work for the key that has the turn, though nothing more may be ready.
        let held = self.held.iter().filter(|job| job.lane == Lane::Gpu);
        waiting.extend(held.map(|job| (job.client, Key::clone(&job.key))));
        let busy = self.gpu_is_busy();
        self.drain.next(&waiting, busy, &self.pace, now)
    }

    /// Whether there is work that this host could do.
    pub(super) fn work_waits(&mut self) -> bool {
        !self.waiting().is_empty()
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

    pub(super) fn next_question(
        &mut self,
        next: Next<ClientId, Key>,
        now: Instant,
    ) -> Option<BoxFuture<'static, Answer>> {
        if self.look_at_own {
            return self.ask_for_own();
        }
        let (holder, spell) = self.right_to_claim()?;
        let unsettled_bytes: usize = self.unsettled.values().sum();
        if self.unsettled.len() >= UNSETTLED_A_SLOT * self.worker.config.host.slots
            || unsettled_bytes >= UNSETTLED_BYTES
        {
            return None;
        }
        let Wish { key, lane, first, limit, begins } = self.next_claim(next, now)?;
        let floor = ulid_floor(self.desk.clock.now() - LATE_COMMITS);
        let offers = self.turns.offers(&self.ready.places(&key), first, limit, floor);
        Some(self.claim(holder, Order { key, lane, offers, limit, begins, scan: self.ready.scan(), spell }))
    }

    /// For which key to claim, and how many at most.
    fn next_claim(&mut self, next: Next<ClientId, Key>, now: Instant) -> Option<Wish> {
        let last_in_cloud = self.last_in_cloud.clone();
        let Waiting { cloud, .. } = self.waiting();
        // In a ring: nothing has to be loaded for any of them.
        let cloud = cloud.iter().find(|key| Some(*key) > last_in_cloud.as_ref()).or(cloud.first()).cloned();
        // GPU and cloud share the slots, so they take turns, and neither holds a job ahead of the other's.
        let cloud_first = self.cloud_next && cloud.is_some();
        let on_gpu = match next {
            Next::Stay(key) => self.wish(key, Lane::Gpu, !cloud_first, now),
            Next::Switch { client, key } => {
                self.wish(key, Lane::Gpu, false, now).map(|wish| Wish { first: Some(client), ..wish })
            }
            Next::Drain | Next::Rest => None,
        };
        let on_gpu = on_gpu.filter(|wish| self.ready.has(&wish.key));
        let in_cloud = cloud.and_then(|key| self.wish(key, Lane::Cloud, true, now));
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
    fn wish(&self, key: Key, lane: Lane, may_hold: bool, now: Instant) -> Option<Wish> {
        let free = self.free_slots().saturating_sub(self.held.len());
        // What is held comes first, and a job that is begun waits for nothing.
        if free > 0 && self.needs_no_load(&key, lane, now) && self.held.is_empty() {
            return Some(Wish { key, lane, first: None, limit: free, begins: true });
        }
        let quick = self.pace.usual_run(&key).is_some_and(|usual| HELD_AHEAD_OF.contains(&usual));
        let limit = free + usize::from(may_hold && quick && self.held.is_empty());
        (limit > 0).then_some(Wish { key, lane, first: None, limit, begins: false })
    }

    fn needs_no_load(&self, key: &Key, lane: Lane, now: Instant) -> bool {
        lane == Lane::Cloud || self.residency.holds(key, self.gpu_is_busy(), now)
    }

    fn claim(&self, holder: Holder, order: Order) -> BoxFuture<'static, Answer> {
        let store = self.store.clone();
        async move {
            let (key, offers, limit) = (order.key.as_str(), &order.offers, order.limit);
            let result = if order.begins {
                store.claim_and_begin(&holder, key, offers, limit).await
            } else {
                store.claim(&holder, key, offers, limit).await
            };
            Answer::Claimed { order, result }
        }
        .boxed()
    }

    fn ask_for_own(&self) -> Option<BoxFuture<'static, Answer>> {
        let id = self.worker.liveness.id()?;
        let store = self.store.clone();
        let running = self.running.values().map(|running| running.number());
        let held = self.held.iter().map(|job| job.lease.no);
        let known = running.chain(held).chain(self.unsettled.keys().copied()).collect();
        let question = async move {
            let look = async {
                let dropped = store.drop_leases_without_request(id).await?;
                Ok((dropped, store.own_leases(id).await?))
            };
            Answer::Own { known, result: look.await }
        };
        Some(question.boxed())
    }

    pub(super) fn answered(&mut self, answer: Answer, now: Instant) {
        let error = match answer {
            Answer::Claimed { order, result: Ok(claimed) } => {
                self.ask_delay = FIRST_DELAY;
                self.claimed(&order, claimed, now);
                None
            }
            Answer::Claimed { result: Err(error), .. } => {
                // What may have been claimed without our knowing stands among our own leases.
                self.look_at_own |= error.outcome_is_unknown();
                Some(error)
            }
            Answer::Own { known, result: Ok((dropped, own)) } => {
                self.look_at_own = false;
                for job in dropped {
                    tracing::error!(job.id = %job, "a lease was dropped, because the job's request is gone from Postgres");
                }
                self.hand_back_unknown(&known, own);
                None
            }
            Answer::Own { result: Err(error), .. } => Some(error),
        };
        if let Some(error) = error {
            background_error!("claim", error);
            self.ask_again_at = now + self.ask_delay;
            self.ask_delay = (self.ask_delay * 2).min(LONGEST_DELAY);
        }
    }

    fn claimed(&mut self, order: &Order, claimed: Vec<Claimed>, now: Instant) {
        let brought: Vec<_> =
            claimed.iter().map(|job| (job.client, job.priority, job.lease.job_id)).collect();
        self.ready.claimed(&order.key, &order.offers, order.limit, &brought, order.scan);
        self.waiting = None;
        if order.lane == Lane::Gpu
            && let Some(first) = claimed.first()
        {
            self.drain.enter(first.client, &order.key, now);
        }
        // A job that has begun is `working`, which is not true of one whose model has gone meanwhile and must be loaded.
        let may_begin = self.right_to_claim().is_some()
            && order.spell.goes_on()
            && self.needs_no_load(&order.key, order.lane, now);
        for job in claimed {
            self.turns.served(job.client);
            let max_attempts = self.desk.limits.max_attempts;
            match Job::new(job, &order.key, order.lane, &order.spell, max_attempts) {
                // Whoever has the turn by now: these have begun.
                Ok(job) if job.begun && may_begin => self.begin(job, now),
                Ok(job) if job.begun => self.settle(job.not_begun()),
                Ok(job) => self.held.push_back(job),
                Err(left) => self.settle(*left),
            }
        }
    }

    /// Jobs that a claim brought whose answer was lost. Nothing was claimed between question and answer.
    fn hand_back_unknown(&mut self, known: &HashSet<LeaseNo>, own: Vec<OwnLease>) {
        for OwnLease { lease, phase, model_label } in own {
            if !known.contains(&lease.no) {
                tracing::warn!(job.id = %lease.job_id, phase = phase.as_str(), "a lease that nobody here knows of is handed back");
                let why = reason("claim_lost", "the worker did not hear of its own claim");
                let (past, ending) = (Past::default(), Ending::GivenBack(why));
                self.settle(Left { lease, past, ending, model_label });
            }
        }
    }
}
