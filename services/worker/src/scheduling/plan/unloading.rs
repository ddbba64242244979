//! What the plan does with models that an operator wants unloaded. Pure.

use std::collections::BTreeSet;

use foreman_ollama::ModelName;
use tokio::time::Instant;

use super::Plan;
use crate::scheduling::key::Key;

impl Plan {
    /// These models are to be unloaded now, and no others. Nothing of them is claimed.
    pub(crate) fn are_unloading(&mut self, models: BTreeSet<ModelName>) {
        self.work.presence.are_unloading(models);
    }

    /// Whether the model of this runner is to be unloaded now.
    pub(crate) fn unloads(&self, runner: &Key) -> bool {
        self.work.presence.unloads(runner.model())
    }

    /// Ollama is told to unload this model. If it has the turn, the turn ends, because its next load must wait in the line.
    pub(crate) fn unloaded(&mut self, model: &ModelName, now: Instant) {
        if self.rotation.turn().is_some_and(|runner| runner.model() == model) {
            self.rotation.leave(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use foreman_store::HostPlan;

    use super::*;
    use crate::config;
    use crate::scheduling::samples::{key, turns};

    #[test]
    fn an_unload_ends_the_turn_of_its_own_model_alone() {
        let mut plan = Plan::new(&config::Turns { models_together: 2, ..turns() }, 2);
        let turn = "a:latest num_ctx=8192".to_owned();
        plan.remember(&HostPlan {
            loaded: vec![turn.clone()],
            turn: Some(turn.clone()),
            ..HostPlan::default()
        });
        let told = |plan: &Plan| plan.publication(std::iter::empty(), Instant::now()).turn;
        plan.unloaded(key("b:latest").model(), Instant::now());
        assert_eq!(told(&plan), Some(turn));
        plan.unloaded(key("a:latest").model(), Instant::now());
        assert_eq!(told(&plan), None);
    }
}
