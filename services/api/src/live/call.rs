//! One sync call from its acceptance to the end of its answer: it waits for an attempt, follows the attempt's answer, and falls
//! back to Postgres where no worker can give it.
//!
//! Must never give out a byte of one attempt after bytes of another one.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use foreman_live::{End, Frame, Head};
use foreman_runtime::background::one_line;
use foreman_runtime::metrics::Metric;
use foreman_store::{ClientId, JobId, Scope, StoreError};
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Fuse};
use metrics::gauge;
use tokio::time::{Instant, sleep_until, timeout};

use super::Signs;
use super::announcements::{AttemptAddress, Expected};
use super::following::{FollowError, Following};
use super::hang_ups::Guard;
use super::stored::{self, Ended, Outcome, Stored};
use crate::app::Shared;
use crate::forecasts::{Prospect, QueuedJob};
use crate::watch::{Until, WaitPermit, Waited};

/// The longest time for which a call waits. Its job has expired by then.
const FOR_EVER: Duration = Duration::from_secs(90 * 24 * 3_600);

/// When the connection to a worker breaks in the middle of an answer, it is tried again after these waits. Together they are
/// shorter than any TTL: a worker that is gone must be noticed before its job may run elsewhere.
const TRY_AGAIN: [Duration; 3] = [Duration::ZERO, Duration::from_millis(100), Duration::from_millis(400)];

/// A worker writes the outcome of a job right after it has given out the answer. If the outcome is not in Postgres after this
/// time, the worker was perhaps lost between the two. This is shorter than the shortest TTL.
const OUTCOME_WITHIN: Duration = Duration::from_secs(1);

pub(crate) const SYNC_WAITING: Metric = Metric::gauge(
    "foreman_sync_waiting",
    "Callers of the sync routes of this api that wait for the first byte of an answer.",
);

/// What a call learns next.
#[derive(Debug)]
pub(crate) enum News {
    Head(Head),
    Piece(Bytes),
    /// It is time to show the caller that the call is alive.
    StillWaiting {
        /// Whether an attempt runs now.
        runs: bool,
    },
    /// Nothing comes after this.
    End(End),
}

/// A call whose answer is still to come, or on its way.
pub(crate) struct Call {
    app: Shared,
    client: ClientId,
    expected: Expected,
    guard: Option<Guard>,
    permit: Arc<WaitPermit>,
    /// Resolves when Postgres has news of the job: its end, or, once bytes were given out, that no worker holds it any more.
    /// Also when this process stops.
    news: Fuse<BoxFuture<'static, Waited>>,
    source: Source,
    /// How many bytes of the answer were given out. All of them are of one attempt.
    given: u64,
    has_head: bool,
    /// Until the answer begins.
    waiting: Option<Waiting>,
    sign_at: Instant,
    signs_every: Duration,
    asked_at: Instant,
    /// How long it had waited when its first attempt began.
    waited: Option<Duration>,
}

/// Shows the count from the start, at 0.
pub(crate) fn none_waits_yet() {
    gauge!(SYNC_WAITING.name).set(0);
}

/// Counts a call that waits for its answer.
struct Waiting;

impl Waiting {
    fn begin() -> Self {
        gauge!(SYNC_WAITING.name).increment(1);
        Self
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        gauge!(SYNC_WAITING.name).decrement(1);
    }
}

enum Source {
    /// No attempt is followed.
    Nothing,
    Worker(Following, AttemptAddress),
    Postgres(Box<Stored>),
}

impl Call {
    pub(crate) fn new(app: Shared, client: ClientId, guard: Guard, permit: WaitPermit, signs: Signs) -> Self {
        let mut call = Self {
            expected: app.attempts.expect(guard.job()),
            client,
            guard: Some(guard),
            permit: Arc::new(permit),
            news: pending().boxed().fuse(),
            source: Source::Nothing,
            given: 0,
            has_head: false,
            waiting: Some(Waiting::begin()),
            sign_at: Instant::now() + signs.first_after,
            signs_every: signs.every,
            asked_at: Instant::now(),
            waited: None,
            app,
        };
        call.listen();
        call
    }

    /// The job runs already, perhaps for another api, which alone hears of its attempt.
    pub(crate) async fn catch_up(&mut self) -> Result<(), StoreError> {
        let place = self.app.store.place_of(Scope::Client(self.client), self.job()).await?;
        if let Some(foreman_store::LeaseAddress { url: Some(url), attempt, .. }) = place {
            self.follow(AttemptAddress { url: url.into(), attempt }).await;
        }
        Ok(())
    }

