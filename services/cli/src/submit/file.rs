//! A file of jobs, or a pipe: read as it comes, sent in batches, reported in the order of the file.
//!
//! Nothing is kept between two runs. Every line goes out under an idempotency key, so that sending it again is always
//! safe: after a busy api, after an api that went away, and after Ctrl-C, by the same command.

use std::io;
use std::mem;
use std::path::Path;
use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
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
use super::template::Template;
use super::window::{BATCH_BYTES, Batch, Line, Outcome, Window};
use crate::api::{Api, ApiError, LineReply};
use crate::exit;
use crate::terminal::{PrintError, one_line, print_raw, say};

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
        patience: Patience::for_a_file(),
    };
    let stopped = submission.run(&mut interrupts).await;
    let Submission { progress, reading, .. } = submission;
    let counts = progress.end();
    let after = || format!("stopped after {}; the same command goes on from there", counts.in_words());
    match (stopped, reading) {
        (Err(error), _) if counts.accepted == 0 => Err(error),
        (Err(error), _) => Err(error).with_context(after),
        (Ok(Stop::Interrupt), _) => {
            say(format_args!(
                "Interrupted after {}; the same command goes on from there.",
                counts.in_words()
            ));
            Ok(exit::INTERRUPTED.into())
        }
        (Ok(Stop::NothingLeft), Reading::Failed(error)) => {
            Err(error).with_context(|| format!("{} cannot be read on", file.display())).with_context(after)
        }
        (Ok(Stop::NothingLeft), _) => {
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
    /// Shrinks when the api or a gateway finds a batch too large.
    batch_bytes: usize,
    patience: Patience,
}

enum Reading {
    On,
    AtEnd,
    /// The lines that were read before the error are sent all the same.
    Failed(io::Error),
}

/// Why a submission stopped without an error.
enum Stop {
    NothingLeft,
    Interrupt,
}

impl Submission<'_> {
    async fn run(&mut self, interrupts: &mut Signal) -> anyhow::Result<Stop> {
        loop {
            let Some(mut batch) = self.window.batch(self.batch_bytes) else {
                // Some lines are refused without asking the api.
                self.report()?;
                if !self.is_reading() {
                    return Ok(Stop::NothingLeft);
                }
                tokio::select! {
                    line = self.lines.next() => self.take(line),
                    _ = interrupts.recv() => return Ok(Stop::Interrupt),
                }
                continue;
            };
            let mut is_interrupted = false;
            let mut sending = pin!(self.api.submit_batch(mem::take(&mut batch.body)));
            let replies = loop {
                tokio::select! {
                    replies = &mut sending => break replies,
                    line = self.lines.next(), if self.is_reading() && !is_interrupted && self.window.has_room() => {
                        self.take(line);
                    }
                    _ = interrupts.recv() => {
                        if is_interrupted {
                            return Ok(Stop::Interrupt);
                        }
                        is_interrupted = true;
                        self.progress.say("Stopping once what was sent is answered; Ctrl-C again stops at once.");
                    }
                }
            };
            let wait = self.settle(&batch, replies)?;
            self.report()?;
            if is_interrupted {
                return Ok(Stop::Interrupt);
            }
            if let Some(wait) = wait {
                tokio::select! {
                    () = sleep(wait) => {}
                    _ = interrupts.recv() => return Ok(Stop::Interrupt),
                }
            }
        }
    }

    fn is_reading(&self) -> bool {
        matches!(self.reading, Reading::On)
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
            Ok(None) => self.reading = Reading::AtEnd,
            Err(error) => self.reading = Reading::Failed(error),
        }
    }

    /// Records what became of a batch. Returns how long to wait before the next one, if there is a reason to wait.
    fn settle(
        &mut self,
        batch: &Batch,
        replies: Result<Vec<LineReply>, ApiError>,
    ) -> anyhow::Result<Option<Duration>> {
        let error = match replies {
            Ok(replies) => {
                let settled =
                    self.window.settle(batch, replies).map_err(|reason| self.api.strange(&reason))?;
                if settled.outcomes > 0 {
                    self.patience.renew();
                }
                match settled.busy {
                    Some(busy) => busy,
                    None => return Ok(None),
                }
            }
            Err(ApiError::Refused { status: StatusCode::PAYLOAD_TOO_LARGE, sentence }) => {
                self.patience.renew();
                if batch.is_one_line() {
                    self.window.refuse(batch, StatusCode::PAYLOAD_TOO_LARGE.as_u16(), &sentence);
                } else {
                    self.batch_bytes = batch.bytes / 2;
                }
                return Ok(None);
            }
            Err(error) => error,
        };
        let Some(wait) = self.patience.wait_after(&error) else { return Err(error.into()) };
        self.progress.waits(&one_line(&error.to_string()));
        Ok(Some(wait))
    }

    /// Reports the lines whose outcomes are known, up to the first line whose outcome is not.
    fn report(&mut self) -> Result<(), PrintError> {
        let mut results = String::new();
        let mut refused = Vec::new();
        let mut reached = None;
        while let Some((line, outcome)) = self.window.pop() {
            self.progress.count(&outcome);
            reached = Some(line.end);
            match outcome {
                outcome if self.json => results.push_str(&json(line.number, &outcome)),
                Outcome::Accepted { job } => results.push_str(&job),
                Outcome::Refused { error, .. } => {
                    refused.push((line.number, error));
                    continue;
                }
            }
            results.push('\n');
        }
        for refusal in refusals(&refused) {
            self.progress.say(refusal);
        }
        if !results.is_empty() {
            self.progress.suspend(|| print_raw(results.as_bytes()))?;
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

/// One sentence for lines that follow each other and have the same error. A missing model refuses a whole file.
fn refusals(refused: &[(u64, String)]) -> impl Iterator<Item = String> {
    refused.chunk_by(|(line, error), (next, other)| line + 1 == *next && error == other).map(|lines| {
        // A chunk is never empty.
        let ((first, error), (last, _)) = (&lines[0], &lines[lines.len() - 1]);
        let error = one_line(error);
        if first == last {
            format!("line {first}: {error}")
        } else {
            format!("lines {first} to {last}: {error}")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_with_the_same_reason_are_told_together() {
        let refused = [(1, "no model"), (2, "no model"), (3, "no\nprompt"), (5, "no model")];
        let refused = refused.map(|(line, error)| (line, error.to_owned()));
        let told: Vec<String> = refusals(&refused).collect();
        assert_eq!(told, ["lines 1 to 2: no model", "line 3: no prompt", "line 5: no model"]);
    }
}
