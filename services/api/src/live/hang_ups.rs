//! Cancels the jobs of sync calls whose caller has gone. A [`Guard`] stands for the caller: a call that is dropped before its
//! answer is complete drops its guard, and the guard has the job cancelled.
//!
//! Must never lose a job between the submitter's reply and the guard: see [`Accepting`].

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use foreman_runtime::background::jittered;
use foreman_runtime::{background_error, stalls};
use foreman_store::{ApiId, ClientId, JobId, Store};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::intake::submit::{Accepted, NotAccepted, PendingReply};

/// The most cancels in one statement. The storm of an editor that gives up each request while its user types is smaller.
const AT_ONCE: usize = 256;

/// The wait after a statement that failed. The janitors find what is still left when this process ends.
const DELAY: Duration = Duration::from_millis(500);

/// Takes the jobs whose caller has gone. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct HangUps {
    gone: UnboundedSender<(ClientId, JobId)>,
    /// How many callers wait for a job. They are more than one where a client has repeated its call.
    callers: Arc<Mutex<HashMap<JobId, usize>>>,
}

impl HangUps {
    pub(crate) fn new() -> (Self, UnboundedReceiver<(ClientId, JobId)>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self { gone: sender, callers: Arc::default() }, receiver)
    }

    /// For the submitter, which may accept a job after its caller has gone.
    pub(crate) fn sender(&self) -> UnboundedSender<(ClientId, JobId)> {
        self.gone.clone()
    }

    pub(crate) fn cancel(&self, client: ClientId, job: JobId) {
        // The task ends only after the last call.
        if self.gone.send((client, job)).is_err() {
            tracing::error!(job.id = %job, "a caller has gone, and its job was not cancelled");
        }
    }

    fn callers(&self) -> MutexGuard<'_, HashMap<JobId, usize>> {
        self.callers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Cancels what comes until `last`, and then what is left. Each statement takes all that has gathered.
    pub(crate) async fn run(
        store: &Store,
        api: ApiId,
        mut gone: UnboundedReceiver<(ClientId, JobId)>,
        last: CancellationToken,
    ) {
        let (mut gathered, waited_at) = (Vec::new(), [api]);
        loop {
            tokio::select! {
                biased;
                count = gone.recv_many(&mut gathered, AT_ONCE) => {
                    // Without a sender nobody is left who could hang up.
                    if count == 0 {
                        return;
                    }
                }
                () = last.cancelled() => return,
            }
            let cancel = || store.cancel_all(&gathered, Some(&waited_at));
            while let Err(error) = stalls::round("hang_ups", stalls::USUAL, cancel()).await {
                background_error!(
                    "hang_ups",
                    error,
                    jobs = gathered.len(),
                    "jobs without a caller could not be cancelled; they are tried again"
                );
                sleep(jittered(DELAY)).await;
            }
            gathered.clear();
        }
    }
}

/// Stands for the caller of a sync call. Has the job cancelled when it is dropped, unless another caller waits for it.
#[derive(Debug)]
pub(crate) struct Guard {
    hang_ups: HangUps,
    client: ClientId,
    job: JobId,
    is_over: bool,
}

impl Guard {
    pub(crate) fn new(hang_ups: HangUps, client: ClientId, job: JobId) -> Self {
        *hang_ups.callers().entry(job).or_default() += 1;
        Self { hang_ups, client, job, is_over: false }
    }

    pub(crate) fn job(&self) -> JobId {
        self.job
    }

    /// The job has ended, so there is nothing to cancel.
    pub(crate) fn done(mut self) {
        self.is_over = true;
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut callers = self.hang_ups.callers();
        let left = callers.get(&self.job).map_or(0, |count| count - 1);
        if left > 0 {
            callers.insert(self.job, left);
            return;
        }
        callers.remove(&self.job);
        drop(callers);
        if !self.is_over {
            self.hang_ups.cancel(self.client, self.job);
        }
    }
}

/// A sync call that the submitter has and has not replied about. If its caller goes meanwhile, its job is cancelled as soon as
/// it is known to exist.
pub(crate) struct Accepting {
    pending: Option<PendingReply>,
    hang_ups: HangUps,
    client: ClientId,
}

impl Accepting {
    pub(crate) fn new(pending: PendingReply, hang_ups: HangUps, client: ClientId) -> Self {
        Self { pending: Some(pending), hang_ups, client }
    }

    /// Waits until the job is committed, or is known not to be.
    pub(crate) async fn accepted(mut self) -> Result<Guard, NotAccepted> {
        let pending = self.pending.as_mut().ok_or(NotAccepted::Unknown)?;
        let reply = pending.wait().await;
        self.pending = None;
        let job = reply?.job();
        Ok(Guard::new(self.hang_ups.clone(), self.client, job))
    }
}

impl Drop for Accepting {
    fn drop(&mut self) {
        // The submitter may have replied without anybody reading the reply. Otherwise it finds the receiver closed, and tells
        // `HangUps` itself.
        if let Some(Ok(Accepted::New(job))) = self.pending.as_mut().and_then(PendingReply::close) {
            self.hang_ups.cancel(self.client, job);
        }
    }
}
