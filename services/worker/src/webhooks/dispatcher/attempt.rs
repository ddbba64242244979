//! One attempt at one delivery, from the claim to the report of what became of it.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use foreman_runtime::background_error;
use foreman_store::{
    Delivery, DeliveryOutcome, DeliveryReport, DeliveryTerms, EndpointId, LaneNews, Store, StoreError,
};
use foreman_webhook::schedule::{self, Jitter};
use foreman_webhook::{DeliveryDecision, Reaction, RetrySchedule};
use tokio::time::sleep;

use super::heavy::Weight;
use super::pool::Part;
use super::receivers::Address;
use super::render;
use super::sender::{Received, Sender, Webhook};
use crate::large_reads::LargeReads;
use crate::worker::Worker;

/// A claim holds for the longest attempt and this much more: half of it to begin, half to write the report.
const LEASE_MARGIN: Duration = Duration::from_secs(10);

/// A delivery that was claimed this long ago and has not begun is given back: its claim might end while it is being sent.
const BEGIN_WITHIN: Duration = Duration::from_secs(5);

/// How often the claim of a heavy webhook is extended while it waits for its bytes.
const EXTEND_EVERY: Duration = Duration::from_millis(2_500);

/// How long a receiver is left alone that answers 429 or 503 and does not say for how long.
const HOLD: Duration = Duration::from_secs(1);

/// How long a webhook waits whose artifacts Postgres cannot give out.
const UNREADABLE_FOR: Duration = Duration::from_secs(30);

/// What attempts are made with.
#[derive(Debug)]
pub(super) struct Context {
    /// The terms of every claim whose attempts are made here.
    pub(super) terms: DeliveryTerms,
    sender: Sender,
    schedule: RetrySchedule,
    public_url: Option<String>,
    /// Reads the artifacts of heavy webhooks.
    large_reads: LargeReads,
    /// Extends their claims meanwhile.
    store: Store,
}

/// What became of an attempt.
#[derive(Debug)]
pub(super) struct Attempted {
    pub(super) report: DeliveryReport,
    /// From the transition to the end of the attempt; `None` for a webhook that a person asked for again.
    pub(super) lag: Option<Duration>,
    /// The seat of an attempt that changes what may be sent to its lane. It is given back once the report is written: then
    /// the dispatcher looks at the lane again.
    pub(super) seat: Option<Part>,
}

impl Attempted {
    /// Whether this changes when the next webhook of the lane may be sent.
    pub(super) fn changes_its_lane(&self) -> bool {
        self.report.is_probe || self.report.outcome != DeliveryOutcome::Delivered
    }
}

impl Context {
    pub(super) fn new(worker: &Worker, sender: Sender) -> Self {
        let settings = &worker.config.webhooks;
        let schedule = settings.schedule.clone();
        let at_most = |terminal| i16::try_from(schedule.max_attempts(terminal)).unwrap_or(i16::MAX);
        let terms = DeliveryTerms {
            lease: sender.longest_attempt() + LEASE_MARGIN,
            max_attempts_terminal: at_most(true),
            max_attempts: at_most(false),
            inline_limit: i64::try_from(settings.inline_limit).unwrap_or(i64::MAX),
        };
        Self {
            terms,
            sender,
            schedule,
            public_url: settings.public_url.clone(),
            large_reads: worker.large_reads.clone(),
            store: worker.store.clone(),
        }
    }

    /// Makes the attempt. `claimed` is a moment before the claim. A delivery with a weight has no artifacts yet: they are
    /// read here.
    pub(super) async fn attempt(
        self: Arc<Self>,
        mut delivery: Delivery,
        mut weight: Option<Weight>,
        claimed: Instant,
        address: Address,
    ) -> Attempted {
        let mut confirmed = claimed;
        if let Some(weight) = &mut weight {
            confirmed = match self.read_artifacts(&mut delivery, claimed).await {
                Ok(confirmed) => confirmed,
                Err(error) => {
                    background_error!("artifacts", error);
                    return release(delivery, Instant::now(), UNREADABLE_FOR);
                }
            };
            weight.is_read();
        }
        let started = Instant::now();
        if started - confirmed > BEGIN_WITHIN {
            return release(delivery, started, Duration::ZERO);
        }
        let body = Bytes::from(render::body(&delivery, self.public_url.as_deref()));
        // The body contains them now.
        delivery.event.artifacts = Vec::new();
        let webhook = Webhook {
            job_id: &delivery.job.to_string(),
            seq: delivery.event.seq,
            body,
            traceparent: delivery.traceparent.as_deref(),
        };
        let received = self.sender.send(&address, webhook).await;
        let ended = Instant::now();
        let since_claim = ended - claimed;
        let attempt = schedule::Attempt {
            number: delivery.attempt.unsigned_abs().into(),
            terminal: delivery.terminal,
            delivery_age: delivery.age + since_claim,
            lane_is_open: delivery.lane_is_open,
        };
        let decision = self.schedule.decide(attempt, &received.reaction, Jitter::random());
        let lag = (!delivery.redelivery).then_some(delivery.event_age + since_claim);
        let outcome = outcome(decision, &received.reaction, delivery.receiver.endpoint);
        let is_late_refusal = self.schedule.is_late_refusal(attempt, &received.reaction);
        let report = DeliveryReport {
            news: if is_late_refusal { LaneNews::Unknown } else { news(&received) },
            started,
            ended,
            status: received.reaction.status(),
            response: received.response,
            ..report(delivery, started, outcome)
        };
        Attempted { report, lag, seat: None }
    }

