//! A file of jobs, or a pipe: read as it comes, sent in batches, answered in order.
//!
//! Nothing is kept between two runs. Every line goes out under an idempotency key, so that asking again is always safe:
//! after a refusal for the moment, after an api that went away, and after Ctrl-C, by the same command.

use std::io;
use std::mem;
use std::path::Path;
use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use reqwest::StatusCode;
use serde_json::json;
use tokio::fs::File;
use tokio::io::AsyncRead;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::sleep;

use super::Args;
use super::lines::{Lines, RawLine};
use super::patience::Patience;
use super::progress::Progress;
use super::refusal::Refusal;
use super::template::Template;
use super::window::{BATCH_BYTES, Batch, Line, Outcome, Window};
use crate::api::{Answered, Api, ApiError};
use crate::exit;
use crate::terminal::{PrintError, print_raw, say, sentence};

const OWN_LIMIT: StatusCode = StatusCode::TOO_MANY_REQUESTS;

pub(super) async fn run(api: &Api, file: &Path, args: &Args) -> anyhow::Result<ExitCode> {
    let mut interrupts = signal(SignalKind::interrupt())?;
    let (source, size) = open(file).await.with_context(|| format!("{} cannot be read", file.display()))?;
    let mut submission = Submission {
        api,
        lines: Lines::of(source),
        template: Template::of(args)?,
        window: Window::default(),
        progress: Progress::begin(size)?,
        json: args.json,
        reading: Reading::On,
        batch_bytes: BATCH_BYTES,
        patience: Patience::new(),
    };
    let ended = submission.run(&mut interrupts).await;
    let Submission { progress, reading, .. } = submission;
    let counts = progress.end();
    let after = || format!("stopped after {}; the same command goes on from there", counts.in_words());
    match (ended, reading) {
        (Err(error), _) if counts.accepted == 0 => Err(error),
        (Err(error), _) => Err(error).with_context(after),
        (Ok(Ended::Interrupted), _) => {
            say(format_args!(
                "Interrupted after {}; the same command goes on from there.",
                counts.in_words()
            ));
            Ok(exit::INTERRUPTED.into())
        }
        (Ok(Ended::Done), Reading::Failed(error)) => {
            Err(error).with_context(|| format!("{} cannot be read on", file.display())).with_context(after)
        }
        (Ok(Ended::Done), _) => {
            say(format_args!("{}.", counts.in_words()));
            Ok(if counts.refused == 0 { ExitCode::SUCCESS } else { exit::SOME_REFUSED.into() })
        }
    }
}

type Source = Box<dyn AsyncRead + Unpin>;

/// The file and, where it is no pipe, its size.
async fn open(file: &Path) -> io::Result<(Source, Option<u64>)> {
    if file == Path::new("-") {
        return Ok((Box::new(tokio::io::stdin()), None));
    }
    let file = File::open(file).await?;
    let about = file.metadata().await?;
    if about.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    Ok((Box::new(file), about.is_file().then_some(about.len())))
}

struct Submission<'a> {
    api: &'a Api,
    lines: Lines<Source>,
    template: Template,
    window: Window,
    progress: Progress,
    json: bool,
    reading: Reading,
    /// Less than at first once an api or a gateway has found a batch too large.
    batch_bytes: usize,
    patience: Patience,
}

enum Reading {
    On,
    Ended,
    /// What was read before goes out all the same.
    Failed(io::Error),
}

enum Ended {
    Done,
    Interrupted,
}

