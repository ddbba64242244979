//! The one question at a time that Postgres is asked: for more jobs, or which leases are ours. Two claims, or a claim and a
//! look at our own leases, would each make the other's answer stale.

use std::collections::HashSet;
use std::time::Duration;

use foreman_runtime::{background_error, stalls};
use foreman_store::{Claimed, Holder, JobId, LeaseNo, OwnLease, Store, StoreError, WorkerId};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::time::Instant;

use crate::membership::liveness::Spell;
use crate::scheduling::plan::Order;

/// The wait after a question that Postgres did not answer, doubled for each until a claim is answered: a look at our own
/// leases proves too little, and what it hands back would be claimed again at once.
const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(2);

pub(super) struct Claims {
    store: Store,
    asking: Option<BoxFuture<'static, Reply>>,
    again_at: Instant,
    delay: Duration,
    /// Whether we may have leases that we do not know of.
    is_in_doubt: bool,
}

/// What Postgres said.
pub(super) enum Reply {
    /// To an order that was given under this spell.
    Claimed { order: Order, spell: Spell, result: Result<Vec<Claimed>, StoreError> },
    /// What we hold by Postgres' account, after it dropped what cannot be run, and what we knew of when it was asked.
    Own { known: HashSet<LeaseNo>, result: Result<(Vec<JobId>, Vec<OwnLease>), StoreError> },
}

impl Claims {
    pub(super) fn new(store: Store) -> Self {
        Self { store, asking: None, again_at: Instant::now(), delay: FIRST_DELAY, is_in_doubt: false }
    }

    /// The next question is which leases are ours.
    pub(super) fn doubt(&mut self) {
        self.is_in_doubt = true;
    }

    pub(super) fn is_in_doubt(&self) -> bool {
        self.is_in_doubt
    }

    pub(super) fn is_asking(&self) -> bool {
        self.asking.is_some()
    }

    pub(super) fn may_ask(&self, now: Instant) -> bool {
        self.asking.is_none() && now >= self.again_at
    }

    /// When Postgres may be asked again, if that is only a matter of time.
    pub(super) fn again_at(&self, now: Instant) -> Option<Instant> {
        Some(self.again_at).filter(|at| now < *at)
    }

    pub(super) fn ask_for_jobs(&mut self, holder: Holder, spell: Spell, order: Order) {
        let store = self.store.clone();
        self.ask(async move {
            let (key, offers, limit) = (order.key.as_str(), &order.offers, order.limit);
            let result = if order.begins {
                store.claim_and_begin(&holder, key, offers, limit).await
            } else {
                store.claim(&holder, key, offers, limit).await
            };
            Reply::Claimed { order, spell, result }
        });
    }

    pub(super) fn ask_for_own(&mut self, worker: WorkerId, known: HashSet<LeaseNo>) {
        let store = self.store.clone();
        self.ask(async move {
            let look = async {
                let dropped = store.drop_leases_without_request(worker).await?;
                Ok((dropped, store.own_leases(worker).await?))
            };
            Reply::Own { known, result: look.await }
        });
    }

    fn ask(&mut self, question: impl Future<Output = Reply> + Send + 'static) {
        self.asking = Some(stalls::round("claim", stalls::USUAL, question).boxed());
    }

    /// The answer to the question that is out; none comes while none is.
    pub(super) async fn answer(&mut self) -> Reply {
        let Some(question) = &mut self.asking else { return std::future::pending().await };
        let answer = question.await;
        self.asking = None;
        answer
    }

    /// Learns from an answer when and what to ask next.
    pub(super) fn answered(&mut self, answer: Reply, now: Instant) -> Option<Learned> {
        let error = match answer {
            Reply::Claimed { order, spell, result: Ok(jobs) } => {
                self.delay = FIRST_DELAY;
                return Some(Learned::Claimed { order, spell, jobs });
            }
            Reply::Own { known, result: Ok((dropped, mut own)) } => {
                self.is_in_doubt = false;
                for job in dropped {
                    tracing::error!(job.id = %job, "a lease was dropped, because the job's request is gone from Postgres");
                }
                // Nothing was claimed between question and answer.
                own.retain(|own| !known.contains(&own.lease.no));
                return Some(Learned::Unknown(own));
            }
            Reply::Claimed { result: Err(error), .. } => {
                // What may have been claimed without our knowing stands among our own leases.
                self.is_in_doubt |= error.outcome_is_unknown();
                error
            }
            Reply::Own { result: Err(error), .. } => error,
        };
        background_error!("claim", error);
        self.again_at = now + self.delay;
        self.delay = (self.delay * 2).min(LONGEST_DELAY);
        None
    }
}

/// What an answer brought.
pub(super) enum Learned {
    Claimed {
        order: Order,
        spell: Spell,
        jobs: Vec<Claimed>,
    },
    /// Leases of ours that nobody here knows of.
    Unknown(Vec<OwnLease>),
}
