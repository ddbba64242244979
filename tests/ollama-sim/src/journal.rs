//! Writes the log: under one short lock, with entries that end by themselves when a client goes away.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::log::{Event, Happening, Kind, Log, Outcome, Record};

/// The log while it is written.
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

    pub(crate) fn began(&self) -> std::time::Instant {
        self.began.into_std()
    }

    pub(crate) fn read<T>(&self, look: impl FnOnce(&Log) -> T) -> T {
        look(&self.lock())
    }

    /// Waits until the log fulfils a condition.
    pub(crate) async fn until(&self, mut condition: impl FnMut(&Log) -> bool) {
        loop {
            // Register interest before looking, so that a change between the two is not missed.
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if self.read(&mut condition) {
                return;
            }
            changed.await;
        }
    }

    /// Forgets everything except the requests that are still open.
    pub(crate) fn reset(&self) {
        self.write(|log| {
            let open = std::mem::take(&mut log.open);
            let (in_flight, running, busy_since) =
                (log.in_flight, log.running, log.busy_since.map(|_| Instant::now()));
            // Ids continue, so that open requests do not write into the records of others.
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
                caused_load: false,
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

/// The entry of one request in the log. If it is dropped before its end, it records that the client hung up.
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

    pub(crate) fn caused_load(&mut self) {
        let id = self.id;
        self.journal.write(|log| {
            if let Some(record) = log.record(id) {
                record.caused_load = true;
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
