//! The answers of the attempts that run here, as they come from Ollama. An attempt writes, and any number of readers follow,
//! each at its own place.
//!
//! Must never make an attempt wait for a reader. Must never give out anything of an answer that may still be dropped for
//! another attempt's answer: see [`LiveAnswer::give_out`]. Must never give out an error of Ollama before the fate of its job is
//! decided: see [`LiveAnswer::push_error`].

mod reader;

use std::collections::HashMap;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use foreman_live::{Announcement, End, Head, TOO_LONG};
use foreman_ollama::AnswerHead;
use foreman_store::{ApiId, Exit, JobId};
use moka::sync::Cache;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

pub(crate) use reader::Reader;

/// An answer that has ended is kept for readers that come late: a short answer is complete before its api has asked for it.
/// Postgres has it after this time.
const KEPT_FOR: Duration = Duration::from_secs(10);

/// All ended answers together may hold this many bytes.
const KEPT_BYTES: u64 = 64 << 20;

/// Announcements that may wait for one api. An api that does not read them loses its connection, asks again, and then hears of
/// every running attempt.
const UNHEARD: usize = 1_024;

/// Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct LiveAnswers(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    current: Mutex<Current>,
    ended: Cache<JobId, Arc<Answer>>,
    /// No attempt will begin here any more.
    closed: CancellationToken,
}

#[derive(Debug, Default)]
struct Current {
    answers: HashMap<JobId, Arc<Answer>>,
    listeners: Vec<(ApiId, mpsc::Sender<Announcement>)>,
}

#[derive(Debug)]
struct Answer {
    attempt: i32,
    /// The api whose caller waits for it.
    api: Option<ApiId>,
    state: Mutex<State>,
    changes: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct State {
    head: Option<Head>,
    pieces: Vec<Bytes>,
    /// Whether readers may have what there is.
    is_given_out: bool,
    /// Whether the last piece is an error of Ollama.
    has_error: bool,
    end: Option<End>,
}

/// The attempt's side of a live answer.
#[derive(Debug)]
pub(crate) struct LiveAnswer(Arc<Answer>);

impl Default for LiveAnswers {
    fn default() -> Self {
        let ended = Cache::builder()
            .max_capacity(KEPT_BYTES)
            .weigher(|_, answer: &Arc<Answer>| u32::try_from(answer.state().bytes()).unwrap_or(u32::MAX))
            .time_to_live(KEPT_FOR)
            .build();
        Self(Arc::new(Inner { current: Mutex::default(), ended, closed: CancellationToken::new() }))
    }
}

impl LiveAnswers {
    /// An attempt begins. If an api waits for its answer, the api hears of it.
    pub(crate) fn begin(&self, job: JobId, attempt: i32, api: Option<ApiId>) -> LiveAnswer {
        let (changes, _) = watch::channel(());
        let answer = Arc::new(Answer { attempt, api, state: Mutex::default(), changes });
        let mut current = self.current();
        current.answers.insert(job, Arc::clone(&answer));
        if let Some(api) = api {
            current.listeners.retain(|(listener, sender)| {
                *listener != api || sender.try_send(announcement(job, attempt)).is_ok()
            });
        }
        LiveAnswer(answer)
    }

    /// The job leaves its lease in this way.
    pub(crate) fn settled(&self, job: JobId, exit: &Exit) {
        let failed = |reason: &foreman_store::Reason| {
            (End::Failed { code: reason.code.clone(), error: reason.error.clone(), said: false }, true)
        };
        let (end, keep) = match exit {
            Exit::Done(_) => (End::Done, true),
            Exit::Failed(reason) => failed(reason),
            Exit::Retry { .. } | Exit::HandBack { .. } => (End::Again, false),
            Exit::Cancelled => (End::Cancelled, true),
            Exit::Expired => (End::Expired, true),
        };
        self.end(job, end, keep);
    }

    /// The attempt is over, and nothing is to be recorded of it.
    pub(crate) fn dropped(&self, job: JobId) {
        self.end(job, End::Again, false);
    }

    fn end(&self, job: JobId, end: End, keep: bool) {
        let Some(answer) = self.current().answers.remove(&job) else { return };
        answer.end(end);
        // Nobody waits for the answer of another job so impatiently.
        if keep && answer.api.is_some() {
            self.0.ended.insert(job, answer);
        }
    }

    /// Follows the answer of this attempt, or of the attempt that runs now, from a byte on. Says which attempt it is. `None` if
    /// there is no such attempt here.
    pub(crate) fn follow(&self, job: JobId, attempt: Option<i32>, from: u64) -> Option<(i32, Reader)> {
        let running = self.current().answers.get(&job).cloned();
        let fits = |answer: &Arc<Answer>| attempt.is_none_or(|attempt| attempt == answer.attempt);
        let answer = running.filter(fits).or_else(|| self.0.ended.get(&job).filter(fits))?;
        Some((answer.attempt, Reader::new(answer, from)))
    }

