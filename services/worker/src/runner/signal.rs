//! What the floor is told by the tasks around it.

use std::collections::BTreeSet;
use std::time::Duration;

use foreman_ollama::ModelName;
use foreman_store::LeaseNo;

use crate::scheduling::backlog::Group;
use crate::scheduling::key::Key;

#[derive(Debug)]
pub(crate) enum Signal {
    /// Where jobs are ready.
    Scanned(Vec<(Key, Group)>),
    /// Somebody asked to cancel what is held under these numbers.
    CancelAsked(Vec<LeaseNo>),
    /// The outcome of this lease is written, or was refused: it is off our hands.
    Settled(LeaseNo),
    Loaded {
        key: Key,
        took: Duration,
    },
    LoadFailed {
        key: Key,
    },
    /// Ollama answers, and has these models.
    HostUp(BTreeSet<ModelName>),
    HostAway,
    /// Ollama says that nothing is loaded.
    NothingResident,
}
