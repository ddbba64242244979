//! One attempt of one job, from the moment it has a slot to its ending. The floor starts attempts; it does not run them.
//!
//! An attempt must never hold a transaction open while it talks to Ollama. It must never send anything to Ollama before
//! Postgres has confirmed that the job may begin: in the claim, or when the attempt asks.

use std::time::Duration;

use chrono::{DateTime, Utc};
use foreman_ollama::{Client, FailureKind, Route};
use foreman_runtime::background_error;
use foreman_store::{ApiId, Begin, Clock, Lease, Phase, Store};
use futures_util::FutureExt as _;
use metrics::{counter, histogram};
use tokio::sync::{mpsc, watch};
use tokio::task::yield_now;
use tokio::time::{Instant, timeout_at};
use tokio::try_join;

use super::answer::{Asking, Keeping};
use super::fate::{Abort, Ending, reason};
use super::job::{Body, Leave};
use super::load::{Load, LoadFailure};
use super::metrics::{CONTEXT_FITTED, JOB_LOAD, JOB_RUN, JOB_WAIT};
use super::record::Recorder;
use super::record::beginning::Began;
use super::signal::Signal;
use super::told_times::ToldTimes;
use super::trouble::Trouble;
use crate::config::Limits;
use crate::large_reads::LargeReads;
use crate::membership::liveness::Spell;
use crate::scheduling::key::Key;
use crate::stream::live::LiveAnswer;

/// The shared parts that every attempt uses.
#[derive(Debug)]
pub(crate) struct Context {
    pub ollama: Client,
    pub recorder: Recorder,
    pub large_reads: LargeReads,
    pub limits: Limits,
    pub clock: Clock,
    /// Tell the floor what happens while an attempt runs.
    pub signals: mpsc::UnboundedSender<Signal>,
    /// When jobs were expected to begin.
    pub told: ToldTimes,
}

/// A job that may run now, and all that its attempt needs to know of it.
#[derive(Debug)]
pub(crate) struct Attempt {
    /// A copy of the numbers that prove the lease. The decider keeps the original, because only the decider may
    /// settle it.
    pub lease: Lease,
    /// Counts the job's attempts from 1, as clients see them.
    pub number: i32,
    /// What it runs on.
    pub runner: Key,
    /// The context to write into the body, if the runner has another than the body asks for.
    pub rewrite: Option<Option<i64>>,
    pub model_label: String,
    pub route: Route,
    /// The api whose caller waits for the answer.
    pub api: Option<ApiId>,
    pub eligible_at: DateTime<Utc>,
    pub leave: Leave,
    pub abort: watch::Receiver<Option<Abort>>,
    pub spell: Spell,
}

/// How an attempt went.
#[derive(Debug)]
pub(crate) struct Finished {
    pub ending: Ending,
    /// How long the job's own request took, if one was sent.
    pub ran: Option<Duration>,
    /// Whether the caller of a sync call may have a part of the answer already. The floor says so.
    pub given_out: bool,
}

/// Runs the attempt to its end. It first waits for `load`, if its model must be loaded. A stop from outside ends the
/// attempt at once, and closes its connection to Ollama.
pub(crate) async fn run(
    context: &Context,
    attempt: Attempt,
    body: Body,
    load: Option<Load>,
    live: LiveAnswer,
) -> Finished {
    let (mut abort, spell) = (attempt.abort.clone(), attempt.spell.clone());
    let stopped = async {
        tokio::select! {
            // An error would mean that the floor has ended. The floor never ends before its attempts.
            asked = abort.wait_for(Option::is_some) => asked.ok().and_then(|asked| *asked),
            () = spell.ended() => Some(Abort::Fenced),
        }
    };
    tokio::select! {
        biased;
        Some(abort) = stopped => Ending::Aborted(abort).into(),
        ended = attempt.work(body, load, context, &live) => ended,
    }
}

impl From<Ending> for Finished {
    /// An attempt whose request was never answered.
    fn from(ending: Ending) -> Self {
        Self { ending, ran: None, given_out: false }
    }
}

