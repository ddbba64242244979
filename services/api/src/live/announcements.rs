//! Where the attempts of this api's sync calls run. The api listens to every worker, and a worker announces each attempt of a
//! call of this api. So a call learns of its attempt without a look at Postgres.
//!
//! An announcement may come before the call knows the id of its own job, so it is kept for a while.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use foreman_live::{ANNOUNCEMENTS, Announcement, SILENCE};
use foreman_runtime::background::{jittered, one_line};
use foreman_store::{ApiId, JobId, StreamAddress};
use futures_util::{StreamExt as _, TryStreamExt as _};
use reqwest::Method;
use tokio::sync::watch;
use tokio::time::{Instant, interval, sleep, timeout};
use tokio_util::codec::{FramedRead, LinesCodec, LinesCodecError};
use tokio_util::io::StreamReader;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::workers::Workers;

/// The wait before a worker is called again. A dead worker's row stays until its TTL has passed.
const CALL_AGAIN: Duration = Duration::from_millis(500);

/// An announcement that no call has asked for is kept for this long. A call asks as soon as its job is accepted.
const KEPT_FOR: Duration = Duration::from_secs(30);

/// An announcement is far shorter.
const LONGEST_LINE: usize = 1 << 10;

/// Why the announcements of a worker have ended.
#[derive(Debug, thiserror::Error)]
enum HearingError {
    #[error("the worker has said nothing for {} s", SILENCE.as_secs())]
    Silent,
    #[error("the worker could not be asked")]
    Http(#[from] reqwest::Error),
    #[error("an announcement could not be read")]
    Line(#[from] LinesCodecError),
    #[error("an announcement is not in the form of this version")]
    Form(#[from] serde_json::Error),
    #[error("an announcement does not name a job")]
    Job(#[from] foreman_store::InvalidId),
}

/// Where an attempt runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AttemptAddress {
    /// The stream address of the worker.
    pub(crate) url: Arc<str>,
    pub(crate) attempt: i32,
}

/// The attempts that workers have announced. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Attempts(Arc<Mutex<HashMap<JobId, Entry>>>);

struct Entry {
    place: watch::Sender<Option<AttemptAddress>>,
    came: Instant,
}

/// A call that waits for announcements of its job.
pub(crate) struct Expected {
    attempts: Attempts,
    job: JobId,
    place: watch::Receiver<Option<AttemptAddress>>,
    /// The last attempt that was returned.
    returned: i32,
}

impl Attempts {
    /// Waits for announcements of a job, including one that has come already.
    pub(crate) fn expect(&self, job: JobId) -> Expected {
        let place = self.entries().entry(job).or_insert_with(Entry::new).place.subscribe();
        Expected { attempts: self.clone(), job, place, returned: 0 }
    }

    fn announced(&self, job: JobId, place: AttemptAddress) {
        let mut entries = self.entries();
        let entry = entries.entry(job).or_insert_with(Entry::new);
        entry.place.send_if_modified(|known| {
            // After a new connection a worker announces again what it has announced before.
            let is_news = known.as_ref().is_none_or(|known| known.attempt < place.attempt);
            if is_news {
                *known = Some(place);
            }
            is_news
        });
    }

    /// Forgets the announcements that no call has asked for.
    fn forget_old(&self) {
        self.entries().retain(|_, entry| entry.place.receiver_count() > 0 || entry.came.elapsed() < KEPT_FOR);
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<JobId, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Listens to every worker until `stop`.
    pub(crate) async fn run(&self, api: ApiId, workers: &Workers, stop: &CancellationToken) {
        let mut addresses = workers.addresses();
        let mut listeners: HashMap<String, AbortOnDropHandle<()>> = HashMap::new();
        let mut forget = interval(KEPT_FOR);
        while !stop.is_cancelled() {
            let known = addresses.borrow_and_update().clone();
            listeners.retain(|url, _| known.iter().any(|address| address.url == *url));
            for StreamAddress { url, .. } in known {
                listeners.entry(url.clone()).or_insert_with(|| {
                    let (attempts, workers) = (self.clone(), workers.clone());
                    let listen = async move { attempts.listen(api, &workers, url.into()).await };
                    AbortOnDropHandle::new(tokio::spawn(listen))
                });
            }
            tokio::select! {
                () = stop.cancelled() => {}
                _ = addresses.changed() => {}
                _ = forget.tick() => self.forget_old(),
            }
        }
    }

    /// Listens to one worker for ever.
    async fn listen(&self, api: ApiId, workers: &Workers, url: Arc<str>) {
        loop {
            if let Err(error) = self.hear(api, workers, &url).await {
                tracing::debug!(worker = %url, error = one_line(error), "the announcements of a worker broke off");
            }
            sleep(jittered(CALL_AGAIN)).await;
        }
    }

    /// Hears announcements until the connection breaks.
    async fn hear(&self, api: ApiId, workers: &Workers, url: &Arc<str>) -> Result<(), HearingError> {
        let question = workers.request(Method::GET, url, &format!("{ANNOUNCEMENTS}?api={api}"));
        let answer = timeout(SILENCE, question.send()).await.map_err(|_| HearingError::Silent)??;
        let answer = answer.error_for_status()?;
        let bytes = answer.bytes_stream().map_err(std::io::Error::other);
        let mut lines =
            FramedRead::new(StreamReader::new(bytes), LinesCodec::new_with_max_length(LONGEST_LINE));
        while let Some(line) = timeout(SILENCE, lines.next()).await.map_err(|_| HearingError::Silent)? {
            let line = line?;
            if line.is_empty() {
                continue;
            }
            let Announcement { job, attempt } = serde_json::from_str(&line)?;
            self.announced(job.parse()?, AttemptAddress { url: Arc::clone(url), attempt });
        }
        Ok(())
    }
}

impl Entry {
    fn new() -> Self {
        Self { place: watch::Sender::default(), came: Instant::now() }
    }
}

impl Expected {
    /// The job of the call.
    pub(crate) fn job(&self) -> JobId {
        self.job
    }

    /// Waits for an attempt that has not been returned yet. May be dropped and called again.
    pub(crate) async fn next(&mut self) -> AttemptAddress {
        let returned = self.returned;
        let is_news =
            |place: &Option<AttemptAddress>| place.as_ref().is_some_and(|place| place.attempt > returned);
        // An error would mean that the entry is gone, and it stays as long as this receiver.
        let place = self.place.wait_for(is_news).await.ok().and_then(|place| place.clone());
        match place {
            Some(place) => {
                self.returned = place.attempt;
                place
            }
            None => std::future::pending().await,
        }
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        let mut entries = self.attempts.entries();
        // Another call may wait for the same job: a client that repeats a call finds the job of before.
        if entries.get(&self.job).is_some_and(|entry| entry.place.receiver_count() <= 1) {
            entries.remove(&self.job);
        }
    }
}
