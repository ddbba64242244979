//! What the simulator saw, for tests to ask: every request that would run a model, and every load and eviction.
//!
//! It only ever observes: nothing in the simulator decides by it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde::{Serialize, Serializer};
use tokio::sync::Notify;
use tokio::time::Instant;

/// What has happened so far. Times count from the start of the simulator.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Log {
    /// Requests to `/api/chat` and `/api/generate`, in order of arrival.
    pub records: VecDeque<Record>,
    /// How many records were forgotten because there were too many.
    pub forgotten: u64,
    /// Loads and evictions in order.
    pub events: Vec<Event>,
    /// Requests by path, listings included.
    pub requests: BTreeMap<String, u64>,
    /// Runs that came to their end.
    pub completed: u64,
    /// Loads that succeeded.
    pub loads: u64,
    /// Models thrown out, for whatever reason.
    pub evictions: u64,
    /// Most runs that were open at once, waiting ones included.
    pub max_in_flight: usize,
    /// Most runs that had a slot at once.
    pub max_running: usize,
    /// How long at least one slot was taken.
    #[serde(serialize_with = "millis")]
    pub busy: Duration,
    /// Bodies that were open twice at once.
    #[serde(serialize_with = "texts")]
    pub twins: Vec<Bytes>,
    #[serde(skip)]
    in_flight: usize,
    #[serde(skip)]
    running: usize,
    #[serde(skip)]
    busy_since: Option<Instant>,
    #[serde(skip)]
    open: HashMap<Bytes, u32>,
}

/// One request to run, load or unload a model.
#[derive(Clone, Debug, Serialize)]
pub struct Record {
    pub id: u64,
    pub path: &'static str,
    /// The model as `/api/tags` names it, or as the client wrote it if there is none.
    pub model: String,
    pub kind: Kind,
    #[serde(serialize_with = "text")]
    pub body: Bytes,
    #[serde(serialize_with = "millis")]
    pub arrived: Duration,
    /// When it got its slot.
    #[serde(serialize_with = "some_millis")]
    pub started: Option<Duration>,
    #[serde(serialize_with = "some_millis")]
    pub first_token: Option<Duration>,
    #[serde(serialize_with = "some_millis")]
    pub ended: Option<Duration>,
    pub tokens: u32,
    /// None while it goes on.
    pub outcome: Option<Outcome>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Not looked at yet, or refused for what it is.
    Unread,
    Run,
    Load,
    Unload,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The whole answer was given.
    Done,
    /// An error was answered instead, with this status.
    Refused(u16),
    /// A last line with an error was sent in mid-stream.
    Failed,
    /// The client went away first.
    HungUp,
    /// A fault cut it off.
    Cut,
}

/// Something that happened to a runner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Event {
    #[serde(serialize_with = "millis")]
    pub at: Duration,
    pub what: Happening,
    /// The model as `/api/tags` names it.
    pub model: String,
    /// What it was loaded with, as far as that makes Ollama reload.
    pub options: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Happening {
    LoadStarted,
    Loaded,
    /// The client went away meanwhile.
    LoadAborted,
    LoadFailed,
    /// Another model wants its place: it goes once it is idle, unless a keep-alive comes in between.
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

    /// What happened to runners, and to which model.
    pub fn happenings(&self) -> Vec<(Happening, &str)> {
        self.events.iter().map(|event| (event.what, event.model.as_str())).collect()
    }

    /// Runs that are open now, waiting ones included.
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

    fn record(&mut self, id: u64) -> Option<&mut Record> {
        let index = usize::try_from(id.checked_sub(self.forgotten)?).ok()?;
        self.records.get_mut(index)
    }
}

/// The log while it is being written.
#[derive(Debug)]
pub(crate) struct Journal {
    began: Instant,
    keep: usize,
    log: Mutex<Log>,
    changed: Notify,
}

impl Journal {
    pub(crate) fn new(keep: usize) -> Self {
        Self { began: Instant::now(), keep, log: Mutex::default(), changed: Notify::new() }
    }

    pub(crate) fn read<T>(&self, look: impl FnOnce(&Log) -> T) -> T {
        look(&self.lock())
    }

    /// Waits until the log fulfils a condition.
    pub(crate) async fn until(&self, mut condition: impl FnMut(&Log) -> bool) {
        loop {
            // Interest is registered before looking, so that a change between the two is not missed.
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if self.read(&mut condition) {
                return;
            }
            changed.await;
        }
    }

