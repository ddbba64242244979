//! Waiting for jobs: any number of requests, one statement for all of them together.
//!
//! A waiter is entered before the next look, and that look is what first answers it, so that a change between a
//! request's own query and its entry is not lost.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use foreman_runtime::background::jittered;
use foreman_runtime::{background_error, stalls};
use foreman_store::{ClientId, JobId, Progress, Store, StoreError, wake::Topic};
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::refusal::Refusal;

/// Waiting requests of one process.
const SEATS: usize = 4_096;

/// Between two looks: under load every one of them has news for somebody.
const SPACING: Duration = Duration::from_millis(20);

/// How often we look without a wake-up.
const POLL: Duration = Duration::from_millis(500);

/// The waiting requests of this process.
#[derive(Clone)]
pub(crate) struct Watch(Arc<Inner>);

struct Inner {
    seats_a_client: usize,
    waiting: Mutex<Waiting>,
    entered: Notify,
    stop: CancellationToken,
}

#[derive(Default)]
struct Waiting {
    taken: usize,
    by_client: HashMap<ClientId, usize>,
    by_job: HashMap<JobId, Vec<Waiter>>,
}

struct Waiter {
    owner: ClientId,
    until: Until,
    tell: oneshot::Sender<()>,
}

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    End,
    /// A transition after this one, or the end.
    After(i32),
}

impl Until {
    pub(crate) fn is_reached(self, seq: i32, has_ended: bool) -> bool {
        has_ended || matches!(self, Self::After(last) if seq > last)
    }
}

/// How a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waited {
    Reached,
    /// The deadline came first.
    InVain,
    /// The process stops: another one can go on.
    Stopping,
}

/// The right to wait. Taken before a job is accepted, so that a refusal comes before it.
pub(crate) struct Seat {
    watch: Watch,
    client: ClientId,
}

impl Watch {
    pub(crate) fn new(seats_a_client: usize, stop: CancellationToken) -> Self {
        let inner = Inner { seats_a_client, waiting: Mutex::default(), entered: Notify::new(), stop };
        Self(Arc::new(inner))
    }

    /// Takes a seat for this client.
    pub(crate) fn seat(&self, client: ClientId) -> Result<Seat, Refusal> {
        let mut waiting = self.waiting();
        if waiting.taken >= SEATS {
            let error =
                "too many requests are waiting for jobs; poll without `wait`, or try again in a moment";
            return Err(Refusal::unavailable("too_many_waiting", error));
        }
        let taken = waiting.by_client.entry(client).or_default();
        if *taken >= self.0.seats_a_client {
            let error = format!(
                "this client has {taken} waiting requests open; close some, or have FOREMAN_CLIENT_MAX_STREAMS raised"
            );
            return Err(Refusal::too_many("too_many_waiting", error));
        }
        *taken += 1;
        waiting.taken += 1;
        Ok(Seat { watch: self.clone(), client })
    }

    /// Looks for news of the jobs that are waited for, until the process stops.
    pub(crate) async fn run(&self, store: &Store) {
        let mut news = store.wakeups().subscribe(Topic::Job);
        let mut looked_at = Instant::now();
        loop {
            tokio::select! {
                () = self.0.stop.cancelled() => return,
                () = self.0.entered.notified() => {}
                () = news.changed() => {}
                () = sleep(jittered(POLL)) => {}
            }
            sleep_until(looked_at + SPACING).await;
            looked_at = Instant::now();
            if let Err(error) = stalls::round("watch", stalls::USUAL, self.look(store)).await {
                background_error!("watch", error, "waiting requests could not be answered; they wait on");
                sleep(POLL).await;
            }
        }
    }

