//! How far a file has come: a bar where a person watches, a line now and then where a log is written.

use std::fmt::Display;
use std::time::Duration;

use indicatif::{HumanCount, ProgressBar, ProgressStyle};
use tokio::time::Instant;

use super::window::Outcome;
use crate::terminal::{is_watched, say};

const REDRAW: Duration = Duration::from_millis(200);
/// Between two lines of a log.
const SAY_EVERY: Duration = Duration::from_secs(10);
/// The same where only the time has changed: a queue may be full for hours.
const SAY_AGAIN: Duration = Duration::from_secs(60);

pub(super) struct Progress {
    bar: Option<ProgressBar>,
    said: Instant,
    /// What was last said to be waited for.
    waits_for: String,
    counts: Counts,
}

#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Counts {
    pub(super) accepted: u64,
    pub(super) refused: u64,
}

impl Progress {
    /// `bytes` is the size of the file, where it has one.
    pub(super) fn begin(bytes: Option<u64>) -> anyhow::Result<Self> {
        let bar = match (is_watched(), bytes) {
            (false, _) => None,
            (true, Some(bytes)) => {
                let style = "{bar:30} {percent:>3} %  {elapsed}, {eta} left  {wide_msg}";
                Some(ProgressBar::new(bytes).with_style(ProgressStyle::with_template(style)?))
            }
            (true, None) => {
                let style = "{spinner} {elapsed}  {wide_msg}";
                Some(ProgressBar::new_spinner().with_style(ProgressStyle::with_template(style)?))
            }
        };
        if let Some(bar) = &bar {
            bar.enable_steady_tick(REDRAW);
        }
        Ok(Self { bar, said: Instant::now(), waits_for: String::new(), counts: Counts::default() })
    }

    pub(super) fn count(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Accepted { .. } => self.counts.accepted += 1,
            Outcome::Refused { .. } => self.counts.refused += 1,
        }
    }

    /// So many bytes of the file are done with.
    pub(super) fn reached(&mut self, bytes: u64) {
        match &self.bar {
            Some(bar) => {
                bar.set_position(bytes);
                bar.set_message(self.counts.in_words());
            }
            None if self.said.elapsed() >= SAY_EVERY => {
                self.say(format_args!("{} so far", self.counts.in_words()))
            }
            None => {}
        }
    }

    /// Nothing moves for the moment.
    pub(super) fn waits(&mut self, why: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(format!("{}, waiting: {why}", self.counts.in_words())),
            None if self.waits_for == why && self.said.elapsed() < SAY_AGAIN => {}
            None => {
                self.waits_for = why.to_owned();
                self.say(format_args!("{} so far; waiting: {why}", self.counts.in_words()));
            }
        }
    }

    pub(super) fn say(&mut self, text: impl Display) {
        self.said = Instant::now();
        self.aside(|| say(text));
    }

    /// Something else is written meanwhile, and may go to the same terminal.
    pub(super) fn aside<T>(&self, write: impl FnOnce() -> T) -> T {
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    /// Leaves no trace on the terminal.
    pub(super) fn end(self) -> Counts {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
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