    /// Forgets everything but what is going on.
    pub(crate) fn reset(&self) {
        self.write(|log| {
            let open = std::mem::take(&mut log.open);
            let (in_flight, running, busy_since) =
                (log.in_flight, log.running, log.busy_since.map(|_| Instant::now()));
            // Ids go on, so that requests that are still open do not write into records of others.
            let forgotten = log.forgotten + log.records.len() as u64;
            *log = Log {
                open,
                in_flight,
                running,
                busy_since,
                forgotten,
                max_in_flight: in_flight,
                max_running: running,
                ..Log::default()
            };
        });
    }

    pub(crate) fn count(&self, path: &str) {
        self.write(|log| match log.requests.get_mut(path) {
            Some(count) => *count += 1,
            None => _ = log.requests.insert(path.to_owned(), 1),
        });
    }

    pub(crate) fn event(&self, what: Happening, model: &str, options: String) {
        let at = self.now();
        self.write(|log| {
            match what {
                Happening::Loaded => log.loads += 1,
                Happening::Evicted => log.evictions += 1,
                _ => {}
            }
            log.events.push(Event { at, what, model: model.to_owned(), options });
        });
    }

    pub(crate) fn open(self: &Arc<Self>, path: &'static str, body: Bytes) -> Entry {
        let arrived = self.now();
        let id = self.write(|log| {
            let id = log.forgotten + log.records.len() as u64;
            log.records.push_back(Record {
                id,
                path,
                model: String::new(),
                kind: Kind::Unread,
                body,
                arrived,
                started: None,
                first_token: None,
                ended: None,
                tokens: 0,
                outcome: None,
            });
            if log.records.len() > self.keep {
                log.records.pop_front();
                log.forgotten += 1;
            }
            id
        });
        Entry {
            journal: Arc::clone(self),
            id,
            kind: Kind::Unread,
            body: Bytes::new(),
            running: false,
            tokens: 0,
        }
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn write<T>(&self, change: impl FnOnce(&mut Log) -> T) -> T {
        let result = change(&mut self.lock());
        self.changed.notify_waiters();
        result
    }

    fn lock(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One request's place in the log. Dropped before its end, it tells of a client that hung up.
#[derive(Debug)]
pub(crate) struct Entry {
    journal: Arc<Journal>,
    id: u64,
    kind: Kind,
    body: Bytes,
    running: bool,
    tokens: u32,
}

impl Entry {
    pub(crate) fn is(&mut self, kind: Kind, model: &str, body: &Bytes) {
        self.kind = kind;
        self.body = body.clone();
        let id = self.id;
        self.journal.write(|log| {
            if let Some(record) = log.record(id) {
                record.kind = kind;
                record.model = model.to_owned();
            }
            if kind == Kind::Run {
                log.in_flight += 1;
                log.max_in_flight = log.max_in_flight.max(log.in_flight);
                let open = log.open.entry(body.clone()).or_default();
                *open += 1;
                if *open == 2 {
                    log.twins.push(body.clone());
                }
            }
        });
    }

    pub(crate) fn started(&mut self) {
        self.running = true;
        let (id, now) = (self.id, self.journal.now());
        self.journal.write(|log| {
            if let Some(record) = log.record(id) {
                record.started = Some(now);
            }
            if log.running == 0 {
                log.busy_since = Some(Instant::now());
            }
            log.running += 1;
            log.max_running = log.max_running.max(log.running);
        });
    }

    pub(crate) fn token(&mut self) {
        self.tokens += 1;
        if self.tokens == 1 {
            let (id, now) = (self.id, self.journal.now());
            self.journal.write(|log| {
                if let Some(record) = log.record(id) {
                    record.first_token = Some(now);
                }
            });
        }
    }

    pub(crate) fn end(mut self, outcome: Outcome) {
        self.close(outcome);
    }

    fn close(&mut self, outcome: Outcome) {
        let (id, now, tokens) = (self.id, self.journal.now(), self.tokens);
        let (kind, running, body) = (self.kind, self.running, std::mem::take(&mut self.body));
        self.journal.write(|log| {
            match log.record(id) {
                Some(record) if record.outcome.is_some() => return,
                Some(record) => {
                    record.ended = Some(now);
                    record.tokens = tokens;
                    record.outcome = Some(outcome.clone());
                }
                None => {}
            }
            if kind == Kind::Run {
                log.in_flight -= 1;
                if let Some(open) = log.open.get_mut(&body) {
                    *open -= 1;
                    if *open == 0 {
                        log.open.remove(&body);
                    }
                }
                if outcome == Outcome::Done {
                    log.completed += 1;
                }
            }
            if running {
                log.running -= 1;
                if log.running == 0 {
                    log.busy += log.busy_since.take().map_or(Duration::ZERO, |since| since.elapsed());
                }
            }
        });
        self.kind = Kind::Unread;
        self.running = false;
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.close(Outcome::HungUp);
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