    /// Reads the artifacts of a heavy webhook, and extends its claim meanwhile. Returns the last moment at which the claim
    /// was known to be in force.
    async fn read_artifacts(&self, delivery: &mut Delivery, claimed: Instant) -> Result<Instant, StoreError> {
        let (job, attempt, bytes) = (delivery.job, delivery.event.attempt, delivery.artifact_bytes);
        let inline_limit = self.terms.inline_limit;
        let read = |store: Store| async move { store.artifacts(job, attempt, bytes, inline_limit).await };
        let mut read = pin!(self.large_reads.read("artifacts", bytes, read));
        let mut confirmed = claimed;
        loop {
            tokio::select! {
                biased;
                read = &mut read => {
                    delivery.event.artifacts = read?;
                    break;
                }
                () = sleep(EXTEND_EVERY) => self.extend(delivery, &mut confirmed).await,
            }
        }
        if confirmed.elapsed() > EXTEND_EVERY {
            self.extend(delivery, &mut confirmed).await;
        }
        Ok(confirmed)
    }

    async fn extend(&self, delivery: &Delivery, confirmed: &mut Instant) {
        let asked = Instant::now();
        match self.store.extend_claim(&delivery.claim, delivery.is_probe, self.terms.lease).await {
            Ok(true) => *confirmed = asked,
            // Another dispatcher may have it by now. The caller finds `confirmed` too old, and gives the delivery back.
            Ok(false) => {}
            Err(error) => background_error!("artifacts", error, "a webhook's claim could not be extended"),
        }
    }
}

/// Gives a claimed delivery back unsent and uncounted, for a reason of ours.
pub(super) fn release(delivery: Delivery, claimed: Instant, wait: Duration) -> Attempted {
    Attempted { report: report(delivery, claimed, DeliveryOutcome::Release { wait }), lag: None, seat: None }
}

fn report(delivery: Delivery, at: Instant, outcome: DeliveryOutcome) -> DeliveryReport {
    DeliveryReport {
        claim: delivery.claim,
        job: delivery.job,
        seq: delivery.event.seq,
        receiver: delivery.receiver,
        event: delivery.event.state,
        attempt: delivery.attempt,
        started: at,
        ended: at,
        status: None,
        response: None,
        outcome,
        news: LaneNews::Unknown,
        is_probe: delivery.is_probe,
    }
}

/// What came back says this of the receiver. A 410 is the answer of a receiver that works, about one job. It does not prove the
/// lane either: whoever answers 410 to everything takes no webhook.
fn news(received: &Received) -> LaneNews {
    let reaction = &received.reaction;
    if reaction.is_gone() {
        return LaneNews::Unknown;
    }
    let Some(code) = reaction.error_code() else {
        return if received.was_cut_off { LaneNews::SucceededWithoutEnd } else { LaneNews::Succeeded };
    };
    let asks_for_time = matches!(reaction.status(), Some(429 | 503));
    LaneNews::Failed { code, hold: asks_for_time.then(|| reaction.retry_after().unwrap_or(HOLD)) }
}

fn outcome(decision: DeliveryDecision, reaction: &Reaction, endpoint: Option<EndpointId>) -> DeliveryOutcome {
    // Only a delivered webhook has no code, and that one is not retried.
    let code = reaction.error_code().unwrap_or_default();
    match decision {
        DeliveryDecision::Delivered => DeliveryOutcome::Delivered,
        DeliveryDecision::RetryIn(wait) => DeliveryOutcome::Retry { wait, code },
        DeliveryDecision::Uncounted => DeliveryOutcome::Release { wait: Duration::ZERO },
        DeliveryDecision::Failed { code } => DeliveryOutcome::Failed { code },
        // The report disables the endpoint. Once somebody enables it again, it gets this webhook too.
        DeliveryDecision::EndReceiver if endpoint.is_some() => {
            DeliveryOutcome::Retry { wait: Duration::ZERO, code }
        }
        // The next claim finds this failure in the log, and ends the job's later events to this receiver.
        DeliveryDecision::EndReceiver => DeliveryOutcome::Failed { code },
    }
}
