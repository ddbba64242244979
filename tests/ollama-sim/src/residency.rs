//! Which models are resident, which requests wait for which model, and which model is unloaded: Ollama's scheduler,
//! with its bad habits.
//!
//! The habits follow from the structure, which this file copies. A request for a resident model goes straight to its
//! runner. Every other request joins one queue, which one loop serves strictly in order. The loop marks the runner
//! that must go as expired, waits for *some* runner to go, and looks again. Three habits follow:
//!
//! - New requests for the resident model always go first.
//! - A request for it with an explicit `keep_alive` removes the mark, and blocks the loop and the whole queue.
//! - A request whose client hung up still unloads a model, though nobody needs the memory any more.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::faults::{Faults, Stage};
use crate::journal::Journal;
use crate::keep_alive::KeepAlive;
use crate::log::Happening;
use crate::model::Model;
use crate::runner::{self, NoRunner, Resident, Runner, Want};

const IDLE_AT_ONCE: KeepAlive = KeepAlive::For(Duration::ZERO);

#[derive(Debug)]
struct Pending {
    want: Want,
    reply: oneshot::Sender<Result<Lease, NoRunner>>,
}

#[derive(Debug)]
pub(crate) struct Residency {
    config: Arc<Config>,
    journal: Arc<Journal>,
    faults: Arc<Faults>,
    /// By weights, because two names with the same weights share one resident model.
    residents: Mutex<HashMap<String, Resident>>,
    queue: mpsc::Sender<Pending>,
    unloaded: Notify,
}

/// The use of a runner. Dropping it makes the runner idle, or unloads the model.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) runner: Arc<Runner>,
    /// Whether the request caused the load.
    pub(crate) caused_load: bool,
    residency: Arc<Residency>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.residency.release(&self.runner);
    }
}

/// A resident model, as `/api/ps` shows it.
#[derive(Debug)]
pub(crate) struct Listed {
    pub(crate) model: Arc<Model>,
    pub(crate) num_ctx: i64,
    /// From now on; `None` means never.
    pub(crate) expires_in: Option<Duration>,
}

/// What the loop found.
enum Found {
    Usable(Lease),
    Room,
    /// A model had to go and was idle.
    RoomMade,
    /// A model has to go and is not idle.
    Wait,
}