impl Submission<'_> {
    async fn run(&mut self, interrupts: &mut Signal) -> anyhow::Result<Ended> {
        let mut is_stopping = false;
        loop {
            self.report()?;
            if is_stopping {
                return Ok(Ended::Interrupted);
            }
            let Some(mut batch) = self.window.batch(self.batch_bytes) else {
                if !matches!(self.reading, Reading::On) {
                    return Ok(Ended::Done);
                }
                tokio::select! {
                    line = self.lines.next() => self.take(line),
                    _ = interrupts.recv() => return Ok(Ended::Interrupted),
                }
                continue;
            };
            let mut sending = pin!(self.api.submit_batch(mem::take(&mut batch.body)));
            let answered = loop {
                let may_read = matches!(self.reading, Reading::On) && !is_stopping && self.window.has_room();
                tokio::select! {
                    answered = &mut sending => break answered,
                    line = self.lines.next(), if may_read => self.take(line),
                    _ = interrupts.recv() => {
                        if is_stopping {
                            return Ok(Ended::Interrupted);
                        }
                        is_stopping = true;
                        self.progress.say("Stopping once what was sent is answered; Ctrl-C again stops at once.");
                    }
                }
            };
            let Some(wait) = self.take_in(&batch, answered)? else { continue };
            self.report()?;
            tokio::select! {
                () = sleep(wait), if !is_stopping => {}
                _ = interrupts.recv(), if !is_stopping => is_stopping = true,
                else => {}
            }
        }
    }

    fn take(&mut self, line: io::Result<Option<RawLine>>) {
        match line {
            Ok(Some(RawLine { text: Some(text), .. })) if text.trim_ascii().is_empty() => {}
            Ok(Some(RawLine { number, end, text })) => {
                let job = match text {
                    Some(text) => self.template.job(&text),
                    None => Err("it is too long to be a job".to_owned()),
                };
                self.window.push(Line::new(number, end, job));
            }
            Ok(None) => self.reading = Reading::Ended,
            Err(error) => self.reading = Reading::Failed(error),
        }
    }

    /// How long to wait before asking again, if that is needed.
    fn take_in(
        &mut self,
        batch: &Batch,
        answered: Result<Vec<Answered>, ApiError>,
    ) -> anyhow::Result<Option<Duration>> {
        let was_reached = self.patience.was_reached;
        self.patience.was_reached |= !matches!(answered, Err(ApiError::Away { .. }));
        let (is_own_limit, at_least, error) = match answered {
            Ok(answers) => {
                let taken = self.window.settle(batch, answers).map_err(|reason| self.api.strange(&reason))?;
                if taken.outcomes > 0 {
                    self.patience.renew();
                }
                match taken.later {
                    None => return Ok(None),
                    Some((status, sentence)) => (status == OWN_LIMIT, Duration::ZERO, anyhow!(sentence)),
                }
            }
            Err(ApiError::Refused { status: StatusCode::PAYLOAD_TOO_LARGE, sentence }) => {
                if batch.is_one_line() {
                    self.window.refuse(batch, StatusCode::PAYLOAD_TOO_LARGE.as_u16(), &sentence);
                } else {
                    self.batch_bytes = batch.bytes / 2;
                }
                return Ok(None);
            }
            // An api that was never there is more likely to be named wrongly than to be restarted.
            Err(error @ ApiError::Away { .. }) if !was_reached => {
                return Err(error.into());
            }
            Err(error) if error.is_away() => (false, Duration::ZERO, error.into()),
            Err(ApiError::Busy { status, retry_after, sentence }) => {
                (status == OWN_LIMIT, retry_after, anyhow!(sentence))
            }
            Err(error) => return Err(error.into()),
        };
        match self.patience.wait(is_own_limit, at_least) {
            Some(wait) => {
                self.progress.waits(&sentence(&error));
                Ok(Some(wait))
            }
            None => Err(error),
        }
    }

    /// Tells of every line that is known to have ended and has none before it that has not.
    fn report(&mut self) -> Result<(), PrintError> {
        let mut results = String::new();
        let mut refusals: Vec<Refusal> = Vec::new();
        let mut reached = None;
        while let Some((line, outcome)) = self.window.pop() {
            self.progress.count(&outcome);
            reached = Some(line.end);
            match outcome {
                outcome if self.json => results.push_str(&json(line.number, &outcome)),
                Outcome::Accepted { job } => results.push_str(&job),
                Outcome::Refused { error, .. } => {
                    Refusal::add(&mut refusals, line.number, error);
                    continue;
                }
            }
            results.push('\n');
        }
        for refusal in refusals {
            self.progress.say(refusal);
        }
        if !results.is_empty() {
            self.progress.aside(|| print_raw(results.as_bytes()))?;
        }
        if let Some(bytes) = reached {
            self.progress.reached(bytes);
        }
        Ok(())
    }
}

fn json(line: u64, outcome: &Outcome) -> String {
    match outcome {
        Outcome::Accepted { job } => json!({ "line": line, "status": 202, "job_id": job }),
        Outcome::Refused { status, error } => json!({ "line": line, "status": status, "error": error }),
    }
    .to_string()
}