    pub(crate) fn job(&self) -> JobId {
        self.expected.job()
    }

    /// How long the call had waited when its first attempt began. `None` before that.
    pub(crate) fn waited(&self) -> Option<Duration> {
        self.waited
    }

    /// What is known of the call while it waits. `model` is as Ollama compares it.
    pub(crate) async fn prospect(&mut self, model: &str) -> Prospect {
        let (job, client, model) = (self.job(), self.client, model.to_owned());
        let made = i64::try_from(job.timestamp_ms()).ok().and_then(DateTime::from_timestamp_millis);
        let eligible_at = made.unwrap_or_default();
        let waiting = QueuedJob { job, client, model, eligible_at, is_retry: false };
        self.app.prospect_of(&waiting).await
    }

    /// Postgres' time.
    pub(crate) fn now(&self) -> DateTime<Utc> {
        self.app.store.clock().now()
    }

    /// Waits for the next news. A call that is dropped before its end cancels its job.
    pub(crate) async fn next(&mut self) -> News {
        loop {
            if let Some(news) = self.step().await {
                if let News::End(end) = &news {
                    self.has_ended(end);
                }
                return news;
            }
        }
    }

    async fn step(&mut self) -> Option<News> {
        let (signs, unanswered) = (!self.has_head, self.given == 0);
        match &mut self.source {
            Source::Nothing => tokio::select! {
                biased;
                place = self.expected.next() => self.follow(place).await,
                waited = &mut self.news => self.look_at_postgres(waited).await,
                () = sleep_until(self.sign_at), if signs => Some(self.sign(false)),
            },
            Source::Worker(following, place) => tokio::select! {
                biased;
                frame = following.next() => match frame {
                    Ok(frame) => self.came(frame),
                    Err(error) => {
                        tracing::warn!(worker = %place.url, error = one_line(error), "the answer of a call broke off");
                        let place = place.clone();
                        self.broken_off(place).await
                    }
                },
                // The worker that is followed was lost, and another one runs the job again.
                place = self.expected.next(), if unanswered => self.follow(place).await,
                waited = &mut self.news => self.look_at_postgres(waited).await,
                () = sleep_until(self.sign_at), if signs => Some(self.sign(true)),
            },
            Source::Postgres(stored) => match stored.next(self.given).await {
                Ok(frame) => self.came(frame),
                Err(error) => {
                    tracing::warn!(error = one_line(error), "a stored answer could not be read");
                    Some(News::End(lost()))
                }
            },
        }
    }

    fn came(&mut self, frame: Frame) -> Option<News> {
        match frame {
            // After a break the head comes again.
            Frame::Head(_) if self.has_head => None,
            Frame::Head(head) => {
                self.has_head = true;
                self.waiting = None;
                Some(News::Head(head))
            }
            Frame::Piece(bytes) => {
                let is_first = self.given == 0;
                self.given += bytes.len() as u64;
                if is_first {
                    self.listen();
                }
                Some(News::Piece(bytes))
            }
            // Another attempt follows, or a janitor ends the job.
            Frame::End(End::Again) if self.given == 0 => {
                (self.source, self.has_head) = (Source::Nothing, false);
                None
            }
            Frame::End(End::Again) => Some(News::End(lost())),
            Frame::End(end) => Some(News::End(end)),
        }
    }

    /// Waits for news in Postgres: for the end of the job, or, once bytes were given out, for the job to leave its worker.
    fn listen(&mut self) {
        let until = if self.given == 0 { Until::End } else { Until::Unheld };
        let (permit, client, job) = (Arc::clone(&self.permit), self.client, self.job());
        let wait = async move { permit.wait(client, job, until, Instant::now() + FOR_EVER).await };
        self.news = wait.boxed().fuse();
    }

    fn sign(&mut self, runs: bool) -> News {
        self.sign_at = Instant::now() + self.signs_every;
        News::StillWaiting { runs }
    }

