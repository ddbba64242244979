//! How far a file has come: a bar where a person watches, a line now and then where a log is written.

use std::fmt::Display;
use std::time::Duration;

use indicatif::{HumanCount, ProgressBar, ProgressStyle};
use tokio::time::Instant;

use super::window::Outcome;
use crate::terminal::say;

const REDRAW: Duration = Duration::from_millis(200);
/// Between two lines of a log.
const SAY_EVERY: Duration = Duration::from_secs(10);
/// Between two lines that say the same reason for waiting: a queue may be full for hours.
const SAY_AGAIN: Duration = Duration::from_secs(60);

pub(super) struct Progress {
    /// Hidden where standard error is no terminal.
    bar: ProgressBar,
    said: Instant,
    /// The last reason for waiting that was said.
    waits_for: String,
    counts: Counts,
}

#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Counts {
    pub(super) accepted: u64,
    pub(super) refused: u64,
}

impl Progress {
    /// `bytes` is the size of the file; a pipe has none.
    pub(super) fn begin(bytes: Option<u64>) -> anyhow::Result<Self> {
        let (bar, template) = match bytes {
            Some(bytes) => {
                (ProgressBar::new(bytes), "{bar:30} {percent:>3} %  {elapsed}, {eta} left  {wide_msg}")
            }
            None => (ProgressBar::new_spinner(), "{spinner} {elapsed}  {wide_msg}"),
        };
        bar.set_style(ProgressStyle::with_template(template)?);
        bar.enable_steady_tick(REDRAW);
        Ok(Self { bar, said: Instant::now(), waits_for: String::new(), counts: Counts::default() })
    }

    pub(super) fn count(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Accepted { .. } => self.counts.accepted += 1,
            Outcome::Refused { .. } => self.counts.refused += 1,
        }
    }

    /// The outcomes of this many bytes of the file are reported.
    pub(super) fn reached(&mut self, bytes: u64) {
        self.bar.set_position(bytes);
        self.bar.set_message(self.counts.in_words());
        if self.bar.is_hidden() && self.said.elapsed() >= SAY_EVERY {
            self.say(format_args!("{} so far", self.counts.in_words()));
        }
    }

    /// Nothing moves for the moment.
    pub(super) fn waits(&mut self, why: &str) {
        self.bar.set_message(format!("{}, waiting: {why}", self.counts.in_words()));
        if self.bar.is_hidden() && (self.waits_for != why || self.said.elapsed() >= SAY_AGAIN) {
            why.clone_into(&mut self.waits_for);
            self.say(format_args!("{} so far; waiting: {why}", self.counts.in_words()));
        }
    }

    pub(super) fn say(&mut self, text: impl Display) {
        self.said = Instant::now();
        self.bar.suspend(|| say(text));
    }

    /// Takes the bar away while something else is written, which may go to the same terminal.
    pub(super) fn suspend<T>(&self, write: impl FnOnce() -> T) -> T {
        self.bar.suspend(write)
    }

    /// Leaves no trace on the terminal.
    pub(super) fn end(self) -> Counts {
        self.bar.finish_and_clear();
        self.counts
    }
}

impl Counts {
    pub(super) fn in_words(self) -> String {
        let Self { accepted, refused } = self;
        let jobs = format!("{} {}", HumanCount(accepted), if accepted == 1 { "job" } else { "jobs" });
        match refused {
            0 => jobs,
            1 => format!("{jobs}, 1 line refused"),
            _ => format!("{jobs}, {} lines refused", HumanCount(refused)),
        }
    }
}
