//! The messages that the tasks around the floor send to it.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use foreman_ollama::{ModelName, RunningModel};
use foreman_store::{ClientTerms, HostPlan, LeaseNo};

use crate::scheduling::backlog::Group;
use crate::scheduling::key::Key;
use crate::scheduling::neighbours::{Intent, Neighbour};

#[derive(Debug)]
pub(crate) enum Signal {
    /// A scan found ready jobs in these groups, and in no others.
    Scanned(Vec<Group>),
    /// What the holder before this one has published.
    Remembered(Box<HostPlan>),
    /// These clients have terms of their own, and no others.
    Agreed(Vec<ClientTerms>),
    /// The other hosts that take jobs, and what hosts mean to load, by load key without its context.
    Neighbours(Vec<Neighbour>, HashMap<Key, Intent>),
    /// Whether an operator has drained the host.
    Drained(bool),
    /// Somebody asked to cancel the jobs under these leases of ours.
    CancelAsked(Vec<LeaseNo>),
    /// Postgres has stored the outcome of this lease, or has refused it for good. The lease is ours no longer.
    Settled(LeaseNo),
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
    /// Ollama answers, and lists these models.
    HostUp(BTreeSet<ModelName>),
    HostAway,
    /// Ollama says that nothing is loaded.
    NothingResident,
}
