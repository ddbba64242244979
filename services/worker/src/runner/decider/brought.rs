//! What becomes of the jobs that claims bring: they begin, are held, or go back.

use foreman_store::{Claimed, Lease, OwnLease, Used};
use metrics::counter;
use tokio::sync::watch;
use tokio::time::Instant;

use super::host::Loading;
use super::{Action, Decider};
use crate::membership::liveness::Spell;
use crate::runner::attempt::Attempt;
use crate::runner::fate::{Ending, Past, reason};
use crate::runner::job::{Job, JobWithEnding, Leave, Running};
use crate::runner::metrics::FIRST_COME_LOADS;
use crate::scheduling::key::{self, Key, RunsOn};
use crate::scheduling::plan::Order;

impl Decider {
    /// A claim has brought these jobs.
    pub(super) fn claimed(&mut self, order: &Order, spell: &Spell, claimed: Vec<Claimed>, now: Instant) {
        let charges = self.plan.claimed(order, &claimed, now);
        // A job that its claim began is recorded as `working`. If its model must be loaded after all, that would not
        // be true, so the job goes back.
        let is_loaded = self.needs_no_load(&order.runner, order.runs_on, now);
        let may_begin = self.right(now).is_some() && spell.goes_on() && is_loaded;
        for (job, charge) in claimed.into_iter().zip(charges) {
            // Jobs whose load key this version cannot read are never offered.
            let load_key = key::read(&job.load_key);
            if let Some(load_key) = load_key.as_ref().filter(|_| order.runs_on == RunsOn::Gpu) {
                self.count_first_come_loads(&job, load_key);
            }
            match Job::new(job, load_key.as_deref(), charge, order, spell, self.max_attempts) {
                // These jobs have begun, so they run even if their key has lost the turn meanwhile.
                Ok(job) if job.leave == Leave::Begun && may_begin => self.begin(job, now),
                Ok(job) if job.leave == Leave::Begun => self.settle(job.not_begun()),
                Ok(job) => self.ledger.hold(job),
                Err(job) => self.settle(*job),
            }
        }
    }

    fn count_first_come_loads(&mut self, job: &Claimed, load_key: &Key) {
        let place = (job.eligible_at, job.lease.job_id);
        let loads = self.first_come.claimed(place, self.plan.straight(load_key));
        counter!(FIRST_COME_LOADS.name).increment(loads);
    }

    /// Hands back a lease from a claim whose answer never arrived.
    pub(super) fn hand_back_unknown(&mut self, own: OwnLease) {
        let OwnLease { lease, phase, model_label } = own;
        tracing::warn!(job.id = %lease.job_id, phase = phase.as_str(), "the job of a lost claim is handed back");
        let why = reason("claim_lost", "the worker did not hear of its own claim");
        self.settle(JobWithEnding {
            lease,
            past: Past::default(),
            ending: Ending::GivenBack(why),
            ran: 0.0,
            used: Used::default(),
            model_label,
            charge: None,
        });
    }

    pub(super) fn begin(&mut self, job: Job, now: Instant) {
        let loading = self.loading_for(&job, now);
        let (abort, aborted) = watch::channel(None);
        let attempt = Attempt {
            lease: Lease { job_id: job.lease.job_id, no: job.lease.no },
            number: job.attempt,
            runner: Key::clone(&job.runner),
            rewrite: job.rewrite,
            model_label: job.model_label.clone(),
            route: job.route,
            api: job.api,
            eligible_at: job.eligible_at,
            leave: job.leave,
            abort: aborted,
            spell: job.spell,
        };
        let is_on_gpu = job.runs_on == RunsOn::Gpu && loading == Loading::NotNeeded;
        let on_gpu_since = is_on_gpu.then(|| self.gpu.begins(now));
        self.ledger.begun(Running {
            lease: job.lease,
            charge: job.charge,
            runner: job.runner,
            runs_on: job.runs_on,
            on_gpu_since,
            gpu_seconds: None,
            past: job.past,
            model_label: job.model_label,
            load: None,
            abort,
        });
        self.actions.push(Action::Begin { attempt, body: job.body, loading });
    }

    fn loading_for(&mut self, job: &Job, now: Instant) -> Loading {
        if self.needs_no_load(&job.runner, job.runs_on, now) {
            self.plan.is_loaded(&job.runner, now);
            return Loading::NotNeeded;
        }
        self.host.load(&job.runner, |key| self.plan.waits_since(key), now)
    }
}
