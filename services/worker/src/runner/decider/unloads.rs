//! The unloads that an operator asks of this host, and how far they are. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use foreman_ollama::ModelName;
use tokio::time::Instant;

use crate::runner::signal::Unload;

/// How long to leave an Ollama alone that did not answer an unload. Its jobs go on meanwhile: an Ollama that hangs with
/// unloads, and with nothing else, keeps jobs waiting for a quarter of the time at most.
const PAUSE: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
pub(super) struct Unloads {
    /// Those that Postgres has, as far as they are not done.
    asked: BTreeMap<ModelName, DateTime<Utc>>,
    under_way: Option<Unload>,
    /// Those that are done. Postgres may have been read before it forgot them.
    done: BTreeMap<ModelName, DateTime<Utc>>,
    /// No unload before this time.
    paused_until: Option<Instant>,
}

impl Unloads {
    /// Postgres has these, and no others.
    pub(super) fn told(&mut self, mut asked: BTreeMap<ModelName, DateTime<Utc>>) {
        self.done.retain(|model, at| asked.get(model) == Some(at));
        asked.retain(|model, _| !self.done.contains_key(model));
        self.asked = asked;
    }

    /// Nothing of these models may begin now.
    pub(super) fn models(&self, now: Instant) -> impl Iterator<Item = &ModelName> {
        let may_begin = self.may_begin(now);
        let asked = self.asked.keys().filter(move |_| may_begin);
        asked.chain(self.under_way.iter().map(|unload| &unload.model))
    }

    pub(super) fn is_under_way(&self) -> bool {
        self.under_way.is_some()
    }

    /// The next one to begin, of a model that does not run. It is under way from now on.
    pub(super) fn begin(&mut self, runs: impl Fn(&ModelName) -> bool, now: Instant) -> Option<Unload> {
        if self.is_under_way() || !self.may_begin(now) {
            return None;
        }
        let (model, &asked_at) = self.asked.iter().find(|(model, _)| !runs(model))?;
        self.under_way = Some(Unload { model: model.clone(), asked_at });
        self.under_way.clone()
    }

    /// Ollama has answered the one under way, and Postgres has forgotten it.
    pub(super) fn ended(&mut self) {
        if let Some(Unload { model, asked_at }) = self.under_way.take() {
            if self.asked.get(&model) == Some(&asked_at) {
                self.asked.remove(&model);
            }
            self.done.insert(model, asked_at);
        }
    }

    /// Ollama has not answered the one under way, or Postgres has not forgotten it. So it must be repeated.
    pub(super) fn failed(&mut self, now: Instant) {
        self.under_way = None;
        self.paused_until = Some(now + PAUSE);
    }

    fn may_begin(&self, now: Instant) -> bool {
        self.paused_until.is_none_or(|until| until <= now)
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::seconds(seconds)
    }

    fn model(name: &str) -> ModelName {
        ModelName::parse(name).unwrap()
    }

    fn told(unloads: &mut Unloads, asked: &[(&str, i64)]) {
        unloads.told(asked.iter().map(|(name, seconds)| (model(name), at(*seconds))).collect());
    }

    fn begin(unloads: &mut Unloads, now: Instant) -> Option<(ModelName, DateTime<Utc>)> {
        unloads.begin(|_| false, now).map(|unload| (unload.model, unload.asked_at))
    }

    fn held_back(unloads: &Unloads, now: Instant) -> Vec<ModelName> {
        unloads.models(now).cloned().collect()
    }

    #[test]
    fn one_is_under_way_at_a_time_and_a_model_that_runs_is_passed_over() {
        let (mut unloads, now) = (Unloads::default(), Instant::now());
        told(&mut unloads, &[("a", 1), ("b", 1)]);
        let first = unloads.begin(|runs| *runs == model("a"), now).unwrap();
        assert_eq!(first.model, model("b"));
        assert_eq!(begin(&mut unloads, now), None);
        unloads.ended();
        assert_eq!(held_back(&unloads, now), [model("a")]);
        assert_eq!(begin(&mut unloads, now), Some((model("a"), at(1))));
        unloads.ended();
        assert_eq!((held_back(&unloads, now), begin(&mut unloads, now)), (vec![], None));
    }

    #[test]
    fn an_old_reading_repeats_nothing_and_a_model_may_be_asked_for_again() {
        let (mut unloads, now) = (Unloads::default(), Instant::now());
        told(&mut unloads, &[("a", 1)]);
        assert_eq!(begin(&mut unloads, now), Some((model("a"), at(1))));
        // Somebody asks for it again while it is under way.
        told(&mut unloads, &[("a", 2)]);
        unloads.ended();
        assert_eq!(begin(&mut unloads, now), Some((model("a"), at(2))));
        unloads.ended();
        told(&mut unloads, &[("a", 2)]);
        assert_eq!((held_back(&unloads, now), begin(&mut unloads, now)), (vec![], None));
        told(&mut unloads, &[]);
        told(&mut unloads, &[("a", 3)]);
        assert_eq!(begin(&mut unloads, now), Some((model("a"), at(3))));
    }

    #[test]
    fn one_that_failed_holds_nothing_back_until_it_is_repeated() {
        let (mut unloads, now) = (Unloads::default(), Instant::now());
        told(&mut unloads, &[("a", 1)]);
        begin(&mut unloads, now);
        unloads.failed(now);
        assert_eq!((held_back(&unloads, now), begin(&mut unloads, now)), (vec![], None));
        let later = now + PAUSE;
        assert_eq!(held_back(&unloads, later), [model("a")]);
        assert_eq!(begin(&mut unloads, later), Some((model("a"), at(1))));
    }
}