    /// One look at all jobs that are waited for.
    async fn look(&self, store: &Store) -> Result<(), StoreError> {
        let wanted: Vec<(ClientId, JobId)> = {
            let mut waiting = self.waiting();
            waiting.drop_those_gone();
            waiting.by_job.iter().filter_map(|(job, waiters)| Some((waiters.first()?.owner, *job))).collect()
        };
        if wanted.is_empty() {
            return Ok(());
        }
        let progress = store.progress(&wanted).await?;
        let mut waiting = self.waiting();
        for seen in progress {
            waiting.tell(seen);
        }
        Ok(())
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// Requests that timed out, or whose client hung up.
    fn drop_those_gone(&mut self) {
        self.by_job.retain(|_, waiters| {
            waiters.retain(|waiter| !waiter.tell.is_closed());
            !waiters.is_empty()
        });
    }

    fn tell(&mut self, seen: Progress) {
        let Some(waiters) = self.by_job.get_mut(&seen.job) else { return };
        for waiter in waiters.extract_if(.., |waiter| waiter.until.is_reached(seen.seq, seen.has_ended)) {
            // A request that has gone since needs no answer.
            let _ = waiter.tell.send(());
        }
        if waiters.is_empty() {
            self.by_job.remove(&seen.job);
        }
    }
}

impl Seat {
    /// Waits until the job has come so far, `deadline` has passed, or the process stops, and says which; whoever asks
    /// then looks for itself.
    pub(crate) async fn wait(&self, owner: ClientId, job: JobId, until: Until, deadline: Instant) -> Waited {
        let (tell, told) = oneshot::channel();
        self.watch.waiting().by_job.entry(job).or_default().push(Waiter { owner, until, tell });
        self.watch.0.entered.notify_one();
        tokio::select! {
            told = timeout_at(deadline, told) => if told.is_ok() { Waited::Reached } else { Waited::InVain },
            () = self.watch.0.stop.cancelled() => Waited::Stopping,
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut waiting = self.watch.waiting();
        waiting.taken -= 1;
        if let Some(taken) = waiting.by_client.get_mut(&self.client) {
            *taken -= 1;
            if *taken == 0 {
                waiting.by_client.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(seats: usize) -> Watch {
        Watch::new(seats, CancellationToken::new())
    }

    #[test]
    fn a_client_has_its_seats_and_no_more() {
        let watch = watch(2);
        let (one, other) = (ClientId::generate(), ClientId::generate());
        let first = watch.seat(one).ok();
        let _second = watch.seat(one).ok();
        assert!(watch.seat(one).is_err());
        assert!(watch.seat(other).is_ok());
        drop(first);
        assert!(watch.seat(one).is_ok());
    }

    #[tokio::test]
    async fn a_waiter_is_told_of_what_it_waits_for() {
        let watch = watch(2);
        let (client, job) = (ClientId::generate(), JobId::generate());
        let far = Instant::now() + Duration::from_secs(60);
        let seat = |watch: &Watch| watch.seat(client).unwrap_or_else(|_| panic!("there is a seat"));
        let wait = |seat: Seat, until| async move { seat.wait(client, job, until, far).await };
        let next = tokio::spawn(wait(seat(&watch), Until::After(2)));
        let end = tokio::spawn(wait(seat(&watch), Until::End));
        while watch.waiting().by_job.get(&job).map_or(0, Vec::len) < 2 {
            tokio::task::yield_now().await;
        }
        watch.waiting().tell(Progress { job, seq: 2, has_ended: false });
        assert_eq!(watch.waiting().by_job[&job].len(), 2, "nothing new");
        watch.waiting().tell(Progress { job, seq: 3, has_ended: false });
        assert_eq!(next.await.unwrap(), Waited::Reached);
        watch.waiting().tell(Progress { job, seq: 4, has_ended: true });
        assert_eq!(end.await.unwrap(), Waited::Reached);
        assert_eq!(watch.waiting().taken, 0);
        assert!(watch.waiting().by_job.is_empty());
    }

    #[tokio::test]
    async fn a_stop_answers_everybody() {
        let stop = CancellationToken::new();
        let watch = Watch::new(1, stop.clone());
        let client = ClientId::generate();
        let seat = watch.seat(client).unwrap_or_else(|_| panic!("there is a seat"));
        stop.cancel();
        let far = Instant::now() + Duration::from_secs(60);
        assert_eq!(seat.wait(client, JobId::generate(), Until::End, far).await, Waited::Stopping);
    }
}
