//! Shows others that this process lives, by renewing its row in Postgres. It also stops this process, by its own
//! clock, before others may take its jobs.
//!
//! A [`Spell`] goes on while Postgres acknowledges renewals. It ends half a TTL after the *sending* of the last
//! acknowledged one. So a worker that was paused or cut off stops by itself before others take it for dead. If a
//! janitor has removed the row meanwhile, the process goes on as a new worker.

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

/// The id, spell and host lease of this process. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Liveness(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    ttl: Duration,
    spell: watch::Sender<Option<Spell>>,
    /// The host lease, if this process has it. Each renewal of the row also renews this lease.
    holder: watch::Sender<Option<Holder>>,
    /// Counts the acknowledged renewals.
    renewals: watch::Sender<u64>,
    /// When the unbroken row of acknowledged renewals began. `None` after a missed one.
    unbroken_since: Mutex<Option<Instant>>,
}

/// A period in which this process lives under one id without interruption.
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

    /// Whether the spell still goes on. Ask this right before each act that must not happen after the spell. It reads
    /// the clock itself, because a timer may ring late in a process that was paused.
    pub(crate) fn goes_on(&self) -> bool {
        !self.ended.is_cancelled() && Instant::now() < *self.until.borrow()
    }

    /// Waits until the spell has ended.
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

    /// The id under which this process lives. `None` before it is registered, and after its spell has ended.
    pub(crate) fn id(&self) -> Option<WorkerId> {
        self.spell().map(|spell| spell.worker)
    }

    /// The present spell, if it still goes on.
    pub(crate) fn spell(&self) -> Option<Spell> {
        self.0.spell.borrow().clone().filter(Spell::goes_on)
    }

    /// Tells of each new spell when it begins.
    pub(crate) fn spells(&self) -> watch::Receiver<Option<Spell>> {
        self.0.spell.subscribe()
    }

    /// How long a silence a janitor may believe, if it may judge others at all. After an outage of Postgres, every
    /// process that has not renewed since looks dead. A janitor that itself has renewed without a break for a full TTL
    /// knows that the others could have renewed too.
    pub(crate) fn may_judge(&self) -> Option<Duration> {
        self.id()?;
        Some(self.unbroken_for()).filter(|&unbroken| unbroken >= self.0.ttl)
    }

    /// For how long every renewal has been acknowledged in time.
    fn unbroken_for(&self) -> Duration {
        let since = self.0.unbroken_since.lock().unwrap_or_else(PoisonError::into_inner);
        since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// The host lease that this process has. A renewal that finds it lost sets it to `None`.
    pub(crate) fn holder(&self) -> watch::Receiver<Option<Holder>> {
        self.0.holder.subscribe()
    }

    /// Sets the host lease that is renewed with the row from now on.
    pub(crate) fn hold(&self, holder: Option<Holder>) {
        self.0.holder.send_replace(holder);
    }

    /// Changes with every acknowledged renewal.
    pub(crate) fn renewals(&self) -> watch::Receiver<u64> {
        self.0.renewals.subscribe()
    }

    /// Keeps the process registered until every task of `roles` has ended, then deletes its row. Only the end of the
    /// grace stops it sooner.
    pub(crate) async fn keep(
        &self,
        store: &Store,
        config: &Config,
        stream_url: Option<&str>,
        roles: TaskTracker,
    ) {
        // A connection of its own, so that renewals never wait for the pool.
        let store = &store.on_own_connection();
        let mut identity = Identity { liveness: self, store, config, stream_url, id: None };
        tokio::select! {
            () = identity.live() => {}
            () = roles.wait() => {}
        }
        self.hold(None);
        if let Some(id) = identity.id
            && let Err(error) = store.deregister_worker(id).await
        {
            background_error!("liveness", error, "the worker's row stays until a janitor removes it");
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

/// The row of this process in Postgres.
struct Identity<'a> {
    liveness: &'a Liveness,
    store: &'a Store,
    config: &'a Config,
    stream_url: Option<&'a str>,
    id: Option<WorkerId>,
}

impl Identity<'_> {
    /// Registers and renews one id. When its row is gone, goes on with a new id.
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

    /// Registers this id, and returns the time when the successful registration was sent.
    async fn register(&self, id: WorkerId) -> Instant {
        let roles: &BTreeSet<Role> = &self.config.roles;
        let roles: Vec<_> = roles.iter().map(|role| role.as_str()).collect();
        let ttl = self.liveness.0.ttl;
        loop {
            let sent = Instant::now();
            let host = self.config.host.id.as_str();
            match within(ttl / 8, self.store.register_worker(id, host, &roles, ttl, self.stream_url)).await {
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

    /// Renews the row until it is gone.
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
                        // The spell has ended, but no janitor has removed our row. Keep the id and begin a new spell,
                        // so that jobs claimed under the old one do not begin.
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

/// Gives up on a statement that takes longer than `limit`. Another try on a new connection helps more than waiting.
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
    async fn a_paused_process_knows_that_its_spell_has_ended_before_any_timer_rings() {
        let (spell, _extend) = Spell::begin(WorkerId::generate(), Instant::now() + TTL / 2);
        tokio::time::advance(TTL).await;
        assert!(!spell.goes_on());
    }

    #[tokio::test(start_paused = true)]
    async fn a_missed_renewal_begins_the_unbroken_time_anew() {
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
