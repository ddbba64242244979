//! That this process lives: its row in Postgres, renewed again and again, and the fence that ends its rights by its own
//! clock before others may take them.
//!
//! While Postgres acknowledges renewals, a [`Spell`] goes on. It ends half a TTL after the *sending* of the last one
//! that was acknowledged, so that a worker that was paused or cut off stops by itself before it is taken for dead. A
//! worker whose row is gone has been rescued meanwhile, and goes on as another.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use foreman_runtime::{background_error, stalls};
use foreman_store::{Holder, Store, StoreError, WorkerId};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{Config, Role};

/// The process' standing as others see it. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Liveness(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    ttl: Duration,
    spell: watch::Sender<Option<Spell>>,
    /// The host lease, renewed together with the row.
    holder: watch::Sender<Option<Holder>>,
    /// Rises with every acknowledged renewal.
    renewals: watch::Sender<u64>,
    /// Since when every renewal was acknowledged in time.
    unbroken_since: Mutex<Option<Instant>>,
}

/// A time without interruption in which this process lives under one id.
#[derive(Debug, Clone)]
pub(crate) struct Spell {
    pub worker: WorkerId,
    until: watch::Receiver<Instant>,
    ended: CancellationToken,
}

impl Spell {
    pub(crate) fn begin(worker: WorkerId, until: Instant) -> (Self, watch::Sender<Instant>) {
        let (extend, until) = watch::channel(until);
        let spell = Self { worker, until, ended: CancellationToken::new() };
        tokio::spawn(spell.clone().watch_the_clock());
        (spell, extend)
    }

    /// Whether it still goes on. To be asked right before whatever must not happen after it: the clock is read here,
    /// and not when a timer comes round to it.
    pub(crate) fn goes_on(&self) -> bool {
        !self.ended.is_cancelled() && Instant::now() < *self.until.borrow()
    }

    /// Returns once it has ended.
    pub(crate) async fn ended(&self) {
        self.ended.cancelled().await;
    }

    async fn watch_the_clock(mut self) {
        while self.goes_on() {
            let until = *self.until.borrow_and_update();
            sleep_until(until).await;
        }
        self.ended.cancel();
    }
}

impl Liveness {
    pub(crate) fn new(ttl: Duration) -> Self {
        Self(Arc::new(Inner {
            ttl,
            spell: watch::Sender::new(None),
            holder: watch::Sender::new(None),
            renewals: watch::Sender::new(0),
            unbroken_since: Mutex::default(),
        }))
    }

    /// The id under which this process lives, unless it is not registered or its spell has ended.
    pub(crate) fn id(&self) -> Option<WorkerId> {
        self.spell().map(|spell| spell.worker)
    }

    /// The present spell, if it goes on.
    pub(crate) fn spell(&self) -> Option<Spell> {
        self.0.spell.borrow().clone().filter(Spell::goes_on)
    }

    /// Every spell as it begins.
    pub(crate) fn spells(&self) -> watch::Receiver<Option<Spell>> {
        self.0.spell.subscribe()
    }

