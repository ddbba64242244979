//! The lines on their way: read, but not all of them answered. They leave in the order in which they came.

use std::collections::VecDeque;

use reqwest::StatusCode;

use crate::api::Answered;

/// Enough to keep the api busy; it takes ten times as many.
const BATCH_LINES: usize = 1_000;
pub(super) const BATCH_BYTES: usize = 4 << 20;

/// One line, and what is to become of it.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) number: u64,
    /// How many bytes of the file end with it.
    pub(super) end: u64,
    /// The job to send, until there is an outcome.
    state: State,
}

#[derive(Debug)]
enum State {
    Waits(String),
    Ended(Outcome),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    Accepted { job: String },
    Refused { status: u16, error: String },
}

impl Line {
    pub(super) fn new(number: u64, end: u64, job: Result<String, String>) -> Self {
        let state = match job {
            Ok(job) => State::Waits(job),
            Err(error) => State::Ended(Outcome::Refused { status: 400, error }),
        };
        Self { number, end, state }
    }

    fn bytes(&self) -> usize {
        match &self.state {
            State::Waits(job) => job.len(),
            State::Ended(_) => 0,
        }
    }
}

/// Lines that go in one request, by their places in the window, which stay while it is under way.
pub(super) struct Batch {
    places: Vec<usize>,
    pub(super) body: String,
    pub(super) bytes: usize,
}

impl Batch {
    pub(super) fn is_one_line(&self) -> bool {
        self.places.len() == 1
    }
}

/// What the answers say beside the outcomes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Answers {
    pub(super) outcomes: usize,
    /// Why there are lines that have to wait, in the api's words.
    pub(super) later: Option<(StatusCode, String)>,
}

#[derive(Default)]
pub(super) struct Window {
    lines: VecDeque<Line>,
    bytes: usize,
}

impl Window {
    /// Two batches: one under way, and one that gathers behind it.
    pub(super) fn has_room(&self) -> bool {
        self.lines.len() < 2 * BATCH_LINES && self.bytes < 2 * BATCH_BYTES
    }

    pub(super) fn push(&mut self, line: Line) {
        self.bytes += line.bytes();
        self.lines.push_back(line);
    }

    /// The lines to send next: as many as `limit` bytes hold, but one at least. `None` if none waits.
    pub(super) fn batch(&self, limit: usize) -> Option<Batch> {
        let mut batch = Batch { places: Vec::new(), body: String::new(), bytes: 0 };
        for (place, line) in self.lines.iter().enumerate() {
            let State::Waits(job) = &line.state else { continue };
            let is_full = batch.places.len() == BATCH_LINES || batch.body.len() + job.len() > limit;
            if is_full && !batch.places.is_empty() {
                break;
            }
            batch.places.push(place);
            batch.body.push_str(job);
            batch.body.push('\n');
            batch.bytes = batch.body.len();
        }
        (!batch.places.is_empty()).then_some(batch)
    }

    /// Takes in what became of a batch; `Err` where the answers are not those of its lines.
    pub(super) fn settle(&mut self, batch: &Batch, answers: Vec<Answered>) -> Result<Answers, String> {
        let (sent, answered) = (batch.places.len(), answers.len());
        if sent != answered {
            return Err(format!("it answers {answered} of {sent} lines"));
        }
        let mut taken = Answers::default();
        for (at, answer) in answers.into_iter().enumerate() {
            let Answered { line, status, job_id, error } = answer;
            let outcome = match (status, job_id, error) {
                _ if line != at + 1 => {
                    return Err(format!("it answers line {line} where {} was due", at + 1));
                }
                (200..=299, Some(job), _) => Outcome::Accepted { job },
                (429, _, Some(error)) => {
                    taken.later = Some((StatusCode::TOO_MANY_REQUESTS, error));
                    continue;
                }
                (503, _, Some(error)) => {
                    taken.later.get_or_insert((StatusCode::SERVICE_UNAVAILABLE, error));
                    continue;
                }
                (400..=599, _, Some(error)) => Outcome::Refused { status, error },
                _ => return Err(format!("it answers line {line} with status {status} and nothing else")),
            };
            taken.outcomes += 1;
            self.end(batch.places[at], outcome);
        }
        Ok(taken)
    }

    /// Ends the one line of a batch that was refused as a whole.
    pub(super) fn refuse(&mut self, batch: &Batch, status: u16, error: &str) {
        for place in &batch.places {
            self.end(*place, Outcome::Refused { status, error: error.to_owned() });
        }
    }

    fn end(&mut self, place: usize, outcome: Outcome) {
        let line = &mut self.lines[place];
        self.bytes -= line.bytes();
        line.state = State::Ended(outcome);
    }

    /// The next line in the order of the file, once its outcome is known.
    pub(super) fn pop(&mut self) -> Option<(Line, Outcome)> {
        let State::Ended(outcome) = &self.lines.front()?.state else { return None };
        let outcome = outcome.clone();
        Some((self.lines.pop_front()?, outcome))
    }
}
