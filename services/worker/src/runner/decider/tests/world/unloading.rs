//! What operators want unloaded in the world, and how that goes.

use std::time::Duration;

use chrono::{DateTime, Utc};
use foreman_ollama::ModelName;

use super::{Happening, World};
use crate::runner::signal::{Signal, Unload};

impl World {
    /// An operator asks, and the worker hears of it at once. It may have been asked for before.
    pub(super) fn ask_for_unload(&mut self, key: usize) {
        let asked_at = DateTime::<Utc>::UNIX_EPOCH + self.now();
        self.unloads.insert(self.keys[key].model().clone(), asked_at);
        self.tell_unloads();
    }

    pub(super) fn tell_unloads(&mut self) {
        self.signal(Signal::UnloadsAsked(self.unloads.clone()));
    }

    /// Whether Ollama unloads this model just now.
    pub(super) fn unloads(&self, model: &ModelName) -> bool {
        self.unload.as_ref().is_some_and(|(_, unload)| unload.model == *model)
    }

    pub(super) fn begin_unload(&mut self, unload: Unload) {
        assert!(self.unload.is_none(), "two unloads at a time");
        assert!(self.holds_host && !self.is_stopping, "an unload without the right to");
        assert!(self.host_is_up, "an unload from an Ollama that is away");
        let runs = self.in_flight.values().any(|one| *one.key.model() == unload.model);
        assert!(!runs, "an unload of a model with requests in flight");
        assert!(!self.question_is_out, "an unload while a claim may bring jobs that have begun");
        assert!(self.unloads.contains_key(&unload.model), "an unload that nobody wants");
        self.number += 1;
        let number = self.number;
        let (long, fails) = self.script.unloads[number % self.script.unloads.len()];
        let (long, fails) = if self.is_calm() { (Duration::from_millis(1), false) } else { (long, fails) };
        if !fails {
            self.resident.retain(|key| *key.model() != unload.model);
        }
        self.unload = Some((number, unload));
        self.at(self.now() + long, Happening::UnloadEnds { number, fails });
    }

    /// The worker always hears of the end, because it has a limit of its own.
    pub(super) fn unload_ends(&mut self, number: usize, fails: bool) {
        let Some((_, unload)) = self.unload.take_if(|(under_way, _)| *under_way == number) else { return };
        if fails {
            self.signal(Signal::UnloadFailed);
            return;
        }
        // What the worker reads now may be from before Postgres has forgotten it.
        let before = self.unloads.clone();
        if self.unloads.get(&unload.model) == Some(&unload.asked_at) {
            self.unloads.remove(&unload.model);
        }
        self.signal(Signal::Unloaded);
        self.signal(Signal::UnloadsAsked(before));
    }

    pub(super) fn break_off_unload(&mut self) {
        if self.unload.take().is_some() {
            self.signal(Signal::UnloadFailed);
        }
    }
}
