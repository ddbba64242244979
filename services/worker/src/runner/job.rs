//! A job of ours in each of its states: claimed, running, and ended.

use std::time::Duration;

use chrono::{DateTime, Utc};
use foreman_ollama::{LoadKey, Route};
use foreman_store::{AHEAD_FOR, ApiId, Claimed, Lease, Permit, Used};
use tokio::sync::watch;
use tokio::time::Instant;

use super::fate::{Abort, Ending, Past, reason};
use crate::membership::liveness::Spell;
use crate::scheduling::contexts::Contexts;
use crate::scheduling::gpu_clock::{GpuClock, Reading};
use crate::scheduling::key::{Key, RunsOn};
use crate::scheduling::plan::{Charge, Order};

/// A claimed job that has no attempt yet.
#[derive(Debug)]
pub(crate) struct Job {
    pub lease: Lease,
    /// Counts the job's attempts from 1, as clients see them.
    pub attempt: i32,
    pub charge: Charge,
    /// What it runs on.
    pub runner: Key,
    pub runs_on: RunsOn,
    pub route: Route,
    /// The api whose caller waits for the answer.
    pub api: Option<ApiId>,
    pub past: Past,
    pub model_label: String,
    pub body: Body,
    /// The context to write into its body, if the runner has another than the body asks for.
    pub rewrite: Option<Option<i64>>,
    pub eligible_at: DateTime<Utc>,
    /// The spell under which it was claimed. The job may begin only while this spell goes on.
    pub spell: Spell,
    pub leave: Leave,
}

/// Whether the job's request may be sent to Ollama.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leave {
    /// Only when Postgres has answered that the job may begin.
    Ask,
    /// At once, until this time. Postgres hears beside it that the job works.
    SendAhead { until: Instant },
    /// At once. The claim has recorded that the job works.
    Begun,
}

/// The body of the job's request to Ollama.
#[derive(Debug)]
pub(crate) enum Body {
    Here(String),
    /// The attempt must still read it. The number is its size in bytes.
    InPostgres(u32),
}

impl Job {
    /// Makes a job of a claimed row, whose load key was read. A row whose route this version does not know leaves at once as a
    /// failed job.
    pub(crate) fn new(
        claimed: Claimed,
        load_key: Option<&LoadKey>,
        charge: Charge,
        order: &Order,
        spell: &Spell,
        max_attempts: i16,
    ) -> Result<Self, Box<JobWithEnding>> {
        let max_attempts = claimed.max_attempts.unwrap_or(max_attempts);
        let past = Past { failures: claimed.failures, max_attempts, vanished: 0, given_out: false };
        let route = match claimed.path.parse::<Route>() {
            Ok(route) => route,
            Err(unknown) => {
                let ending = Ending::never(reason("unknown_route", &unknown.to_string()));
                let Claimed { lease, model_label, .. } = claimed;
                let (used, charge) = (Used::default(), Some(charge));
                return Err(Box::new(JobWithEnding {
                    lease,
                    past,
                    ending,
                    ran: 0.0,
                    used,
                    model_label,
                    charge,
                }));
            }
        };
        let rewrite = load_key.and_then(|key| Contexts::rewrite(order.runner.context(), key.context()));
        Ok(Self {
            lease: claimed.lease,
            attempt: claimed.attempt,
            charge,
            runner: Key::clone(&order.runner),
            runs_on: order.runs_on,
            route,
            api: claimed.api,
            past,
            model_label: claimed.model_label,
            body: claimed.body.map_or(Body::InPostgres(claimed.bytes), Body::Here),
            rewrite,
            eligible_at: claimed.eligible_at,
            spell: spell.clone(),
            leave: match claimed.permit {
                Permit::Ask => Leave::Ask,
                Permit::SendAhead => Leave::SendAhead { until: order.asked_at + AHEAD_FOR },
                Permit::Begun => Leave::Begun,
            },
        })
    }

    /// Ends a job that has no attempt.
    pub(crate) fn with_ending(self, ending: Ending) -> JobWithEnding {
        let Self { lease, past, model_label, charge, .. } = self;
        let (used, charge) = (Used::default(), Some(charge));
        JobWithEnding { lease, past, ending, ran: 0.0, used, model_label, charge }
    }

    /// Gives the job back to the queue, because it has no slot, no turn or no right to begin any more.
    pub(crate) fn not_begun(self) -> JobWithEnding {
        self.with_ending(Ending::GivenBack(reason("not_begun", "it was not begun")))
    }
}

/// A job whose attempt has ended, or that gets no attempt. Its fate is not decided yet.
#[derive(Debug)]
pub(crate) struct JobWithEnding {
    pub lease: Lease,
    pub past: Past,
    pub ending: Ending,
    /// The GPU-seconds of its run, without a load: that was charged when it ended.
    pub ran: f64,
    pub used: Used,
    pub model_label: String,
    /// What its claim charged. `None` for a job of a lost claim, which was charged to nobody.
    pub charge: Option<Charge>,
}

/// The decider's side of a job while its attempt runs.
#[derive(Debug)]
pub(crate) struct Running {
    pub lease: Lease,
    pub charge: Charge,
    pub runner: Key,
    pub runs_on: RunsOn,
    /// When it began on the GPU. `None` while it waits for a load, and for a job of the cloud.
    pub on_gpu_since: Option<Reading>,
    /// The GPU-seconds that it had, once Ollama's answer has ended.
    pub gpu_seconds: Option<f64>,
    pub past: Past,
    pub model_label: String,
    /// What of the load that it waits for, or has waited for, counts for this attempt.
    pub load: Option<LoadPart>,
    pub abort: watch::Sender<Option<Abort>>,
}

/// The part of a load that counts for one attempt.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LoadPart {
    pub(crate) since: Instant,
    /// Whether the load itself counts for it, and not only a part of its time.
    pub(crate) is_cause: bool,
}

impl Running {
    /// Whether it waits for its runner to be loaded.
    pub(crate) fn waits_for_load(&self) -> bool {
        self.runs_on == RunsOn::Gpu && self.on_gpu_since.is_none()
    }

    /// Whether its model was loaded on account of this attempt.
    pub(crate) fn caused_load(&self) -> bool {
        self.load.is_some_and(|load| load.is_cause)
    }

    /// How much of a load's time counts for this attempt. It counts until the load has ended, or the attempt.
    pub(crate) fn load_time(&self, now: Instant) -> Duration {
        let until = self.on_gpu_since.map_or(now, |reading| reading.at);
        self.load.map_or(Duration::ZERO, |load| until.saturating_duration_since(load.since))
    }

    /// Whether Ollama's answer has not ended yet.
    pub(crate) fn is_in_slot(&self) -> bool {
        self.gpu_seconds.is_none()
    }

    /// Ollama's answer has ended, unless it had ended before. Returns the GPU-seconds that the job had.
    pub(crate) fn answered(&mut self, clock: &mut GpuClock, now: Instant) -> f64 {
        let had = || self.on_gpu_since.map_or(0.0, |since| clock.ends(since, now));
        *self.gpu_seconds.get_or_insert_with(had)
    }

    /// Stops the attempt. If it is asked to stop twice, the first reason counts.
    pub(crate) fn abort(&self, why: Abort) {
        self.abort.send_if_modified(|asked| asked.replace(asked.unwrap_or(why)).is_none());
    }
}
