//! Which models this host has. Jobs of others are left in the queue: another host may have their model, and whether none
//! has is the janitor's to judge. Pure.

use std::collections::BTreeSet;

use foreman_ollama::ModelName;

#[derive(Debug, Default)]
pub(crate) struct Presence {
    models: BTreeSet<ModelName>,
}

impl Presence {
    /// What the host has now.
    pub(crate) fn published(&mut self, models: BTreeSet<ModelName>) {
        self.models = models;
    }

    /// Ollama did not find this model, whatever it said before.
    pub(crate) fn missed(&mut self, model: &ModelName) {
        self.models.remove(model);
    }

    /// Whether jobs of this model can run here.
    pub(crate) fn has(&self, model: &ModelName) -> bool {
        self.models.contains(model)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_host_published_last_and_ollama_has_not_missed_since_can_run() {
        let (mut presence, model) = (Presence::default(), ModelName::parse("a").unwrap());
        assert!(!presence.has(&model), "nothing was said yet");
        presence.published([model.clone()].into());
        assert!(presence.has(&model));
        presence.missed(&model);
        assert!(!presence.has(&model));
    }
}
