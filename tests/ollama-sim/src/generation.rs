//! One run, from its slot to its last token.
//!
//! A run occupies its slot for as long as it lives: it keeps the slot while the client does not read, and frees it
//! when the client goes away. A run moves only when its next token is asked for, so it produces nothing that no
//! client reads.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, Stream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use crate::faults::{Due, Trouble};
use crate::http::Cut;
use crate::journal::Entry;
use crate::log::Outcome;
use crate::residency::Lease;
use crate::script::{Piece, Plan};
use crate::voice::{End, Said, Voice};

const STOPPED: &str = "model runner has unexpectedly stopped, this may be due to resource limitations or an internal error, \
                       check ollama server logs for details";
const UNEXPECTED_EOF: &str = "an error was encountered while running the model: unexpected EOF";

/// Parts that are due at once are sent in pieces of about this many bytes.
const FRAME: usize = 16 << 10;

/// A run that has its slot.
#[derive(Debug)]
pub(crate) struct Run {
    entry: Entry,
    lease: Lease,
    _slot: OwnedSemaphorePermit,
    plan: Plan,
    voice: Box<dyn Voice>,
    top_logprobs: Option<i64>,
    fault: Option<Due>,
    /// Whether the answer contains the tokens of the prompt as a context.
    context: bool,
    arrived: Instant,
    load: Duration,
    started: Instant,
    first_token: Option<Instant>,
    said: usize,
    calls: usize,
}

/// What a run needs to begin.
#[derive(Debug)]
pub(crate) struct Start {
    pub(crate) entry: Entry,
    pub(crate) lease: Lease,
    pub(crate) plan: Plan,
    pub(crate) voice: Box<dyn Voice>,
    /// How many alternatives are listed with the probability of each token; `None` lists no probabilities.
    pub(crate) top_logprobs: Option<i64>,
    pub(crate) fault: Option<Due>,
    pub(crate) context: bool,
    pub(crate) arrived: Instant,
    pub(crate) load: Duration,
}

/// Why a run did not finish.
#[derive(Debug)]
pub(crate) enum Broken {
    Error { status: u16, text: String },
    EndEarly,
    Cut,
}

impl Run {
    /// Waits for a slot and for the prompt. An error comes with the log entry that it ends.
    pub(crate) async fn begin(start: Start) -> Result<Self, (Entry, Broken)> {
        let Start { mut entry, lease, plan, voice, top_logprobs, fault, context, arrived, load } = start;
        let runner = lease.runner.clone();
        let slot = tokio::select! {
            biased;
            () = runner.killed.cancelled() => return Err((entry, stopped())),
            slot = runner.slots.clone().acquire_owned() => slot,
        };
        // The slots of a runner are never closed.
        let Ok(slot) = slot else { return Err((entry, stopped())) };
        entry.started();
        let started = Instant::now();
        if !plan.prompt_delay.is_zero() {
            tokio::select! {
                () = runner.killed.cancelled() => return Err((entry, stopped())),
                () = tokio::time::sleep(plan.prompt_delay) => {}
            }
        }
        Ok(Self {
            entry,
            lease,
            _slot: slot,
            plan,
            voice,
            top_logprobs,
            fault,
            context,
            arrived,
            load,
            started,
            first_token: None,
            said: 0,
            calls: 0,
        })
    }

    /// Runs to the end and returns the whole answer.
    pub(crate) async fn whole(mut self) -> Result<String, (Entry, Broken)> {
        let mut said = Said::default();
        loop {
            match self.next().await {
                Ok(Some(at)) => self.say(&mut said, at),
                Ok(None) => {
                    let end = self.end();
                    let answer = self.voice.whole(&said, Some(&end));
                    self.entry.end(Outcome::Done);
                    return Ok(answer);
                }
                // The answer is then the text so far, without `done`.
                Err(Broken::EndEarly) => {
                    let answer = self.voice.whole(&said, None);
                    self.entry.end(Outcome::Cut);
                    return Ok(answer);
                }
                Err(broken) => return Err((self.entry, broken)),
            }
        }
    }

