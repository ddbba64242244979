//! Runs checks within a time limit, shows each finding at once, and counts them.

use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;
use tokio::time::timeout;

use super::finding::{Finding, Level, count};
use crate::exit;
use crate::terminal::{PrintError, one_line, print, say, sentence};

/// For one check. Postgres cancels our statements somewhat sooner, so that none runs on after we have given it up.
const LOOK_WITHIN: Duration = Duration::from_secs(25);

/// Width of the column with the check's name.
const NAME: usize = 15;

pub(super) struct Report {
    json: bool,
    notes: i64,
    troubles: i64,
}

#[derive(Serialize)]
struct Line<'a> {
    check: &'a str,
    #[serde(flatten)]
    finding: &'a Finding,
}

impl Report {
    pub(super) fn new(json: bool) -> Self {
        Self { json, notes: 0, troubles: 0 }
    }

    /// Returns the answer. Where there is none, returns `None` and reports why.
    pub(super) async fn ask<T, E: Into<anyhow::Error>>(
        &mut self,
        check: &str,
        asking: impl Future<Output = Result<T, E>>,
    ) -> Result<Option<T>, PrintError> {
        let why = match timeout(LOOK_WITHIN, asking).await {
            Ok(Ok(value)) => return Ok(Some(value)),
            Ok(Err(error)) => sentence(&error.into()),
            Err(_elapsed) => format!("there was no answer within {} s", LOOK_WITHIN.as_secs()),
        };
        let what = format!("This could not be looked at: {why}.");
        self.found(check, Finding::trouble(what, "mend that, then run foreman doctor again"))?;
        Ok(None)
    }

    /// Runs a check and shows its findings. Returns whether none of them is trouble.
    pub(super) async fn look<F: IntoIterator<Item = Finding>, E: Into<anyhow::Error>>(
        &mut self,
        check: &str,
        looking: impl Future<Output = Result<F, E>>,
    ) -> Result<bool, PrintError> {
        match self.ask(check, looking).await? {
            Some(findings) => self.found(check, findings),
            None => Ok(false),
        }
    }

    /// Shows findings. Returns whether none of them is trouble.
    pub(super) fn found(
        &mut self,
        check: &str,
        findings: impl IntoIterator<Item = Finding>,
    ) -> Result<bool, PrintError> {
        let before = self.troubles;
        for finding in findings {
            match finding.level {
                Level::Ok => {}
                Level::Note => self.notes += 1,
                Level::Trouble => self.troubles += 1,
            }
            self.show(check, &finding)?;
        }
        Ok(self.troubles == before)
    }

    /// Names the checks that were left out, so that nobody takes silence for health.
    pub(super) fn left_out(&mut self, checks: &[&str], why: &str) -> Result<(), PrintError> {
        let what = format!("Not looked at, because {why}: {}.", checks.join(", "));
        self.found("left_out", Finding::note(what, "mend that first, then run foreman doctor again"))?;
        Ok(())
    }

    pub(super) fn end(self) -> ExitCode {
        let (troubles, notes) = (count(self.troubles, "trouble"), count(self.notes, "note"));
        match self.troubles {
            0 => {
                say(format_args!("All is well; {notes}."));
                ExitCode::SUCCESS
            }
            _ => {
                say(format_args!("{troubles}, {notes}."));
                exit::TROUBLE.into()
            }
        }
    }

    fn show(&self, check: &str, finding: &Finding) -> Result<(), PrintError> {
        if self.json {
            // Texts and an enum: nothing in it can fail to be JSON.
            return print(serde_json::to_string(&Line { check, finding }).unwrap_or_default());
        }
        let level = match finding.level {
            Level::Ok => "ok",
            Level::Note => "note",
            Level::Trouble => "TROUBLE",
        };
        print(format_args!("{level:<7}  {check:<NAME$}  {}", one_line(&finding.what)))?;
        match &finding.mend {
            Some(mend) => print(format_args!("{:<7}  {:<NAME$}  → {}", "", "", one_line(mend))),
            None => Ok(()),
        }
    }
}