    /// Announces the attempts of this api's calls: those that run now, and those that begin later.
    pub(crate) fn listen(&self, api: ApiId) -> mpsc::Receiver<Announcement> {
        let mut current = self.current();
        let now: Vec<Announcement> = current
            .answers
            .iter()
            .filter(|(_, answer)| answer.api == Some(api))
            .map(|(job, answer)| announcement(*job, answer.attempt))
            .collect();
        let (sender, receiver) = mpsc::channel(UNHEARD + now.len());
        for announcement in now {
            // There is room for all of them.
            _ = sender.try_send(announcement);
        }
        current.listeners.retain(|(_, sender)| !sender.is_closed());
        if !self.0.closed.is_cancelled() {
            current.listeners.push((api, sender));
        }
        receiver
    }

    /// No attempt will begin here any more. Ends all announcements, and every answer that has not ended.
    pub(crate) fn close(&self) {
        let mut current = self.current();
        self.0.closed.cancel();
        current.listeners.clear();
        for (_, answer) in current.answers.drain() {
            answer.end(End::Again);
        }
    }

    /// Waits until [`close`](Self::close) was called.
    pub(crate) async fn closed(&self) {
        self.0.closed.cancelled().await;
    }

    /// Whether a caller may have a part of the answer of the attempt that runs.
    pub(crate) fn has_begun_for_a_caller(&self, job: JobId) -> bool {
        let of_a_caller = |answer: &Arc<Answer>| answer.api.is_some() && answer.state().is_given_out;
        self.current().answers.get(&job).is_some_and(of_a_caller)
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.0.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn announcement(job: JobId, attempt: i32) -> Announcement {
    Announcement { job: job.to_string(), attempt }
}

impl LiveAnswer {
    /// The first head counts.
    pub(crate) fn head(&self, head: Option<&AnswerHead>) {
        let mut state = self.0.state();
        if let (None, Some(AnswerHead { status, content_type, content_length })) = (&state.head, head) {
            let content_type = content_type.clone();
            state.head = Some(Head { status: *status, content_type, content_length: *content_length });
        }
    }

    pub(crate) fn push(&self, piece: Bytes) {
        self.0.state().pieces.push(piece);
        self.0.changes.send_replace(());
    }

    /// Adds the piece with Ollama's own error, which is the last one. Readers get it together with the end of the answer: a
    /// caller that leaves at the error would otherwise have a job cancelled that has failed.
    pub(crate) fn push_error(&self, piece: Bytes) {
        let mut state = self.0.state();
        state.pieces.push(piece);
        state.has_error = true;
    }

    /// Lets readers have what there is, and what comes. From now on no other attempt may answer a caller.
    pub(crate) fn give_out(&self) {
        let was_given_out = mem::replace(&mut self.0.state().is_given_out, true);
        if !was_given_out {
            // A reader may have looked at the first piece before it could have it.
            self.0.changes.send_replace(());
        }
    }

    /// All bytes of the answer so far.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.0.state().pieces.concat()
    }

    /// Ends the answer for its readers while the attempt goes on, and frees its memory.
    pub(crate) fn is_too_long(&self) {
        let error =
            "the answer has become too long to follow; it is in the job's artifact at the end".to_owned();
        self.0.end(End::Failed { code: TOO_LONG.to_owned(), error, said: false });
        self.0.state().pieces = Vec::new();
    }
}

impl Answer {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, end: End) {
        let mut state = self.state();
        if state.end.is_none() {
            let said = state.has_error;
            state.end = Some(match end {
                End::Failed { code, error, .. } => End::Failed { code, error, said },
                end => end,
            });
            // What was held back is the caller's answer now, unless it is dropped.
            let is_answer =
                state.end == Some(End::Done) || (said && matches!(state.end, Some(End::Failed { .. })));
            if is_answer {
                state.is_given_out = true;
            } else if !state.is_given_out {
                state.pieces = Vec::new();
            }
        }
        drop(state);
        self.changes.send_replace(());
    }
}

impl State {
    /// How many pieces readers may have.
    fn ready(&self) -> usize {
        let held_back = usize::from(self.has_error && self.end.is_none());
        if self.is_given_out { self.pieces.len().saturating_sub(held_back) } else { 0 }
    }

    fn bytes(&self) -> usize {
        self.pieces.iter().map(|piece| piece.len() + size_of::<Bytes>()).sum()
    }
}

#[cfg(test)]
mod tests;
