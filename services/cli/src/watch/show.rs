//! Shows the states of a job: in a log with the time of each, on a terminal with how long each takes.

use std::time::Duration;

use chrono::{DateTime, Utc};
use foreman_webhook::rfc3339;
use indicatif::{ProgressBar, ProgressStyle};

use super::exit_code;
use crate::api::Event;
use crate::moment::{between, in_words};
use crate::terminal::{is_watched, one_line, say};

const REDRAW: Duration = Duration::from_millis(100);

pub(super) enum Show {
    Log { is_away: bool },
    Terminal(Box<Terminal>),
}

pub(super) struct Terminal {
    style: ProgressStyle,
    began: Option<DateTime<Utc>>,
    /// The state that the job is in, and the line that shows it.
    current: Option<(Event, ProgressBar)>,
}

impl Show {
    pub(super) fn begin() -> anyhow::Result<Self> {
        if !is_watched() {
            return Ok(Self::Log { is_away: false });
        }
        let style = ProgressStyle::with_template("{prefix:9}  {elapsed_precise}  {spinner}{msg}")?;
        Ok(Self::Terminal(Box::new(Terminal { style, began: None, current: None })))
    }

    /// `is_past` says that the job was in this state before we began to watch.
    pub(super) fn event(&mut self, event: Event, is_past: bool) {
        match self {
            Self::Log { is_away } => {
                *is_away = false;
                say(format_args!("{}  {}{}", rfc3339(event.timestamp), event.state, remark(&event)));
            }
            Self::Terminal(terminal) => terminal.event(event, is_past),
        }
    }

    /// The api cannot be asked for the moment.
    pub(super) fn away(&mut self, why: &str) {
        match self {
            Self::Log { is_away: true } => {}
            Self::Log { is_away } => {
                *is_away = true;
                say(why);
            }
            Self::Terminal(terminal) => terminal.note(format!(" {}", one_line(why))),
        }
    }

    /// It answers.
    pub(super) fn back(&mut self) {
        match self {
            Self::Log { is_away } => *is_away = false,
            Self::Terminal(terminal) => terminal.note(String::new()),
        }
    }
}

impl Terminal {
    fn event(&mut self, event: Event, is_past: bool) {
        if let Some((last, bar)) = self.current.take() {
            bar.finish_and_clear();
            let took = in_words(between(last.timestamp, event.timestamp));
            say(format_args!("{:9}  {took}{}", last.state, remark(&last)));
        }
        let began = *self.began.get_or_insert(event.timestamp);
        if exit_code(&event.state).is_some() {
            let took = in_words(between(began, event.timestamp));
            say(format_args!("{:9}  after {took}{}", event.state, remark(&event)));
            return;
        }
        // This machine's clock may differ from the api's, so time what begins while we watch by our own clock alone.
        let elapsed = if is_past { between(event.timestamp, Utc::now()) } else { Duration::ZERO };
        let bar = ProgressBar::new_spinner().with_style(self.style.clone()).with_elapsed(elapsed);
        bar.set_prefix(event.state.clone());
        bar.enable_steady_tick(REDRAW);
        self.current = Some((event, bar));
    }

    fn note(&mut self, text: String) {
        if let Some((_, bar)) = &self.current {
            bar.set_message(text);
        }
    }
}

fn remark(event: &Event) -> String {
    let attempt = if event.attempt > 1 { format!(" (attempt {})", event.attempt) } else { String::new() };
    let error = event.error.as_deref().map(|error| format!(": {}", one_line(error))).unwrap_or_default();
    format!("{attempt}{error}")
}