    /// The answer as a stream. Returns when its first part is ready, because no headers are sent before it.
    pub(crate) async fn stream(
        mut self,
    ) -> Result<impl Stream<Item = Result<Bytes, Cut>> + Send + 'static, (Entry, Broken)> {
        let first = match self.next().await {
            Ok(first) => first,
            Err(broken) => return Err((self.entry, broken)),
        };
        Ok(stream::unfold(Some((self, Some(first))), |state| async {
            let (run, first) = state?;
            let (frame, run) = run.frame(first).await;
            Some((frame, run.map(|run| (run, None))))
        }))
    }

    /// All parts that are due now, and the run itself unless it has ended. `token` is a token that was already taken.
    async fn frame(mut self, mut token: Option<Option<usize>>) -> (Result<Bytes, Cut>, Option<Self>) {
        let mut frame = String::new();
        loop {
            let next = match token.take() {
                Some(token) => Ok(token),
                // Parts that need no waiting are sent together. The others wait for their time.
                None if frame.is_empty() || self.is_quick() => self.next().await,
                None => return (Ok(frame.into()), Some(self)),
            };
            match next {
                Ok(Some(at)) => {
                    let mut said = Said::default();
                    self.say(&mut said, at);
                    self.voice.part(&mut frame, &said);
                    if frame.len() >= FRAME {
                        return (Ok(frame.into()), Some(self));
                    }
                }
                Ok(None) => {
                    let end = self.end();
                    self.voice.last(&mut frame, &end);
                    self.entry.end(Outcome::Done);
                    return (Ok(frame.into()), None);
                }
                Err(Broken::Error { text, .. }) => {
                    self.voice.failed(&mut frame, &text);
                    self.entry.end(Outcome::Failed);
                    return (Ok(frame.into()), None);
                }
                Err(Broken::EndEarly) => {
                    self.entry.end(Outcome::Cut);
                    return (Ok(frame.into()), None);
                }
                Err(Broken::Cut) => {
                    self.entry.end(Outcome::Cut);
                    return (Err(Cut), None);
                }
            }
        }
    }

    fn say(&mut self, said: &mut Said, at: usize) {
        let piece = &self.plan.pieces[at];
        said.add(piece, self.top_logprobs, self.calls);
        self.calls += usize::from(matches!(piece, Piece::ToolCall(..)));
    }

    fn is_quick(&self) -> bool {
        self.plan.token_delay.is_zero() && self.fault.is_none()
    }

    /// The index of the next piece in the plan, when its time has come; `None` at the end.
    async fn next(&mut self) -> Result<Option<usize>, Broken> {
        let killed = self.lease.runner.killed.clone();
        if let Some(fault) = &self.fault
            && self.said == (fault.tokens as usize).min(self.plan.pieces.len())
        {
            match fault.what.clone() {
                Trouble::Error { status, text } => return Err(Broken::Error { status, text }),
                Trouble::RunnerKilled => killed.cancel(),
                Trouble::Reset => return Err(Broken::Cut),
                Trouble::EndEarly => return Err(Broken::EndEarly),
                Trouble::Hang => match std::future::pending::<Infallible>().await {},
            }
        }
        let delay = self.plan.token_delay;
        if self.said > 0 && !delay.is_zero() {
            tokio::select! {
                biased;
                () = killed.cancelled() => {}
                () = tokio::time::sleep(delay) => {}
            }
        }
        if killed.is_cancelled() {
            return Err(if self.said == 0 { stopped() } else { unexpected_eof() });
        }
        self.first_token.get_or_insert_with(Instant::now);
        if self.said == self.plan.pieces.len() {
            return if self.plan.given_up { Err(Broken::EndEarly) } else { Ok(None) };
        }
        self.entry.token();
        self.said += 1;
        Ok(Some(self.said - 1))
    }

    fn end(&self) -> End {
        let now = Instant::now();
        let first_token = self.first_token.unwrap_or(now);
        let reason = if self.plan.cut { "length" } else { "stop" };
        if !self.plan.metrics {
            return End { reason, ..End::default() };
        }
        let context = match self.context {
            true => {
                (0..self.plan.prompt_tokens.min(2_048) + self.plan.eval_count).map(|i| 259 + i % 97).collect()
            }
            false => Vec::new(),
        };
        End {
            reason,
            context,
            total: now - self.arrived,
            load: self.load,
            prompt_tokens: self.plan.prompt_tokens,
            prompt: whole_micros(first_token - self.started),
            eval_count: self.plan.eval_count,
            eval: whole_micros(now - first_token),
        }
    }
}

fn stopped() -> Broken {
    Broken::Error { status: 500, text: STOPPED.to_owned() }
}

fn unexpected_eof() -> Broken {
    Broken::Error { status: 500, text: UNEXPECTED_EOF.to_owned() }
}

/// Runners count in microseconds, and report at least one.
fn whole_micros(time: Duration) -> Duration {
    Duration::from_micros(u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1))
}
