//! How a process stops: two tokens, and the tasks that obey them.
//!
//! The soft token says "take no new work, finish the work that runs". The hard token, shortly before the grace ends,
//! says "hand back the work that still runs". Every task of a process is spawned here under a name, so that no task can
//! end unnoticed: if a task ends before it was asked to, the whole process stops, and the supervisor starts it anew.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use metrics::counter;
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::background::BACKGROUND_ERRORS;
use crate::background_error;

/// This much at the end of the grace is for handing work back. In a very short grace, half of it is.
const HAND_BACK: Duration = Duration::from_secs(3);

/// The process itself needs this long to end. It must end before the grace is over.
const EXIT: Duration = Duration::from_millis(250);

#[derive(Debug, Clone, Default)]
pub struct Shutdown(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    soft: CancellationToken,
    hard: CancellationToken,
    tasks: TaskTracker,
    /// How many tasks of each name run, for the message about tasks that did not end.
    running: Mutex<BTreeMap<&'static str, usize>>,
    failed: AtomicBool,
}

/// How a process stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShutdownResult {
    /// The process was asked to stop, and every task ended.
    Clean,
    /// A task failed, or did not end within the grace.
    Failed,
}

#[derive(Debug, thiserror::Error)]
enum TaskError {
    #[error("the task ended although nobody had asked it to; the process stops")]
    EndedEarly,
    #[error("the task panicked; the process stops: {0}")]
    Panicked(String),
}

impl Shutdown {
    pub fn new() -> Self {
        Self::default()
    }

    /// Once this is cancelled, a task takes no new work.
    pub fn soft(&self) -> &CancellationToken {
        &self.0.soft
    }

    /// Once this is cancelled, a task hands back the work that still runs, and ends.
    pub fn hard(&self) -> &CancellationToken {
        &self.0.hard
    }

    /// Begins the stop, as a signal does.
    pub fn stop(&self) {
        self.0.soft.cancel();
    }

    /// Runs a task that lives as long as the process. It may end only after the soft token is cancelled. If it ends
    /// earlier, returns an error or panics, that is logged, counted under `name`, and stops the process.
    pub fn spawn<E: Into<anyhow::Error>>(
        &self,
        name: &'static str,
        task: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        // Start the counter at 0. Otherwise Prometheus would not see the first failure as an increase.
        counter!(BACKGROUND_ERRORS.name, "task" => name).increment(0);
        let shutdown = self.clone();
        self.track(name, async move {
            match task.await {
                Ok(()) if shutdown.0.soft.is_cancelled() => {}
                Ok(()) => shutdown.fail(name, TaskError::EndedEarly),
                Err(error) => shutdown.fail(name, error),
            }
        });
    }

    /// Like [`spawn`](Self::spawn), for a task that handles all of its errors itself.
    pub fn spawn_infallible(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.spawn(name, async {
            task.await;
            Ok::<_, Infallible>(())
        });
    }

    /// Runs one piece of work that ends by itself and logs its own failures. The process waits for it before it ends. A
    /// panic stops the process. Work that is aborted through the handle ends silently.
    pub fn spawn_work(
        &self,
        name: &'static str,
        work: impl Future<Output = ()> + Send + 'static,
    ) -> AbortHandle {
        self.track(name, work)
    }

    /// Waits for the soft token. Then waits until every task has ended, for at most `grace`.
    pub async fn finished(&self, grace: Duration) -> ShutdownResult {
        self.0.soft.cancelled().await;
        self.0.tasks.close();
        let hand_back = HAND_BACK.min(grace / 2);
        if timeout(grace - hand_back, self.0.tasks.wait()).await.is_err() {
            tracing::info!(
                running = self.running(),
                "the grace is nearly over; handing back the work that still runs"
            );
            self.0.hard.cancel();
            if timeout(hand_back.saturating_sub(EXIT), self.0.tasks.wait()).await.is_err() {
                tracing::error!(
                    running = self.running(),
                    "tasks would not end within the grace; they are dropped"
                );
                return ShutdownResult::Failed;
            }
        }
        if self.0.failed.load(Ordering::Acquire) { ShutdownResult::Failed } else { ShutdownResult::Clean }
    }

    fn track(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        let shutdown = self.clone();
        let entry = TaskEntry::enter(self, name);
        let task = self.0.tasks.spawn(async move {
            let _entry = entry;
            // A panic leaves no broken state: the work's own state is dropped, and shared state guards itself against
            // panics.
            if let Err(panic) = AssertUnwindSafe(work).catch_unwind().await {
                shutdown.fail(name, TaskError::Panicked(panic_text(&*panic)));
            }
        });
        task.abort_handle()
    }

    fn fail(&self, name: &'static str, error: impl Into<anyhow::Error>) {
        background_error!(name, error, "a task failed");
        self.0.failed.store(true, Ordering::Release);
        self.stop();
    }

    /// `relay, run ×3`.
    fn running(&self) -> String {
        let running = self.0.running.lock().unwrap_or_else(PoisonError::into_inner);
        let names = running.iter().map(|(name, count)| match count {
            1 => (*name).to_owned(),
            count => format!("{name} ×{count}"),
        });
        names.collect::<Vec<_>>().join(", ")
    }
}

/// The entry of one task in `running`, for as long as its future lives.
struct TaskEntry {
    shutdown: Shutdown,
    name: &'static str,
}

impl TaskEntry {
    fn enter(shutdown: &Shutdown, name: &'static str) -> Self {
        let mut running = shutdown.0.running.lock().unwrap_or_else(PoisonError::into_inner);
        *running.entry(name).or_default() += 1;
        drop(running);
        Self { shutdown: shutdown.clone(), name }
    }
}

impl Drop for TaskEntry {
    fn drop(&mut self) {
        let mut running = self.shutdown.0.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = running.get_mut(self.name) {
            *count -= 1;
            if *count == 0 {
                running.remove(self.name);
            }
        }
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

/// Signals. Only [`Program`](crate::Program) uses them.
pub(crate) mod signals {
    use std::io;

    use tokio::signal::unix::{Signal, SignalKind, signal};

    use super::Shutdown;

    /// Catches signals from the moment when it exists, so that no signal is lost between the start and `watch`.
    pub(crate) struct Signals {
        terminate: Signal,
        interrupt: Signal,
    }

    impl Signals {
        pub(crate) fn register() -> io::Result<Self> {
            Ok(Self {
                terminate: signal(SignalKind::terminate())?,
                interrupt: signal(SignalKind::interrupt())?,
            })
        }

        /// The first signal begins the stop. The second ends the process at once, as if nobody caught it.
        pub(crate) async fn watch(mut self, shutdown: Shutdown) {
            let name = self.next().await.0;
            tracing::info!(signal = name, "stopping; a second signal ends the process now");
            shutdown.stop();
            let (name, status) = self.next().await;
            tracing::warn!(
                signal = name,
                "a second signal ends the process now; other workers will rescue the work that still ran"
            );
            std::process::exit(status);
        }

        /// The name of the signal, and the status that a shell reports for it.
        async fn next(&mut self) -> (&'static str, i32) {
            tokio::select! {
                _ = self.terminate.recv() => ("SIGTERM", 128 + 15),
                _ = self.interrupt.recv() => ("SIGINT", 128 + 2),
            }
        }
    }
}

#[cfg(test)]
mod tests;