impl Residency {
    /// Starts the loop, which lives until `stop`.
    pub(crate) fn start(
        config: Arc<Config>,
        journal: Arc<Journal>,
        faults: Arc<Faults>,
        stop: CancellationToken,
    ) -> Arc<Self> {
        let (queue, pending) = mpsc::channel(config.max_queue.max(1));
        let residency = Arc::new(Self {
            config,
            journal,
            faults,
            residents: Mutex::default(),
            queue,
            unloaded: Notify::new(),
        });
        let this = Arc::clone(&residency);
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = this.serve_queue(pending) => {}
            }
        });
        residency
    }

    /// A runner for a request. Dropping the future hangs up.
    pub(crate) async fn acquire(self: &Arc<Self>, want: Want) -> Result<Lease, NoRunner> {
        loop {
            let mut loading = {
                let mut residents = self.lock();
                match residents.get_mut(&want.model.weights) {
                    Some(resident) if !resident.ready => resident.runner.loaded.subscribe(),
                    Some(resident) if resident.serves(&want) => {
                        return Ok(self.lease(resident, want.keep_alive));
                    }
                    _ => break,
                }
            };
            // A request waits for a running load outside the queue. If the load fails, the request asks again.
            _ = loading.wait_for(|loaded| *loaded).await;
        }
        let (reply, answer) = oneshot::channel();
        self.queue.try_send(Pending { want, reply }).map_err(|_| NoRunner::Busy)?;
        match answer.await {
            Ok(answer) => answer,
            // The simulator is stopping, and every connection with it.
            Err(_) => std::future::pending().await,
        }
    }

    /// Marks a model as expired, so that it goes once it is idle.
    pub(crate) async fn expire(&self, model: &Model) {
        loop {
            let mut loading = {
                let mut residents = self.lock();
                let Some(resident) = residents.get_mut(&model.weights) else { return };
                if resident.ready {
                    resident.keep_alive = IDLE_AT_ONCE;
                    if resident.users == 0 {
                        self.remove(&mut residents, &model.weights);
                    }
                    return;
                }
                resident.runner.loaded.subscribe()
            };
            _ = loading.wait_for(|loaded| *loaded).await;
        }
    }

    /// Kills the process that holds a model. The model stays listed until a request needs it.
    pub(crate) fn kill(&self, name: &str) -> bool {
        let residents = self.lock();
        let found = residents.values().find(|resident| resident.runner.model.name.eq_ignore_ascii_case(name));
        if let Some(Resident { runner, .. }) = found
            && !runner.killed.is_cancelled()
        {
            self.journal.event(Happening::Killed, &runner.model.name, runner.options.to_string());
            runner.killed.cancel();
            return true;
        }
        false
    }

    /// The resident models, the one that stays longest first. A loading model is not among them.
    pub(crate) fn list(&self) -> Vec<Listed> {
        let now = Instant::now();
        let mut listed: Vec<_> = self
            .lock()
            .values()
            .filter(|resident| resident.ready)
            .map(|resident| Listed {
                model: Arc::clone(&resident.runner.model),
                num_ctx: resident.runner.options.num_ctx,
                expires_in: match (resident.keep_alive, resident.expires_at) {
                    (KeepAlive::Forever, _) => None,
                    (KeepAlive::For(_), Some(at)) => Some(at.saturating_duration_since(now)),
                    (KeepAlive::For(time), None) => Some(time),
                },
            })
            .collect();
        listed.sort_by_key(|one| std::cmp::Reverse(one.expires_in.unwrap_or(Duration::MAX)));
        listed
    }

    /// Forgets every resident model, as a dying process does. Requests that use one keep it to the end.
    pub(crate) fn lose_everything(&self) {
        let mut residents = self.lock();
        let ready: Vec<_> =
            residents.iter().filter(|(_, one)| one.ready).map(|(weights, _)| weights.clone()).collect();
        for weights in ready {
            self.remove(&mut residents, &weights);
        }
    }

    async fn serve_queue(self: Arc<Self>, mut pending: mpsc::Receiver<Pending>) {
        while let Some(Pending { want, reply }) = pending.recv().await {
            if reply.is_closed() {
                continue;
            }
            // From here on nothing checks whether the client is still connected, except the load itself.
            loop {
                let mut unloaded = std::pin::pin!(self.unloaded.notified());
                unloaded.as_mut().enable();
                match self.look(&want) {
                    Found::Usable(lease) => {
                        // If the client has gone, the lease is dropped, which releases the runner.
                        _ = reply.send(Ok(lease));
                        break;
                    }
                    Found::Room => {
                        self.load(want, reply).await;
                        break;
                    }
                    Found::RoomMade => {}
                    Found::Wait => unloaded.await,
                }
            }
        }
    }

    fn look(self: &Arc<Self>, want: &Want) -> Found {
        let mut residents = self.lock();
        let full = residents.len() >= self.config.max_loaded;
        let goes = match residents.get_mut(&want.model.weights) {
            Some(resident) if resident.serves(want) => {
                return Found::Usable(self.lease(resident, want.keep_alive));
            }
            // The same weights, but loaded with other options, or dead.
            Some(_) => Some(want.model.weights.clone()),
            None if full => runner::victim(&residents),
            None => None,
        };
        let Some(weights) = goes else { return Found::Room };
        let Some(resident) = residents.get_mut(&weights) else { return Found::Room };
        resident.keep_alive = IDLE_AT_ONCE;
        resident.expires_at = None;
        if resident.users == 0 {
            self.remove(&mut residents, &weights);
            Found::RoomMade
        } else {
            self.journal.event(
                Happening::Doomed,
                &resident.runner.model.name,
                resident.runner.options.to_string(),
            );
            Found::Wait
        }
    }

    async fn load(self: &Arc<Self>, want: Want, mut reply: oneshot::Sender<Result<Lease, NoRunner>>) {
        if reply.is_closed() {
            return;
        }
        let runner = Arc::new(Runner {
            slots: Arc::new(Semaphore::new(self.config.parallel)),
            killed: CancellationToken::new(),
            gone: CancellationToken::new(),
            loaded: watch::Sender::new(false),
            rearm: Notify::new(),
            model: Arc::clone(&want.model),
            options: want.options,
        });
        let (name, options) = (want.model.name.clone(), want.options.to_string());
        self.journal.event(Happening::LoadStarted, &name, options.clone());
        self.lock().insert(
            want.model.weights.clone(),
            Resident {
                runner: Arc::clone(&runner),
                ready: false,
                users: 1,
                keep_alive: want.keep_alive.unwrap_or(self.config.keep_alive),
                expires_at: None,
                armed: None,
            },
        );
        let delay = self.config.load_delay(&want.model, want.options.num_ctx);
        let fault = want.ordered_fault.or_else(|| self.faults.due(Stage::Load, &want.written, &want.body));
        let outcome = tokio::select! {
            biased;
            () = reply.closed() => Err(None),
            () = runner.killed.cancelled() => Err(Some(runner::killed())),
            outcome = runner::run_load(delay, fault) => outcome.map_err(Some),
        };
        match outcome {
            Ok(()) => {
                self.journal.event(Happening::Loaded, &name, options);
                if let Some(resident) = self.lock().get_mut(&want.model.weights) {
                    resident.ready = true;
                }
                runner.loaded.send_replace(true);
                tokio::spawn(Arc::clone(self).watch_expiry(Arc::clone(&runner)));
                _ = reply.send(Ok(Lease { runner, caused_load: true, residency: Arc::clone(self) }));
            }
            Err(failure) => {
                self.lock().remove(&want.model.weights);
                runner.gone.cancel();
                // Dropping the only sender tells the waiting requests that this load will never succeed.
                drop(runner);
                match failure {
                    None => self.journal.event(Happening::LoadAborted, &name, options),
                    Some(failure) => {
                        self.journal.event(Happening::LoadFailed, &name, options);
                        _ = reply.send(Err(failure));
                    }
                }
            }
        }
    }

    /// Unloads a model when its time has come, for as long as it is resident.
    async fn watch_expiry(self: Arc<Self>, runner: Arc<Runner>) {
        loop {
            let next = {
                let mut residents = self.lock();
                let Some(resident) = residents.get_mut(&runner.model.weights) else { return };
                if !Arc::ptr_eq(&resident.runner, &runner) {
                    return;
                }
                if resident.users == 0 && resident.expires_at.is_some_and(|at| at <= Instant::now()) {
                    self.remove(&mut residents, &runner.model.weights);
                    return;
                }
                resident.armed = resident.expires_at;
                resident.armed
            };
            let time = async {
                match next {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = runner.gone.cancelled() => return,
                () = runner.rearm.notified() => {}
                () = time => {}
            }
        }
    }

    fn lease(self: &Arc<Self>, resident: &mut Resident, keep_alive: Option<KeepAlive>) -> Lease {
        resident.users += 1;
        resident.expires_at = None;
        // A request without keep-alive leaves the last given value in force.
        if let Some(keep_alive) = keep_alive {
            resident.keep_alive = keep_alive;
        }
        Lease { runner: Arc::clone(&resident.runner), caused_load: false, residency: Arc::clone(self) }
    }

    fn release(&self, runner: &Arc<Runner>) {
        let mut residents = self.lock();
        let Some(resident) = residents.get_mut(&runner.model.weights) else { return };
        if !Arc::ptr_eq(&resident.runner, runner) {
            return;
        }
        resident.users -= 1;
        if resident.users > 0 {
            return;
        }
        match resident.keep_alive {
            KeepAlive::Forever => {}
            KeepAlive::For(Duration::ZERO) => self.remove(&mut residents, &runner.model.weights),
            KeepAlive::For(time) => {
                // A time that the clock cannot represent means for ever.
                let Some(at) = Instant::now().checked_add(time) else { return };
                resident.expires_at = Some(at);
                // The expiry task looks again by itself when it wakes, so it need only learn of an earlier time.
                if resident.armed.is_none_or(|armed| at < armed) {
                    resident.armed = Some(at);
                    runner.rearm.notify_one();
                }
            }
        }
    }

    fn remove(&self, residents: &mut HashMap<String, Resident>, weights: &str) {
        if let Some(Resident { runner, .. }) = residents.remove(weights) {
            runner.gone.cancel();
            self.journal.event(Happening::Evicted, &runner.model.name, runner.options.to_string());
            self.unloaded.notify_waiters();
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Resident>> {
        self.residents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
