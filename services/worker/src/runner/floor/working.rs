//! What becomes of the jobs on the floor: begun when a slot is free, and settled when they have ended.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use foreman_runtime::background_error;
use foreman_store::{ClientId, Lease};
use metrics::counter;
use tokio::sync::watch;
use tokio::task::{Id, JoinError};
use tokio::time::Instant;

use super::Floor;
use crate::runner::attempt::{self, Attempt, Ended};
use crate::runner::drain::Next;
use crate::runner::fate::{Ending, HostTrouble, reason};
use crate::runner::job::{Job, Lane, Left, Running};
use crate::runner::load::{Key, Load};
use crate::runner::metrics::MODEL_SWITCHES;

impl Floor {
    /// Begins what is held and has a slot, and hands back what may not begin any more.
    pub(super) fn serve_held(&mut self, next: &Next<ClientId, Key>, now: Instant) {
        if self.held.is_empty() {
            return;
        }
        let may_begin = self.right_to_claim().is_some();
        // Another key's turn comes: what is held for this one would only lengthen its wait.
        let gpu_goes_on = !matches!(next, Next::Drain | Next::Switch { .. });
        let keeps = |job: &Job| may_begin && job.spell.goes_on() && (gpu_goes_on || job.lane == Lane::Cloud);
        let (kept, back): (VecDeque<Job>, _) = std::mem::take(&mut self.held).into_iter().partition(keeps);
        self.held = kept;
        for job in back {
            self.settle(job.not_begun());
        }
        while self.free_slots() > 0
            && let Some(job) = self.held.pop_front()
        {
            self.begin(job, now);
        }
    }

    pub(super) fn begin(&mut self, job: Job, now: Instant) {
        let load = match job.lane {
            Lane::Gpu => self.load_for(&job, now),
            Lane::Cloud => None,
        };
        let (abort, aborted) = watch::channel(None);
        let attempt = Attempt {
            lease: Lease { job_id: job.lease.job_id, no: job.lease.no },
            model: job.key.model().clone(),
            model_label: job.model_label.clone(),
            route: job.route,
            eligible_at: job.eligible_at,
            begun: job.begun,
            load,
            abort: aborted,
            spell: job.spell,
        };
        let desk = Arc::clone(&self.desk);
        let task = self.attempts.spawn(async move { attempt::run(&desk, attempt, job.body).await });
        let running = Running {
            lease: job.lease,
            key: job.key,
            lane: job.lane,
            past: job.past,
            model_label: job.model_label,
            abort,
        };
        self.running.insert(task.id(), running);
    }

    /// The load that a job must wait for, if its model is not there.
    fn load_for(&mut self, job: &Job, now: Instant) -> Option<Load> {
        if self.residency.holds(&job.key, self.gpu_is_busy(), now) {
            self.drain.loaded(now);
            return None;
        }
        if let Some(load) = self.load.as_ref().filter(|load| load.key == job.key) {
            return Some(load.clone());
        }
        self.residency.lost();
        let limit = self.desk.limits.load_timeout;
        let (ollama, signals) = (self.desk.ollama.clone(), self.signals.clone());
        let load = Load::new(ollama, Key::clone(&job.key), job.route, limit, signals);
        self.load = Some(load.clone());
        Some(load)
    }

    pub(super) fn loaded(&mut self, key: Key, took: Duration, now: Instant) {
        self.load.take_if(|load| load.key == key);
        if self.loaded_last.replace(Key::clone(&key)).is_some_and(|last| last != key) {
            counter!(MODEL_SWITCHES.name).increment(1);
        }
        self.pace.loaded(&key, took);
        if self.drain.has_turn(&key) {
            self.drain.loaded(now);
        }
        self.residency.loaded(key, now);
    }

    /// Its turn ends, or a model that cannot be loaded would keep the others waiting for its whole queue.
    pub(super) fn load_failed(&mut self, key: &Key, now: Instant) {
        self.load.take_if(|load| load.key == *key);
        self.residency.lost();
        if self.drain.has_turn(key) {
            self.drain.leave(now);
        }
    }

    /// Gives up a load that nobody waits for any more and nobody will: Ollama is hung up on.
    pub(super) fn drop_unwanted_load(&mut self) {
        let Some(key) = self.load.as_ref().map(|load| &load.key) else { return };
        let waited_for = self.running.values().any(|running| running.key == *key)
            || self.held.iter().any(|job| job.key == *key);
        let will_be = self.drain.has_turn(key) && self.ready.has(key) && self.right_to_claim().is_some();
        if !waited_for && !will_be {
            self.load = None;
            self.residency.lost();
        }
    }

    pub(super) fn host_is_away(&mut self) {
        self.host_up = false;
        self.load = None;
        self.residency.lost();
    }

    pub(super) fn joined(&mut self, joined: Result<(Id, Ended), JoinError>, now: Instant) {
        let (id, ended) = match joined {
            Ok(joined) => joined,
            Err(error) => {
                let id = error.id();
                background_error!("attempt", error, "an attempt panicked");
                let why =
                    reason("internal_error", "the worker failed while it ran the job; its log says why");
                (id, Ending::again(why).into())
            }
        };
        // Every attempt is entered here when it is begun.
        if let Some(running) = self.running.remove(&id) {
            self.ended(running, ended, now);
        }
    }

    fn ended(&mut self, running: Running, ended: Ended, now: Instant) {
        if running.lane == Lane::Gpu {
            self.residency.used(&running.key, now);
        }
        let mut past = running.past;
        let host_trouble = ended.ending.host_trouble();
        match host_trouble {
            Some(HostTrouble::Away { under_job }) => {
                self.host_is_away();
                if under_job {
                    past.vanished = self.vanished.under(running.lease.job_id);
                }
            }
            Some(HostTrouble::ModelGone) => {
                self.presence.missed(running.key.model());
                self.waiting = None;
            }
            None => {}
        }
        match &ended.ending {
            Ending::Failed(_) if host_trouble.is_some() => {
                if let Some(pause) = self.pause.handed_back(now) {
                    tracing::warn!(
                        "a job is handed back for the host's sake; nothing is claimed for {pause:?}"
                    );
                }
                self.doubt.notify_one();
            }
            Ending::Done(_) | Ending::Failed(_) => self.pause.answered(),
            _ => {}
        }
        if let (Ending::Done(_), Some(ran)) = (&ended.ending, ended.ran) {
            self.pace.ran(&running.key, ran);
        }
        let Running { lease, model_label, .. } = running;
        self.settle(Left { lease, past, ending: ended.ending, model_label });
    }
}