    /// Begins to follow an attempt. If that fails, the call waits for the next attempt or for the end in Postgres.
    async fn follow(&mut self, place: AttemptAddress) -> Option<News> {
        self.waited.get_or_insert(self.asked_at.elapsed());
        match self.open(&place).await {
            Ok(following) => self.source = Source::Worker(following, place),
            Err(error) => {
                tracing::warn!(worker = %place.url, error = one_line(error), "the answer of a call cannot be followed");
            }
        }
        None
    }

    /// The connection to the worker has broken. Without a byte of the answer the call waits on. Otherwise it must go on with the
    /// same attempt, or end.
    async fn broken_off(&mut self, place: AttemptAddress) -> Option<News> {
        self.source = Source::Nothing;
        self.listen();
        if self.given == 0 {
            self.has_head = false;
            return None;
        }
        for wait in TRY_AGAIN {
            if let Ok(waited) = timeout(wait, &mut self.news).await {
                return self.look_at_postgres(waited).await;
            }
            if let Ok(following) = self.open(&place).await {
                self.source = Source::Worker(following, place);
                return None;
            }
        }
        Some(News::End(lost()))
    }

    /// Postgres has news of the job.
    async fn look_at_postgres(&mut self, waited: Waited) -> Option<News> {
        if !matches!(waited, Waited::Reached { .. }) {
            // This process stops. The call goes on until its time is up, as long as its worker can give it the answer.
            return None;
        }
        let is_followed = matches!(self.source, Source::Worker(..));
        let Ended { attempt, outcome } = match stored::ended(&self.app.store, self.client, self.job()).await {
            Ok(Some(ended)) => ended,
            // The job was taken from its worker, and would run again.
            Ok(None) if self.given > 0 => return Some(News::End(lost())),
            Ok(None) => {
                self.listen();
                return None;
            }
            Err(error) => {
                tracing::warn!(error = one_line(error), "the end of a call could not be read");
                self.listen();
                return None;
            }
        };
        match outcome {
            // The caller reads slowly: the worker has the rest of the answer.
            Outcome::Answer(_) if is_followed && self.given > 0 => None,
            Outcome::Answer(stored) => {
                self.source = Source::Postgres(stored);
                None
            }
            // The worker tells more about a failure than Postgres: Ollama's own status and words.
            Outcome::None(End::Failed { .. }) if is_followed => None,
            Outcome::None(end @ End::Failed { .. }) => {
                if self.find_kept_answer(attempt).await {
                    return None;
                }
                Some(News::End(end))
            }
            Outcome::None(end) => Some(News::End(end)),
        }
    }

    /// Looks for the worker that still keeps the answer of an attempt which this api has not heard of.
    async fn find_kept_answer(&mut self, attempt: i32) -> bool {
        if self.given > 0 {
            return false;
        }
        let addresses = self.app.workers.addresses().borrow().clone();
        for address in addresses {
            let place = AttemptAddress { url: address.url.into(), attempt };
            if let Ok(following) = self.open(&place).await {
                self.source = Source::Worker(following, place);
                return true;
            }
        }
        false
    }

    /// Opens the answer of an attempt after the bytes that were given out.
    async fn open(&mut self, place: &AttemptAddress) -> Result<Following, FollowError> {
        Following::open(&self.app.workers, &place.url, self.job(), place.attempt, self.given).await
    }

    /// The answer is complete, or will never be.
    fn has_ended(&mut self, end: &End) {
        let Some(guard) = self.guard.take() else { return };
        match (&self.source, end) {
            // Postgres has the outcome.
            (Source::Postgres(_), _) => guard.done(),
            (_, End::Failed { code, .. }) if code == LOST => drop(guard),
            _ => {
                // The worker writes the outcome now. If it dies before that, or has lost the job, the job runs again, and nobody
                // would hear that answer.
                let (permit, client, deadline) =
                    (Arc::clone(&self.permit), self.client, Instant::now() + OUTCOME_WITHIN);
                tokio::spawn(async move {
                    match permit.wait(client, guard.job(), Until::Unheld, deadline).await {
                        Waited::Reached { has_ended: true } => guard.done(),
                        Waited::Reached { has_ended: false } | Waited::TimedOut | Waited::Stopping => {
                            drop(guard)
                        }
                    }
                });
            }
        }
    }
}

/// The code of a call whose answer broke off.
const LOST: &str = "worker_lost";

fn lost() -> End {
    End::Failed {
        code: LOST.to_owned(),
        error: "the worker that ran the model was lost in the middle of its answer; ask again".to_owned(),
        said: false,
    }
}
