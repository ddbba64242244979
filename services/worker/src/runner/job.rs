//! A claimed job on the floor.

use chrono::{DateTime, Utc};
use foreman_ollama::Route;
use foreman_store::{Claimed, ClientId, Exit, Lease, LeaseNo};
use tokio::sync::watch;

use super::load::Key;
use super::outcome::{Abort, Record, reason};
use super::record::Leaving;
use crate::liveness::Spell;

/// What a job needs of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    /// The GPU, with its model loaded.
    Gpu,
    /// Only a slot: Ollama hands the request on to its cloud, whatever is loaded.
    Cloud,
}

#[derive(Debug)]
pub(crate) struct Job {
    pub lease: Lease,
    pub client: ClientId,
    pub key: Key,
    pub lane: Lane,
    pub route: Route,
    pub record: Record,
    pub model_label: String,
    pub body: Body,
    pub eligible_at: DateTime<Utc>,
    /// The spell under which it was claimed. What is not begun within it is not begun.
    pub spell: Spell,
    /// Whether its claim began it.
    pub begun: bool,
}

/// What Ollama is sent.
#[derive(Debug)]
pub(crate) enum Body {
    Here(String),
    /// Still to be read, of so many bytes.
    InPostgres(u32),
}

impl Job {
    /// A job out of a claim, or how to let go of one that this version does not know how to run.
    pub(crate) fn new(
        claimed: Claimed,
        key: &Key,
        lane: Lane,
        spell: &Spell,
        max_attempts: i16,
    ) -> Result<Self, Leaving> {
        let route = match claimed.path.parse::<Route>() {
            Ok(route) => route,
            Err(unknown) => {
                let exit = Exit::Failed(reason("unknown_route", &unknown.to_string()));
                return Err(Leaving { lease: claimed.lease, exit, model_label: claimed.model_label });
            }
        };
        let max_attempts = claimed.max_attempts.unwrap_or(max_attempts);
        Ok(Self {
            lease: claimed.lease,
            client: claimed.client,
            key: Key::clone(key),
            lane,
            route,
            record: Record { failures: claimed.failures, max_attempts },
            model_label: claimed.model_label,
            body: claimed.body.map_or(Body::InPostgres(claimed.bytes), Body::Here),
            eligible_at: claimed.eligible_at,
            spell: spell.clone(),
            begun: claimed.begun,
        })
    }

    pub(crate) fn leave(self, exit: Exit) -> Leaving {
        Leaving { lease: self.lease, exit, model_label: self.model_label }
    }

    /// Back to the queue: there is no slot, no turn or no right for it any more.
    pub(crate) fn not_begun(self) -> Leaving {
        self.leave(Exit::HandBack { reason: reason("not_begun", "it was not begun") })
    }
}

/// What the floor keeps of a job while its attempt runs.
#[derive(Debug)]
pub(crate) struct Running {
    pub lease: Lease,
    pub key: Key,
    pub lane: Lane,
    pub record: Record,
    pub model_label: String,
    pub abort: watch::Sender<Option<Abort>>,
}

impl Running {
    pub(crate) fn number(&self) -> LeaseNo {
        self.lease.no
    }

    /// Stops the attempt. The first reason stands.
    pub(crate) fn abort(&self, why: Abort) {
        self.abort.send_if_modified(|asked| asked.replace(asked.unwrap_or(why)).is_none());
    }
}
