//! The lines that were read and not reported yet. They leave in the order of the file, however they were answered.

use std::collections::VecDeque;
use std::time::Duration;

use reqwest::StatusCode;

use crate::api::{ApiError, LineReply};

/// Enough to keep the api busy. The api accepts ten times as many.
const BATCH_LINES: usize = 1_000;
pub(super) const BATCH_BYTES: usize = 4 << 20;

/// One line of the file.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) number: u64,
    /// How many bytes of the file end with it.
    pub(super) end: u64,
    state: State,
}

#[derive(Debug)]
enum State {
    /// The job, as it is sent.
    ToSend(String),
    Settled(Outcome),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    Accepted { job: String },
    Refused { status: u16, error: String },
}

impl Line {
    pub(super) fn new(number: u64, end: u64, job: Result<String, String>) -> Self {
        let state = match job {
            Ok(job) => State::ToSend(job),
            Err(error) => State::Settled(Outcome::Refused { status: 400, error }),
        };
        Self { number, end, state }
    }

    fn bytes(&self) -> usize {
        match &self.state {
            State::ToSend(job) => job.len(),
            State::Settled(_) => 0,
        }
    }
}

/// The lines of one request, by their indexes in the window. No line leaves the window while the request is under way.
pub(super) struct Batch {
    indexes: Vec<usize>,
    pub(super) body: String,
    pub(super) bytes: usize,
}

impl Batch {
    pub(super) fn is_one_line(&self) -> bool {
        self.indexes.len() == 1
    }
}

/// What a reply says beside the outcomes that it brought.
#[derive(Debug, Default)]
pub(super) struct Settled {
    pub(super) outcomes: usize,
    /// Why some lines have to be sent again.
    pub(super) busy: Option<ApiError>,
}

#[derive(Default)]
pub(super) struct Window {
    lines: VecDeque<Line>,
    bytes: usize,
}

impl Window {
    /// Holds two batches: one that is under way, and one that is being read behind it.
    pub(super) fn has_room(&self) -> bool {
        self.lines.len() < 2 * BATCH_LINES && self.bytes < 2 * BATCH_BYTES
    }

    pub(super) fn push(&mut self, line: Line) {
        self.bytes += line.bytes();
        self.lines.push_back(line);
    }

    /// The lines to send next: as many as `limit` bytes hold, but one at least. `None` if none waits.
    pub(super) fn batch(&self, limit: usize) -> Option<Batch> {
        let mut batch = Batch { indexes: Vec::new(), body: String::new(), bytes: 0 };
        for (index, line) in self.lines.iter().enumerate() {
            let State::ToSend(job) = &line.state else { continue };
            let is_full = batch.indexes.len() == BATCH_LINES || batch.body.len() + job.len() > limit;
            if is_full && !batch.indexes.is_empty() {
                break;
            }
            batch.indexes.push(index);
            batch.body.push_str(job);
            batch.body.push('\n');
            batch.bytes = batch.body.len();
        }
        (!batch.indexes.is_empty()).then_some(batch)
    }

    /// Records what became of the lines of a batch. `Err` where the reply does not fit these lines.
    pub(super) fn settle(&mut self, batch: &Batch, replies: Vec<LineReply>) -> Result<Settled, String> {
        let (sent, answered) = (batch.indexes.len(), replies.len());
        if sent != answered {
            return Err(format!("it answers {answered} of {sent} lines"));
        }
        let mut settled = Settled::default();
        for (at, reply) in replies.into_iter().enumerate() {
            let LineReply { line, status, job_id, error } = reply;
            let busy = |status, sentence| ApiError::Busy { status, sentence, retry_after: Duration::ZERO };
            let outcome = match (status, job_id, error) {
                _ if line != at + 1 => {
                    return Err(format!("it answers line {line} where {} was due", at + 1));
                }
                (200..=299, Some(job), _) => Outcome::Accepted { job },
                (429, _, Some(error)) => {
                    settled.busy = Some(busy(StatusCode::TOO_MANY_REQUESTS, error));
                    continue;
                }
                (503, _, Some(error)) => {
                    settled.busy.get_or_insert(busy(StatusCode::SERVICE_UNAVAILABLE, error));
                    continue;
                }
                (400..=599, _, Some(error)) => Outcome::Refused { status, error },
                _ => return Err(format!("it answers line {line} with status {status} and nothing else")),
            };
            settled.outcomes += 1;
            self.set_outcome(batch.indexes[at], outcome);
        }
        Ok(settled)
    }

    /// Refuses every line of a batch.
    pub(super) fn refuse(&mut self, batch: &Batch, status: u16, error: &str) {
        for index in &batch.indexes {
            self.set_outcome(*index, Outcome::Refused { status, error: error.to_owned() });
        }
    }

    fn set_outcome(&mut self, index: usize, outcome: Outcome) {
        let line = &mut self.lines[index];
        self.bytes -= line.bytes();
        line.state = State::Settled(outcome);
    }

    /// The next line in the order of the file, once its outcome is known.
    pub(super) fn pop(&mut self) -> Option<(Line, Outcome)> {
        let State::Settled(outcome) = &self.lines.front()?.state else { return None };
        let outcome = outcome.clone();
        Some((self.lines.pop_front()?, outcome))
    }
}
