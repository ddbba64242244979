//! Lets requests wait for the next transition or the end of a job. One statement looks at the jobs of all waiting requests.
//!
//! A request enters its wait first, and then the watch looks at its job. So a change between the request's own query and its
//! entry is not lost. A look that began before the entry tells the request nothing: what it saw may be over.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use foreman_runtime::background::jittered;
use foreman_runtime::{background_error, stalls};
use foreman_store::{ClientId, JobId, Progress, Store, StoreError, wake::Topic};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::access::each_client::EachClient;
use crate::refusal::Refusal;

/// At most this many requests of one process wait.
const MAX_WAITING: usize = 4_096;

/// The shortest time between two looks. Under load, there is news for somebody at every look.
const SPACING: Duration = Duration::from_millis(20);

/// We look this often when no wake-up comes.
const POLL: Duration = Duration::from_millis(500);

/// The waiting requests of this process.
#[derive(Clone)]
pub(crate) struct Watch(Arc<Inner>);

struct Inner {
    max_per_client: usize,
    permits: Arc<Semaphore>,
    permits_of_clients: EachClient<Semaphore>,
    waiting: Mutex<Waiting>,
    entered: Notify,
    stop: CancellationToken,
}

#[derive(Default)]
struct Waiting {
    by_job: HashMap<JobId, Vec<Waiter>>,
    /// How many looks have begun.
    looks: u64,
}

struct Waiter {
    owner: ClientId,
    until: Until,
    /// How many looks had begun when it entered. Only later ones count for it.
    after_look: u64,
    tell: oneshot::Sender<Waited>,
}

/// What a request waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    End,
    /// A transition with a higher `seq` than this, or the end.
    After(i32),
    /// No worker holds the job.
    Unheld,
}

impl Until {
    pub(crate) fn is_reached(self, seen: Progress) -> bool {
        seen.has_ended
            || match self {
                Self::End => false,
                Self::After(last) => seen.seq > last,
                Self::Unheld => !seen.is_held,
            }
    }
}

/// How a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waited {
    Reached {
        has_ended: bool,
    },
    /// The deadline has passed.
    TimedOut,
    /// This process stops. The client can go on waiting at another api.
    Stopping,
}

/// Permission for one request to wait. A request takes it before its job is accepted, so that a refusal comes before that.
pub(crate) struct WaitPermit {
    watch: Watch,
    _of_all: OwnedSemaphorePermit,
    _of_client: OwnedSemaphorePermit,
}

impl Watch {
    pub(crate) fn new(max_per_client: usize, stop: CancellationToken) -> Self {
        Self(Arc::new(Inner {
            max_per_client,
            permits: Arc::new(Semaphore::new(MAX_WAITING)),
            permits_of_clients: EachClient::default(),
            waiting: Mutex::default(),
            entered: Notify::new(),
            stop,
        }))
    }

    /// Hands out a permit to wait, or refuses.
    pub(crate) fn permit(&self, client: ClientId) -> Result<WaitPermit, Refusal> {
        let Inner { max_per_client, permits, permits_of_clients, .. } = &*self.0;
        let of_all = Arc::clone(permits).try_acquire_owned().map_err(|_| {
            let error =
                "too many requests are waiting for jobs; poll without `wait`, or try again in a moment";
            Refusal::unavailable("too_many_waiting", error)
        })?;
        let of_client = permits_of_clients.of(client, || Semaphore::new(*max_per_client));
        let of_client = of_client.try_acquire_owned().map_err(|_| {
            let error = format!(
                "this client has {max_per_client} waiting requests open; close some, or have FOREMAN_CLIENT_MAX_STREAMS raised"
            );
            Refusal::too_many("too_many_waiting", error)
        })?;
        Ok(WaitPermit { watch: self.clone(), _of_all: of_all, _of_client: of_client })
    }

    /// Looks at the jobs that requests wait for, again and again, until the process stops.
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

