//! What we know of the host: whether Ollama answers there, what is loaded or being loaded, and how jobs fare. Pure.

use foreman_store::JobId;
use tokio::time::Instant;

use crate::runner::fate::{Ending, HostTrouble};
use crate::runner::pause::Pause;
use crate::runner::residency::Residency;
use crate::runner::vanished::Vanished;
use crate::scheduling::key::{Key, RunsOn};

#[derive(Debug, Default)]
pub(super) struct Host {
    is_up: bool,
    residency: Residency<Key>,
    /// The key that is being loaded.
    loading: Option<Key>,
    loaded_last: Option<Key>,
    vanished: Vanished,
    pause: Pause,
}

/// The load that an attempt has to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::runner) enum Loading {
    NotNeeded,
    /// The load that was begun for another attempt.
    UnderWay,
    /// One that begins with this attempt, in place of any other.
    New,
}

impl Host {
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

    /// Whether jobs may be begun there now.
    pub(super) fn takes_jobs(&self, now: Instant) -> bool {
        self.is_up && self.pause.until(now).is_none()
    }

    /// When jobs may be begun again, if that is only a matter of time.
    pub(super) fn paused_until(&self, now: Instant) -> Option<Instant> {
        self.pause.until(now)
    }

    /// Whether a request for this key has nothing to wait for.
    pub(super) fn needs_no_load(&self, key: &Key, runs_on: RunsOn, gpu_is_busy: bool, now: Instant) -> bool {
        runs_on == RunsOn::Cloud || self.residency.holds(key, gpu_is_busy, now)
    }

    /// How a key is loaded that is not there.
    pub(super) fn load(&mut self, key: &Key) -> Loading {
        if self.loading.as_ref() == Some(key) {
            return Loading::UnderWay;
        }
        self.residency.lost();
        self.loading = Some(Key::clone(key));
        Loading::New
    }

    /// A load has ended well. Returns whether another model was loaded before.
    pub(super) fn loaded(&mut self, key: Key, now: Instant) -> bool {
        self.loading.take_if(|loading| *loading == key);
        let is_switch = self.loaded_last.replace(Key::clone(&key)).is_some_and(|last| last != key);
        self.residency.loaded(key, now);
        is_switch
    }

    pub(super) fn load_failed(&mut self, key: &Key) {
        self.loading.take_if(|loading| loading == key);
        self.residency.lost();
    }

    /// Gives up a load that is not wanted any more: Ollama is hung up on.
    pub(super) fn keep_load_if(&mut self, is_wanted: impl FnOnce(&Key) -> bool) {
        if self.loading.as_ref().is_some_and(|key| !is_wanted(key)) {
            self.loading = None;
            self.residency.lost();
        }
    }

    /// Ollama says that nothing is loaded.
    pub(super) fn has_nothing_resident(&mut self, gpu_is_busy: bool) {
        if self.loading.is_none() && !gpu_is_busy {
            self.residency.lost();
        }
    }

    /// A request on this key has ended.
    pub(super) fn used(&mut self, key: &Key, now: Instant) {
        self.residency.used(key, now);
    }

    /// Learns from how a job ended. Returns how often Ollama has gone away under that job.
    pub(super) fn learn(&mut self, job: JobId, ending: &Ending, now: Instant) -> u32 {
        let trouble = ending.host_trouble();
        match ending {
            Ending::Failed(_) if trouble.is_some() => {
                if let Some(pause) = self.pause.handed_back(now) {
                    tracing::warn!(
                        "a job is handed back for the host's sake; nothing is claimed for {pause:?}"
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