impl Attempt {
    async fn work(self, body: Body, load: Option<Load>, context: &Context, live: &LiveAnswer) -> Finished {
        // Fetch before begin: clients see the job as waiting until its body is here.
        let body = match self.fetch(body, context).await {
            Ok(body) => self.fit(body),
            Err(ending) => return ending.into(),
        };
        let sends_ahead = load.is_none() && self.may_send_ahead();
        let first = if load.is_some() { Phase::Loading } else { Phase::Working };
        if !sends_ahead && let Err(ending) = self.begin(first, context).await {
            return ending.into();
        }
        let waited = (context.clock.now() - self.eligible_at).to_std().unwrap_or_default();
        histogram!(JOB_WAIT.name).record(waited);
        context.told.began(self.lease.job_id);
        // One limit for the load and the prompt together.
        let first_token_by = Instant::now() + context.limits.load_timeout;
        if let Some(load) = &load {
            if let Err(ending) = self.wait_for(load, first_token_by, context).await {
                return ending.into();
            }
            if let Err(ending) = self.begin(Phase::Working, context).await {
                return ending.into();
            }
        }
        let began = Instant::now();
        let (runner, label) = (Key::clone(&self.runner), self.model_label.clone());
        let (lease, keeping) = (self.lease.no, self.keeping());
        // Sending fails only if the floor has ended, which it never does before its attempts.
        let answered = || _ = context.signals.send(Signal::Answered(lease));
        let asking = Asking {
            route: self.route,
            keeping,
            limits: &context.limits,
            first_token_by,
            live,
            answered: &answered,
        };
        let asked = asking.ask(&context.ollama, body).map(|answer| (answer, began.elapsed()));
        let (answer, ran) = if sends_ahead {
            let begin = async {
                // The request goes out before Postgres hears of it, as on the floor.
                yield_now().await;
                self.begin(Phase::Working, context).await
            };
            // No outcome is written before the job is recorded as working. A refusal drops the request.
            match try_join!(asked.map(Ok), begin) {
                Ok((answer, ())) => answer,
                Err(ending) => return ending.into(),
            }
        } else {
            asked.await
        };
        histogram!(JOB_RUN.name, "model" => label).record(ran);
        let ending = match answer {
            Ok(completion) => Ending::Done(completion),
            Err(trouble) => trouble.ending(runner.model(), &context.ollama).await,
        };
        Finished { ending, ran: Some(ran), given_out: false }
    }

    async fn fetch(&self, body: Body, context: &Context) -> Result<String, Ending> {
        let bytes = match body {
            Body::Here(body) => return Ok(body),
            Body::InPostgres(bytes) => bytes,
        };
        let job = self.lease.job_id;
        let read = |store: Store| async move { store.job_body(job, bytes).await };
        match context.large_reads.read("job_body", bytes.into(), read).await {
            Ok(Some(body)) => Ok(body),
            // The job's request is gone from Postgres. The next look at our own leases drops this lease.
            Ok(None) => Err(Ending::Stale),
            Err(error) => {
                background_error!("job_body", error);
                let why = "Postgres could not give out its request; the worker's log says why";
                Err(Ending::again(reason("request_unreadable", why)))
            }
        }
    }

    /// Writes the runner's context into the body, so that Ollama does not load the model again for it.
    fn fit(&self, body: String) -> String {
        let Some(length) = self.rewrite else { return body };
        counter!(CONTEXT_FITTED.name).increment(1);
        foreman_ollama::write_context(self.route, &body, length)
    }

    /// Whether the claim lets the request go out now.
    fn may_send_ahead(&self) -> bool {
        matches!(self.leave, Leave::SendAhead { until } if Instant::now() < until)
    }

    /// Asks Postgres whether the job may begin, and records in the same statement that it does.
    async fn begin(&self, phase: Phase, context: &Context) -> Result<(), Ending> {
        if self.leave == Leave::Begun {
            return Ok(());
        }
        match context.recorder.begin(&self.lease, phase, &self.spell).await {
            Began::Answered(Begin::Go) => Ok(()),
            Began::Answered(Begin::Cancelled) => Err(Ending::Cancelled),
            Began::Answered(Begin::Expired) => Err(Ending::Expired),
            Began::Answered(Begin::Stale) => Err(Ending::Stale),
            Began::Fenced => Err(Ending::Aborted(Abort::Fenced)),
        }
    }

    async fn wait_for(&self, load: &Load, by: Instant, context: &Context) -> Result<(), Ending> {
        let began = Instant::now();
        let mut outcome = timeout_at(by, load.done()).await;
        if let Ok(Err(LoadFailure::Ollama(failure))) = &outcome
            && matches!(failure.kind(), FailureKind::Lasting | FailureKind::ModelMissing)
            && load.route != self.route
        {
            // Another attempt asked for this load on its own route. A model may support only one route, so try this
            // job's.
            outcome = timeout_at(by, load.on(self.route).done()).await;
        }
        histogram!(JOB_LOAD.name, "model" => self.model_label.clone()).record(began.elapsed());
        let trouble = match outcome {
            Ok(Ok(())) => return Ok(()),
            // A caller wants Ollama's refusal in Ollama's own words, and only the answer to its own request has them.
            Ok(Err(LoadFailure::Ollama(failure)))
                if self.api.is_some() && failure.kind() == FailureKind::Lasting =>
            {
                return Ok(());
            }
            Err(_elapsed) => Trouble::no_token(context.limits.load_timeout),
            Ok(Err(failure)) => failure.into(),
        };
        Err(trouble.ending(self.runner.model(), &context.ollama).await)
    }

    /// A caller gets the answer as Ollama gave it. So does the job of a route whose answers we cannot join.
    fn keeping(&self) -> Keeping {
        if self.api.is_some() || !self.route.is_native() || self.route.embeds() {
            Keeping::AsItCame
        } else {
            Keeping::Joined
        }
    }
}
