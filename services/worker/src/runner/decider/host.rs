//! What we know of the host: whether Ollama answers, which key is loaded or loading, what an operator wants unloaded, and
//! whether its failures call for a pause. Pure.

use foreman_ollama::{ModelName, RunningModel};
use foreman_store::JobId;
use tokio::time::Instant;

use crate::runner::decider::unloads::Unloads;
use crate::runner::fate::{Ending, HostTrouble};
use crate::runner::pause::Pause;
use crate::runner::signal::Unload;
use crate::runner::vanished::Vanished;
use crate::scheduling::key::{Key, RunsOn};
use crate::scheduling::residency::Residency;

#[derive(Debug)]
pub(super) struct Host {
    is_up: bool,
    residency: Residency,
    loading: Option<UnderWay>,
    loaded_last: Option<Key>,
    pub(super) unloads: Unloads,
    vanished: Vanished,
    pause: Pause,
}

/// The load under way.
#[derive(Debug)]
struct UnderWay {
    key: Key,
    /// When it was decided on.
    since: Instant,
    /// When Ollama was asked for it.
    began: Option<Instant>,
}

/// Which load a new attempt must wait for.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::runner) enum Loading {
    NotNeeded,
    /// The load that another attempt has started already.
    UnderWay,
    /// A new load, which replaces any other. These are unloaded before.
    New {
        unload: Vec<Key>,
    },
}

impl Host {
    /// `room` is how many models Ollama may hold at once.
    pub(super) fn new(room: usize) -> Self {
        Self {
            is_up: false,
            residency: Residency::new(room),
            loading: None,
            loaded_last: None,
            unloads: Unloads::default(),
            vanished: Vanished::default(),
            pause: Pause::default(),
        }
    }

    pub(super) fn came_up(&mut self) {
        self.is_up = true;
    }

    pub(super) fn went_away(&mut self) {
        self.is_up = false;
        self.loading = None;
        self.residency.lost();
    }

    pub(super) fn is_loading(&self) -> bool {
        self.loading.is_some()
    }

    /// Whether the load under way is for this key.
    pub(super) fn loads(&self, key: &Key) -> bool {
        self.loading.as_ref().is_some_and(|loading| loading.key == *key)
    }

    pub(super) fn residency(&self) -> &Residency {
        &self.residency
    }

    /// The key whose load is under way, and since when.
    pub(super) fn loading(&self) -> Option<(Key, Instant)> {
        self.loading
            .as_ref()
            .map(|loading| (Key::clone(&loading.key), loading.began.unwrap_or(loading.since)))
    }

    /// Whether jobs may begin on this host now.
    pub(super) fn takes_jobs(&self, now: Instant) -> bool {
        self.is_up && self.pause.until(now).is_none()
    }

    /// When the pause ends, if one is on.
    pub(super) fn paused_until(&self, now: Instant) -> Option<Instant> {
        self.pause.until(now)
    }

    /// Whether a request for this key can be sent without a load before it. Nothing can while a load is under way.
    pub(super) fn needs_no_load(&self, key: &Key, runs_on: RunsOn, is_running: bool, now: Instant) -> bool {
        runs_on == RunsOn::Cloud || (self.loading.is_none() && self.residency.has(key, is_running, now))
    }

    /// The keys whose requests can be sent without a load before them. Nothing can while a load is under way.
    pub(super) fn residents(&self, is_running: impl Fn(&Key) -> bool, now: Instant) -> Vec<Key> {
        if self.is_loading() { Vec::new() } else { self.residency.all(is_running, now) }
    }

    /// Notes that a key must be loaded, and returns with which load. `waits_since` tells since when a key has waited for
    /// its next turn, if it has work.
    pub(super) fn load(
        &mut self,
        key: &Key,
        waits_since: impl Fn(&Key) -> Option<Instant>,
        now: Instant,
    ) -> Loading {
        if self.loads(key) {
            return Loading::UnderWay;
        }
        let loading = UnderWay { key: Key::clone(key), since: now, began: None };
        if self.loading.replace(loading).is_some() {
            // Nobody knows what the load that it replaces has left.
            self.residency.lost();
        }
        Loading::New { unload: self.residency.make_room(key, waits_since, now) }
    }

