//! A reading of the database that serves all who ask while it is fresh: it must not cost the database more when more clients
//! ask.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

pub(crate) struct SharedReading<T> {
    min_use: Duration,
    rest: u32,
    /// The last reading, and until when it is used. Locked during a reading, so that all requests that wait for the lock get
    /// this reading.
    last: Mutex<Option<(Instant, Arc<T>)>>,
}

impl<T> SharedReading<T> {
    /// A reading is used for `min_use` at least, and for `rest` times as long as it took.
    pub(crate) fn new(min_use: Duration, rest: u32) -> Self {
        Self { min_use, rest, last: Mutex::default() }
    }

    /// The last reading, or this one if that is too old.
    pub(crate) async fn get<E>(&self, read: impl Future<Output = Result<T, E>>) -> Result<Arc<T>, E> {
        let mut last = self.last.lock().await;
        if let Some((_, reading)) = last.as_ref().filter(|(until, _)| Instant::now() < *until) {
            return Ok(Arc::clone(reading));
        }
        let began = Instant::now();
        let reading = Arc::new(read.await?);
        let until = Instant::now() + self.min_use.max(began.elapsed() * self.rest);
        *last = Some((until, Arc::clone(&reading)));
        Ok(reading)
    }
}
