//! Fails ready jobs whose model no host has had for a while. This file only remembers since when a model has been missing.
//! The statement that fails the jobs proves that no host has the model.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use foreman_runtime::background::{Round, Rounds};
use foreman_store::{Reason, StoreError};
use tokio::time::Instant;

use crate::worker::Worker;

/// How long jobs wait for a model that is missing. It may be away for a moment, while somebody pulls it anew or moves it from
/// one host to another.
const GRACE: Duration = Duration::from_secs(60);

/// Between two looks: short beside the grace.
pub(super) const EVERY: Duration = Duration::from_secs(5);

/// Jobs per statement, which takes some ten milliseconds.
const BATCH: u32 = 1_000;

pub(super) struct MissingModels {
    worker: Arc<Worker>,
    absences: Absences,
}

impl MissingModels {
    pub(super) fn new(worker: Arc<Worker>) -> Self {
        Self { worker, absences: Absences::default() }
    }
}

impl Rounds for MissingModels {
    const TASK: &'static str = "missing-models";
    type Error = StoreError;

    async fn run_once(&mut self) -> Result<Round, StoreError> {
        let store = &self.worker.store;
        let missing = store.missing_models().await?;
        let gone = self.absences.over_grace(missing, Instant::now());
        if gone.is_empty() {
            return Ok(Round::Idle);
        }
        let gone: Vec<_> = gone.into_iter().map(|model| (model.clone(), reason(&model))).collect();
        let failed = store.fail_for_want_of_model(&gone, BATCH.into()).await?;
        for (job, model) in &failed {
            tracing::warn!(job.id = %job, model, code = "model_gone", "a job failed, because no host has its model");
        }
        Ok(if failed.len() >= BATCH as usize { Round::More } else { Round::Idle })
    }
}

fn reason(model: &str) -> Reason {
    Reason {
        code: "model_gone".to_owned(),
        error: format!(
            "no Ollama has the model {model} any more; run `ollama pull {model}` and submit the job again"
        ),
    }
}

/// Since when each model has been missing, by our own clock. It was missing at every look since then. A restart forgets this,
/// and the jobs wait for another grace. Pure.
#[derive(Debug, Default)]
struct Absences {
    since: HashMap<String, Instant>,
    last_look: Option<Instant>,
}

impl Absences {
    /// Notes which models are missing now. Returns those that have been missing for a whole grace.
    fn over_grace(&mut self, missing: Vec<String>, now: Instant) -> Vec<String> {
        // The last look is so long ago that a model may have come and gone unseen.
        if self.last_look.replace(now).is_some_and(|last| now.saturating_duration_since(last) >= GRACE) {
            self.since.clear();
        }
        let missing: HashSet<String> = missing.into_iter().collect();
        self.since.retain(|model, _| missing.contains(model));
        for model in missing {
            self.since.entry(model).or_insert(now);
        }
        let gone = self.since.iter().filter(|(_, since)| now.saturating_duration_since(**since) >= GRACE);
        gone.map(|(model, _)| model.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The models that are over their grace after looks at these seconds, each with what was missing then.
    fn gone(looks: &[(u64, &[&str])]) -> Vec<String> {
        let (mut absences, start) = (Absences::default(), Instant::now());
        let mut gone = Vec::new();
        for (seconds, missing) in looks {
            let missing = missing.iter().map(|model| (*model).to_owned()).collect();
            gone = absences.over_grace(missing, start + Duration::from_secs(*seconds));
        }
        gone
    }

    #[test]
    fn a_model_is_gone_once_it_was_missing_for_a_grace() {
        assert_eq!(gone(&[(0, &["a"]), (30, &["a", "b"]), (59, &["a", "b"])]), [""; 0]);
        assert_eq!(gone(&[(0, &["a"]), (30, &["a", "b"]), (60, &["a", "b"])]), ["a"]);
    }

    #[test]
    fn a_model_that_comes_back_starts_anew() {
        assert_eq!(gone(&[(0, &["a"]), (30, &[]), (50, &["a"]), (100, &["a"])]), [""; 0]);
        assert_eq!(gone(&[(0, &["a"]), (30, &[]), (50, &["a"]), (100, &["a"]), (110, &["a"])]), ["a"]);
    }

    #[test]
    fn a_janitor_that_slept_starts_anew() {
        assert_eq!(gone(&[(0, &["a"]), (100, &["a"])]), [""; 0]);
        assert_eq!(gone(&[(0, &["a"]), (100, &["a"]), (150, &["a"]), (160, &["a"])]), ["a"]);
    }
}
