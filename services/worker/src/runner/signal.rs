//! The messages that the tasks around the floor send to it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use chrono::{DateTime, Utc};
use foreman_ollama::{ModelName, RunningModel};
use foreman_store::{ClientTerms, HostPlan, LeaseNo};

use crate::scheduling::backlog::Group;
use crate::scheduling::key::Key;
use crate::scheduling::neighbours::{Intent, Neighbour};

#[derive(Debug)]
pub(crate) enum Signal {
    /// There are ready jobs in these groups, and in no others that are known.
    Scanned(Vec<Group>),
    /// What the holder before this one has published.
    Remembered(Box<HostPlan>),
    /// These clients have terms of their own, and no others.
    Agreed(Vec<ClientTerms>),
    /// The other hosts that take jobs, and what hosts mean to load, by load key without its context.
    Neighbours(Vec<Neighbour>, HashMap<Key, Intent>),
    /// Whether an operator has drained the host.
    Drained(bool),
    /// The models that an operator wants unloaded, and no others, each with the time at which it was asked for.
    UnloadsAsked(BTreeMap<ModelName, DateTime<Utc>>),
    /// Somebody asked to cancel the jobs under these leases of ours.
    CancelAsked(Vec<LeaseNo>),
    /// Ollama's answer to the job under this lease has ended. The attempt has yet to finish, and needs no slot for that.
    Answered(LeaseNo),
    /// Postgres has stored the outcome of this lease, or has refused it for good. The lease is ours no longer.
    Settled(LeaseNo),
    /// Ollama is asked for a load from now on.
    LoadBegins {
        key: Key,
    },
    Loaded {
        key: Key,
        took: Duration,
        /// The length of its context, if Ollama tells it.
        context: Option<i64>,
        /// What Ollama lists as loaded; nothing if it does not say.
        listed: Vec<RunningModel>,
    },
    LoadFailed {
        key: Key,
    },
    /// Ollama has answered the unload under way, and Postgres has forgotten it.
    Unloaded,
    /// The unload under way must be repeated.
    UnloadFailed,
    /// Ollama answers, and lists these models.
    HostUp(BTreeSet<ModelName>),
    HostAway,
    /// Ollama says that nothing is loaded.
    NothingResident,
}

/// One model to unload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unload {
    pub model: ModelName,
    pub asked_at: DateTime<Utc>,
}