    /// Looks once at all jobs that requests wait for, and tells the requests whose wait is over.
    async fn look(&self, store: &Store) -> Result<(), StoreError> {
        let (look, wanted) = self.waiting().begin_look();
        if wanted.is_empty() {
            return Ok(());
        }
        let progress = store.progress(&wanted).await?;
        let mut waiting = self.waiting();
        for seen in progress {
            waiting.tell(look, seen);
        }
        Ok(())
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// Drops the waiters whose request timed out or whose client hung up.
    fn drop_closed(&mut self) {
        self.by_job.retain(|_, waiters| {
            waiters.retain(|waiter| !waiter.tell.is_closed());
            !waiters.is_empty()
        });
    }

    fn enter(&mut self, owner: ClientId, job: JobId, until: Until) -> oneshot::Receiver<Waited> {
        let (tell, told) = oneshot::channel();
        let waiter = Waiter { owner, until, after_look: self.looks, tell };
        self.by_job.entry(job).or_default().push(waiter);
        told
    }

    /// Returns the number of the look that begins, and the jobs to look at.
    fn begin_look(&mut self) -> (u64, Vec<(ClientId, JobId)>) {
        self.drop_closed();
        self.looks += 1;
        let wanted = self.by_job.iter().filter_map(|(job, waiters)| Some((waiters.first()?.owner, *job)));
        (self.looks, wanted.collect())
    }

    /// Tells those waiters of what this look saw that it is what they wait for.
    fn tell(&mut self, look: u64, seen: Progress) {
        let Some(waiters) = self.by_job.get_mut(&seen.job) else { return };
        let counts = |waiter: &mut Waiter| waiter.after_look < look && waiter.until.is_reached(seen);
        for waiter in waiters.extract_if(.., counts) {
            // The request may have ended meanwhile. Then nobody needs to be told.
            let _ = waiter.tell.send(Waited::Reached { has_ended: seen.has_ended });
        }
        if waiters.is_empty() {
            self.by_job.remove(&seen.job);
        }
    }
}

impl WaitPermit {
    /// Waits until the job has reached `until`, `deadline` has passed, or the process stops, and says which of them came
    /// first. The caller then reads the job itself.
    pub(crate) async fn wait(&self, owner: ClientId, job: JobId, until: Until, deadline: Instant) -> Waited {
        let told = self.watch.waiting().enter(owner, job, until);
        self.watch.0.entered.notify_one();
        tokio::select! {
            told = timeout_at(deadline, told) => told.map_or(Waited::TimedOut, |told| told.unwrap_or(Waited::Stopping)),
            () = self.watch.0.stop.cancelled() => Waited::Stopping,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(max_per_client: usize) -> Watch {
        Watch::new(max_per_client, CancellationToken::new())
    }

    #[test]
    fn a_client_has_its_permits_and_no_more() {
        let watch = watch(2);
        let (one, other) = (ClientId::generate(), ClientId::generate());
        let first = watch.permit(one).ok();
        let _second = watch.permit(one).ok();
        assert!(watch.permit(one).is_err());
        assert!(watch.permit(other).is_ok());
        drop(first);
        assert!(watch.permit(one).is_ok());
    }

    #[tokio::test]
    async fn a_waiter_is_told_of_what_it_waits_for() {
        let watch = watch(2);
        let (client, job) = (ClientId::generate(), JobId::generate());
        let far = Instant::now() + Duration::from_secs(60);
        let permit = |watch: &Watch| watch.permit(client).unwrap_or_else(|_| panic!("there is a permit"));
        let wait = |permit: WaitPermit, until| async move { permit.wait(client, job, until, far).await };
        let next = tokio::spawn(wait(permit(&watch), Until::After(2)));
        let end = tokio::spawn(wait(permit(&watch), Until::End));
        while watch.waiting().by_job.get(&job).map_or(0, Vec::len) < 2 {
            tokio::task::yield_now().await;
        }
        let look = |seq, has_ended| {
            let mut waiting = watch.waiting();
            let (look, wanted) = waiting.begin_look();
            assert_eq!(wanted, [(client, job)]);
            waiting.tell(look, Progress { job, seq, is_held: true, has_ended });
        };
        look(2, false);
        assert_eq!(watch.waiting().by_job[&job].len(), 2, "nothing new");
        look(3, false);
        assert_eq!(next.await.unwrap(), Waited::Reached { has_ended: false });
        look(4, true);
        assert_eq!(end.await.unwrap(), Waited::Reached { has_ended: true });
        assert_eq!(watch.0.permits.available_permits(), MAX_WAITING);
        assert!(watch.waiting().by_job.is_empty());
    }

    /// A job is queued when a look begins, a worker claims it, and then a call begins to wait for the moment when no worker holds
    /// it.
    #[test]
    fn a_look_that_began_before_a_wait_does_not_end_it() {
        let (mut waiting, client, job) = (Waiting::default(), ClientId::generate(), JobId::generate());
        let _other = waiting.enter(client, job, Until::End);
        let queued = Progress { job, seq: 1, is_held: false, has_ended: false };
        let (look, wanted) = waiting.begin_look();
        assert_eq!(wanted, [(client, job)]);
        let mut told = waiting.enter(client, job, Until::Unheld);
        waiting.tell(look, queued);
        assert!(told.try_recv().is_err(), "this look saw the job before it was held");
        let (look, _) = waiting.begin_look();
        waiting.tell(look, queued);
        assert_eq!(told.try_recv(), Ok(Waited::Reached { has_ended: false }));
    }

    #[tokio::test]
    async fn a_stop_ends_every_wait() {
        let stop = CancellationToken::new();
        let watch = Watch::new(1, stop.clone());
        let client = ClientId::generate();
        let permit = watch.permit(client).unwrap_or_else(|_| panic!("there is a permit"));
        stop.cancel();
        let far = Instant::now() + Duration::from_secs(60);
        assert_eq!(permit.wait(client, JobId::generate(), Until::End, far).await, Waited::Stopping);
    }
}
