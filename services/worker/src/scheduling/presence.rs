//! Which models this host has and may run. Jobs of other models stay in the queue, because another host may have them. Only
//! the janitor may judge that no host has a model. Pure.

use std::collections::BTreeSet;

use foreman_ollama::ModelName;

#[derive(Debug, Clone, Default)]
pub(crate) struct Presence {
    models: BTreeSet<ModelName>,
    /// These are to be unloaded, so nothing of them may begin.
    unloading: BTreeSet<ModelName>,
}

impl Presence {
    /// The host has these models now, and no others.
    pub(crate) fn published(&mut self, models: BTreeSet<ModelName>) {
        self.models = models;
    }

    /// Ollama did not find this model, although the last list may have it.
    pub(crate) fn missed(&mut self, model: &ModelName) {
        self.models.remove(model);
    }

    /// These models are to be unloaded now, and no others.
    pub(crate) fn are_unloading(&mut self, models: BTreeSet<ModelName>) {
        self.unloading = models;
    }

    pub(crate) fn unloading(&self) -> &BTreeSet<ModelName> {
        &self.unloading
    }

    /// Whether this model is to be unloaded now.
    pub(crate) fn unloads(&self, model: &ModelName) -> bool {
        self.unloading.contains(model)
    }

    /// Whether the host has this model, even if its jobs cannot run now.
    pub(crate) fn lists(&self, model: &ModelName) -> bool {
        self.models.contains(model)
    }

    /// Whether jobs of this model can run here now.
    pub(crate) fn has(&self, model: &ModelName) -> bool {
        self.lists(model) && !self.unloads(model)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_can_run_if_the_last_list_has_it_and_ollama_has_not_missed_it_since() {
        let (mut presence, model) = (Presence::default(), ModelName::parse("a").unwrap());
        assert!(!presence.has(&model), "nothing is published yet");
        presence.published([model.clone()].into());
        assert!(presence.has(&model));
        presence.missed(&model);
        assert!(!presence.has(&model));
    }

    #[test]
    fn a_model_cannot_run_while_it_is_to_be_unloaded() {
        let (mut presence, model) = (Presence::default(), ModelName::parse("a").unwrap());
        presence.published([model.clone()].into());
        presence.are_unloading([model.clone()].into());
        assert!(!presence.has(&model));
        presence.published([model.clone()].into());
        assert!(!presence.has(&model), "a new list of models does not change that");
        presence.are_unloading([].into());
        assert!(presence.has(&model));
    }
}
