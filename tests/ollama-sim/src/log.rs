//! What the simulator saw, for tests to read: every request that would run a model, and every load and eviction.
//!
//! Must never influence the simulator: it only observes.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use serde::{Serialize, Serializer};
use tokio::time::Instant;

/// Everything that has happened so far. Times count from the start of the simulator.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Log {
    /// Requests that would use a model, on every route, in order of arrival.
    pub records: VecDeque<Record>,
    /// How many records were dropped because there were too many.
    pub forgotten: u64,
    /// Loads and evictions, in order.
    pub events: Vec<Event>,
    /// Requests by path, including listings.
    pub requests: BTreeMap<String, u64>,
    /// Runs that ran to their end.
    pub completed: u64,
    /// Loads that succeeded.
    pub loads: u64,
    /// Models that were unloaded, for any reason.
    pub evictions: u64,
    /// The most runs that were open at once, including waiting ones.
    pub max_in_flight: usize,
    /// The most runs that had a slot at once.
    pub max_running: usize,
    /// How long at least one slot was occupied.
    #[serde(serialize_with = "millis")]
    pub busy: Duration,
    /// Bodies that were open twice at the same time.
    #[serde(serialize_with = "texts")]
    pub twins: Vec<Bytes>,
    #[serde(skip)]
    pub(crate) in_flight: usize,
    #[serde(skip)]
    pub(crate) running: usize,
    #[serde(skip)]
    pub(crate) busy_since: Option<Instant>,
    #[serde(skip)]
    pub(crate) open: HashMap<Bytes, u32>,
}

/// One request to run, load or unload a model.
#[derive(Clone, Debug, Serialize)]
pub struct Record {
    pub id: u64,
    pub path: &'static str,
    /// The model as `/api/tags` names it, or as the client wrote it if the model does not exist.
    pub model: String,
    pub kind: Kind,
    #[serde(serialize_with = "text")]
    pub body: Bytes,
    #[serde(serialize_with = "millis")]
    pub arrived: Duration,
    /// Whether a model was loaded for this request.
    pub caused_load: bool,
    /// When the request got its slot.
    #[serde(serialize_with = "some_millis")]
    pub started: Option<Duration>,
    #[serde(serialize_with = "some_millis")]
    pub first_token: Option<Duration>,
    #[serde(serialize_with = "some_millis")]
    pub ended: Option<Duration>,
    pub tokens: u32,
    /// `None` while the request is open.
    pub outcome: Option<Outcome>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Not read yet, or refused before it could be classified.
    Unread,
    /// Generates, or embeds.
    Run,
    Load,
    Unload,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The whole answer was sent.
    Done,
    /// The request was answered with an error of this status.
    Refused(u16),
    /// The run broke in the middle of the stream. Only Ollama's own routes tell the client why.
    Failed,
    /// The client went away first.
    HungUp,
    /// A fault broke it off.
    Cut,
}

/// An event of a runner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Event {
    #[serde(serialize_with = "millis")]
    pub at: Duration,
    pub what: Happening,
    /// The model as `/api/tags` names it.
    pub model: String,
    /// The options that it was loaded with, as far as a change of them makes Ollama reload.
    pub options: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Happening {
    LoadStarted,
    Loaded,
    /// The client went away during the load.
    LoadAborted,
    LoadFailed,
    /// Another model needs its memory: it goes once it is idle, unless a request with a keep-alive comes first.
    Doomed,
    Evicted,
    Killed,
}

impl Log {
    /// The runs that got a slot, in the order in which they got it.
    pub fn runs(&self) -> Vec<&Record> {
        let mut runs: Vec<_> = self
            .records
            .iter()
            .filter(|record| record.kind == Kind::Run && record.started.is_some())
            .collect();
        runs.sort_by_key(|record| record.started);
        runs
    }

    /// The models of [`Log::runs`], in order.
    pub fn order(&self) -> Vec<&str> {
        self.runs().into_iter().map(|record| record.model.as_str()).collect()
    }

    /// The events of runners, each with its model.
    pub fn happenings(&self) -> Vec<(Happening, &str)> {
        self.events.iter().map(|event| (event.what, event.model.as_str())).collect()
    }

    /// Runs that are open now, including waiting ones.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Runs that have a slot now.
    pub fn running(&self) -> usize {
        self.running
    }

    /// How often each body ran to its end.
    pub fn completions(&self) -> HashMap<Bytes, u32> {
        let mut completions = HashMap::new();
        for record in &self.records {
            if record.kind == Kind::Run && record.outcome == Some(Outcome::Done) {
                *completions.entry(record.body.clone()).or_default() += 1;
            }
        }
        completions
    }

    pub(crate) fn record(&mut self, id: u64) -> Option<&mut Record> {
        let index = usize::try_from(id.checked_sub(self.forgotten)?).ok()?;
        self.records.get_mut(index)
    }
}

fn millis<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64() * 1e3)
}

#[expect(clippy::ref_option, reason = "serde hands fields over by reference")]
fn some_millis<S: Serializer>(time: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => millis(time, serializer),
        None => serializer.serialize_none(),
    }
}

fn text<S: Serializer>(body: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&String::from_utf8_lossy(body))
}

fn texts<S: Serializer>(bodies: &[Bytes], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(bodies.iter().map(|body| String::from_utf8_lossy(body)))
}