    /// How long every renewal has been acknowledged in time. A janitor may judge others only once this is a full TTL:
    /// after an outage of Postgres everybody looks dead.
    pub(crate) fn unbroken_for(&self) -> Duration {
        let since = self.0.unbroken_since.lock().unwrap_or_else(PoisonError::into_inner);
        since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// The host lease that this process has, which renewals keep and may find lost.
    pub(crate) fn holder(&self) -> watch::Receiver<Option<Holder>> {
        self.0.holder.subscribe()
    }

    /// From now on this host lease is renewed with the row, or none.
    pub(crate) fn hold(&self, holder: Option<Holder>) {
        self.0.holder.send_replace(holder);
    }

    /// Changes with every acknowledged renewal.
    pub(crate) fn renewals(&self) -> watch::Receiver<u64> {
        self.0.renewals.subscribe()
    }

    /// Keeps the process registered until every task of `roles` has ended, then takes its row away. Only the end of
    /// the grace stops it before.
    pub(crate) async fn keep(&self, store: &Store, config: &Config, roles: TaskTracker) {
        // However many wait for the pool, whoever lives can say so.
        let store = &store.on_own_connection();
        let mut identity = Identity { liveness: self, store, config, id: None };
        tokio::select! {
            () = identity.live() => {}
            () = roles.wait() => {}
        }
        self.hold(None);
        if let Some(id) = identity.id
            && let Err(error) = store.deregister_worker(id).await
        {
            background_error!("liveness", error, "the worker's row was left to be rescued");
        }
    }

    fn acknowledged(&self) {
        let mut since = self.0.unbroken_since.lock().unwrap_or_else(PoisonError::into_inner);
        since.get_or_insert_with(Instant::now);
        self.0.renewals.send_modify(|count| *count += 1);
    }

    fn missed(&self) {
        *self.0.unbroken_since.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// The row that this process has now.
struct Identity<'a> {
    liveness: &'a Liveness,
    store: &'a Store,
    config: &'a Config,
    id: Option<WorkerId>,
}

impl Identity<'_> {
    /// Lives under one id after the other.
    async fn live(&mut self) {
        loop {
            let id = WorkerId::generate();
            let sent = self.register(id).await;
            self.id = Some(id);
            self.renew(id, sent).await;
            self.id = None;
            self.liveness.missed();
            self.liveness.hold(None);
            tracing::warn!(worker.id = %id, "this worker was taken for dead; it goes on under a new id");
        }
    }

    /// Returns when the successful registration was sent.
    async fn register(&self, id: WorkerId) -> Instant {
        let roles: &BTreeSet<Role> = &self.config.roles;
        let roles: Vec<_> = roles.iter().map(|role| role.as_str()).collect();
        let ttl = self.liveness.0.ttl;
        loop {
            let sent = Instant::now();
            let host = self.config.host.id.as_str();
            match within(ttl / 8, self.store.register_worker(id, host, &roles, ttl)).await {
                Ok(()) => {
                    self.liveness.acknowledged();
                    tracing::info!(worker.id = %id, host, "registered");
                    return sent;
                }
                Err(error) => {
                    background_error!("liveness", error, "the worker could not be registered");
                    sleep(ttl / 8).await;
                }
            }
        }
    }

    /// Renews until the row is gone.
    async fn renew(&self, id: WorkerId, registered: Instant) {
        let ttl = self.liveness.0.ttl;
        let (mut spell, mut extend) = Spell::begin(id, registered + ttl / 2);
        self.liveness.0.spell.send_replace(Some(spell.clone()));
        let mut next = registered + ttl / 4;
        loop {
            sleep_until(next).await;
            let sent = Instant::now();
            let holder = self.liveness.0.holder.borrow().clone();
            match within(ttl / 8, self.store.renew_worker(id, holder.as_ref())).await {
                Ok(renewal) if !renewal.lives => {
                    spell.ended.cancel();
                    return;
                }
                Ok(renewal) => {
                    let until = sent + ttl / 2;
                    if spell.goes_on() {
                        extend.send_replace(until);
                    } else {
                        // Half a TTL without a word, and nobody has noticed: on, but not as if nothing had been.
                        spell.ended.cancel();
                        self.liveness.missed();
                        (spell, extend) = Spell::begin(id, until);
                        self.liveness.0.spell.send_replace(Some(spell.clone()));
                    }
                    if !renewal.holds_host {
                        self.liveness.0.holder.send_if_modified(|held| {
                            held.take_if(|held| Some(&*held) == holder.as_ref()).is_some()
                        });
                    }
                    self.liveness.acknowledged();
                    next = sent + ttl / 4;
                }
                Err(error) => {
                    self.liveness.missed();
                    background_error!("liveness", error, worker.id = %id, "a renewal was not acknowledged");
                    next = Instant::now() + ttl / 16;
                }
            }
        }
    }
}

/// A word that comes later is worth less than another try on a new connection.
async fn within<T>(
    limit: Duration,
    statement: impl Future<Output = Result<T, StoreError>>,
) -> anyhow::Result<T> {
    let answer = stalls::round("liveness", stalls::USUAL, timeout(limit, statement)).await;
    Ok(answer.with_context(|| format!("Postgres did not answer within {limit:?}"))??)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(20);

    #[tokio::test(start_paused = true)]
    async fn a_spell_ends_by_the_clock_unless_it_is_extended() {
        let start = Instant::now();
        let (spell, extend) = Spell::begin(WorkerId::generate(), start + TTL / 2);
        sleep(TTL / 4).await;
        assert!(spell.goes_on());
        extend.send_replace(Instant::now() + TTL / 2);
        spell.ended().await;
        assert_eq!(start.elapsed(), TTL * 3 / 4);
        assert!(!spell.goes_on());
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_that_slept_knows_it_before_any_timer_rings() {
        let (spell, _extend) = Spell::begin(WorkerId::generate(), Instant::now() + TTL / 2);
        tokio::time::advance(TTL).await;
        assert!(!spell.goes_on());
    }

    #[tokio::test(start_paused = true)]
    async fn only_an_unbroken_row_of_renewals_lets_a_janitor_judge() {
        let liveness = Liveness::new(TTL);
        assert_eq!(liveness.unbroken_for(), Duration::ZERO);
        liveness.acknowledged();
        sleep(TTL).await;
        liveness.acknowledged();
        assert_eq!(liveness.unbroken_for(), TTL);
        liveness.missed();
        assert_eq!(liveness.unbroken_for(), Duration::ZERO);
    }
}
