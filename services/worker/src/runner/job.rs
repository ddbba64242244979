//! A claimed job on the floor.

use chrono::{DateTime, Utc};
use foreman_ollama::Route;
use foreman_store::{Claimed, ClientId, Lease};
use tokio::sync::watch;

use super::fate::{Abort, Ending, Past, reason};
use crate::membership::liveness::Spell;
use crate::scheduling::key::{Key, RunsOn};

#[derive(Debug)]
pub(crate) struct Job {
    pub lease: Lease,
    pub client: ClientId,
    pub key: Key,
    pub runs_on: RunsOn,
    pub route: Route,
    pub past: Past,
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
        runs_on: RunsOn,
        spell: &Spell,
        max_attempts: i16,
    ) -> Result<Self, Box<Left>> {
        let max_attempts = claimed.max_attempts.unwrap_or(max_attempts);
        let past = Past { failures: claimed.failures, max_attempts, vanished: 0 };
        let route = match claimed.path.parse::<Route>() {
            Ok(route) => route,
            Err(unknown) => {
                let ending = Ending::never(reason("unknown_route", &unknown.to_string()));
                let Claimed { lease, model_label, .. } = claimed;
                return Err(Box::new(Left { lease, past, ending, model_label }));
            }
        };
        Ok(Self {
            lease: claimed.lease,
            client: claimed.client,
            key: Key::clone(key),
            runs_on,
            route,
            past,
            model_label: claimed.model_label,
            body: claimed.body.map_or(Body::InPostgres(claimed.bytes), Body::Here),
            eligible_at: claimed.eligible_at,
            spell: spell.clone(),
            begun: claimed.begun,
        })
    }

    pub(crate) fn leave(self, ending: Ending) -> Left {
        Left { lease: self.lease, past: self.past, ending, model_label: self.model_label }
    }

    /// Back to the queue: there is no slot, no turn or no right for it any more.
    pub(crate) fn not_begun(self) -> Left {
        self.leave(Ending::GivenBack(reason("not_begun", "it was not begun")))
    }
}

/// A job that leaves the floor.
#[derive(Debug)]
pub(crate) struct Left {
    pub lease: Lease,
    pub past: Past,
    pub ending: Ending,
    pub model_label: String,
}

/// What the floor keeps of a job while its attempt runs.
#[derive(Debug)]
pub(crate) struct Running {
    pub lease: Lease,
    pub client: ClientId,
    pub key: Key,
    pub runs_on: RunsOn,
    pub past: Past,
    pub model_label: String,
    pub abort: watch::Sender<Option<Abort>>,
}

impl Running {
    /// Stops the attempt. The first reason stands.
    pub(crate) fn abort(&self, why: Abort) {
        self.abort.send_if_modified(|asked| asked.replace(asked.unwrap_or(why)).is_none());
    }
}