    /// Ollama is asked for the load of this key from now on.
    pub(super) fn load_begins(&mut self, key: &Key, now: Instant) {
        if let Some(loading) = self.loading.as_mut().filter(|loading| loading.key == *key) {
            loading.began = Some(now);
        }
    }

    /// A load has succeeded, and Ollama lists these models. Returns whether the load before it was for another key.
    pub(super) fn loaded(&mut self, key: Key, listed: &[RunningModel], now: Instant) -> bool {
        self.loading.take_if(|loading| loading.key == key);
        let is_switch = self.loaded_last.replace(Key::clone(&key)).is_some_and(|last| last != key);
        self.residency.loaded(key, listed, now);
        is_switch
    }

    /// Returns when the load under way began, if it is this one that has failed.
    pub(super) fn load_failed(&mut self, key: &Key) -> Option<Instant> {
        self.residency.lost();
        self.loading.take_if(|loading| loading.key == *key)?.began
    }

    /// Gives up the load under way unless it `is_wanted`. The floor then closes its connection to Ollama. Returns which load was
    /// given up, and when it began, if it had.
    pub(super) fn keep_load_if(&mut self, is_wanted: impl FnOnce(&Key) -> bool) -> Option<(Key, Instant)> {
        let given_up = self.loading.take_if(|loading| !is_wanted(&loading.key))?;
        self.residency.lost();
        given_up.began.map(|began| (given_up.key, began))
    }

    /// Begins the next unload, of a model that does not run, unless a load is under way. The model no longer counts as
    /// loaded. Ollama is asked even if we did not believe it loaded: somebody else may have loaded it.
    pub(super) fn begin_unload(&mut self, runs: impl Fn(&ModelName) -> bool, now: Instant) -> Option<Unload> {
        if !self.is_up || self.is_loading() {
            return None;
        }
        let unload = self.unloads.begin(runs, now)?;
        self.residency.unloaded(&unload.model);
        Some(unload)
    }

    /// Ollama says that no model is loaded. Returns whether that can be so: it says so too while it loads.
    pub(super) fn has_nothing_resident(&mut self, gpu_is_busy: bool) -> bool {
        let can_be = self.loading.is_none() && !gpu_is_busy;
        if can_be {
            self.residency.lost();
        }
        can_be
    }

    /// A request on this key has ended.
    pub(super) fn used(&mut self, key: &Key, now: Instant) {
        self.residency.used(key, now);
    }

    /// Learns from the ending of a job. Returns how often Ollama has gone away under this job.
    pub(super) fn learn(&mut self, job: JobId, ending: &Ending, now: Instant) -> u32 {
        let trouble = ending.host_trouble();
        match ending {
            Ending::Failed(_) if trouble.is_some() => {
                if let Some(pause) = self.pause.handed_back(now) {
                    tracing::warn!(
                        "a job is handed back because Ollama failed; nothing is claimed for {pause:?}"
                    );
                }
            }
            Ending::Done(_) | Ending::Failed(_) => self.pause.answered(),
            _ => {}
        }
        let Some(HostTrouble::Away { under_job }) = trouble else { return 0 };
        self.went_away();
        if under_job { self.vanished.under(job) } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduling::samples::key;

    #[test]
    fn nothing_is_unloaded_while_something_loads_or_while_ollama_is_away() {
        let (mut host, now) = (Host::new(1), Instant::now());
        let (a, b) = (key("a:latest"), key("b:latest"));
        host.unloads.told([(a.model().clone(), chrono::DateTime::UNIX_EPOCH)].into());
        assert_eq!(host.begin_unload(|_| false, now), None);
        host.came_up();
        host.load(&b, |_| None, now);
        assert_eq!(host.begin_unload(|_| false, now), None);
        host.loaded(b, &[], now);
        assert_eq!(host.begin_unload(|_| false, now).map(|unload| unload.model), Some(a.model().clone()));
    }
}
