//! Which models the host has, and for how long one has been missing. Pure.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use foreman_ollama::ModelName;
use tokio::time::Instant;

/// A model may be away for a moment, while somebody pulls it anew. Its jobs wait so long, and then fail with the reason.
const GRACE: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(crate) struct Presence {
    /// Nothing until the host has said once what it has.
    models: Option<BTreeSet<ModelName>>,
    missing_since: HashMap<ModelName, Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stands {
    Here,
    /// Its jobs wait.
    Missing,
    /// No host has had it for longer than the grace.
    Gone,
}

impl Presence {
    /// What the host has now.
    pub(crate) fn published(&mut self, models: BTreeSet<ModelName>) {
        self.missing_since.retain(|model, _| !models.contains(model));
        self.models = Some(models);
    }

    /// Ollama did not find this model, whatever it said before.
    pub(crate) fn missed(&mut self, model: &ModelName) {
        if let Some(models) = &mut self.models {
            models.remove(model);
        }
    }

    /// Whether jobs of this model can run.
    pub(crate) fn of(&mut self, model: &ModelName, now: Instant) -> Stands {
        match &self.models {
            Some(models) if !models.contains(model) => {
                let since = *self.missing_since.entry(model.clone()).or_insert(now);
                if now.saturating_duration_since(since) < GRACE { Stands::Missing } else { Stands::Gone }
            }
            _ => Stands::Here,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(name: &str) -> ModelName {
        ModelName::parse(name).unwrap()
    }

    #[test]
    fn jobs_of_a_missing_model_wait_for_a_grace_and_no_longer() {
        let (mut presence, start) = (Presence::default(), Instant::now());
        assert_eq!(presence.of(&model("a"), start), Stands::Here, "nothing was said yet");
        presence.published([model("a")].into());
        assert_eq!(presence.of(&model("a"), start), Stands::Here);
        presence.missed(&model("a"));
        assert_eq!(presence.of(&model("a"), start), Stands::Missing);
        presence.published(BTreeSet::new());
        assert_eq!(presence.of(&model("a"), start + GRACE / 2), Stands::Missing);
        assert_eq!(presence.of(&model("a"), start + GRACE), Stands::Gone);
    }

    #[test]
    fn a_model_that_comes_back_starts_anew() {
        let (mut presence, start) = (Presence::default(), Instant::now());
        presence.published(BTreeSet::new());
        presence.of(&model("a"), start);
        presence.published([model("a")].into());
        assert_eq!(presence.of(&model("a"), start + GRACE), Stands::Here);
        presence.published(BTreeSet::new());
        assert_eq!(presence.of(&model("a"), start + GRACE), Stands::Missing);
    }
}
