//! Work that nobody waits for: how its failures are told, and the loop that most of it runs in.

use std::time::Duration;

use metrics::counter;
use tokio::sync::Notify;
use tokio::task::yield_now;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metric;

pub const BACKGROUND_ERRORS: Metric = Metric::labelled_counter(
    "foreman_background_errors_total",
    "Failures of work in the background, by the task that met them.",
);

/// The wait after a failure, doubled for each in a row.
const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(5);

/// Counts and logs one failure of work that nobody waits for. The second argument is an error or an
/// `anyhow::Error`, taken by value because this is where it ends; its causes are logged with it. `tracing` fields
/// and a message may follow.
///
/// ```
/// # use foreman_runtime::background_error;
/// # fn handle(error: std::io::Error, id: &str) {
/// background_error!("settle", error, job.id = %id, "an outcome was not written");
/// # }
/// ```
#[macro_export]
macro_rules! background_error {
    ($task:expr, $error:expr $(,)?) => {
        $crate::background_error!($task, $error, "work in the background failed")
    };
    ($task:expr, $error:expr, $($fields:tt)+) => {{
        let task: &'static str = $task;
        $crate::background::count(task);
        $crate::__tracing::error!(task, error = $crate::background::one_line($error), $($fields)+);
    }};
}

#[doc(hidden)]
pub fn count(task: &'static str) {
    counter!(BACKGROUND_ERRORS.name, "task" => task).increment(1);
}

/// An error with its causes on one line.
pub fn one_line(error: impl Into<anyhow::Error>) -> String {
    format!("{:#}", error.into()).replace(['\n', '\r'], " ")
}

/// What one round of a loop found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Round {
    /// There may be more: go on at once.
    More,
    /// Nothing to do until a wake-up or the next poll.
    Idle,
}

/// Calls `run_once` until `stop`, which is looked at between rounds: a round is never dropped in the middle.
///
/// After an idle round it waits for `wake` (use `notify_one`, which is remembered while a round runs), at most
/// for `poll`, somewhat less at random so that processes do not poll in step. After a failure, which is counted
/// and logged, it waits longer each time.
pub async fn repeat<E: Into<anyhow::Error>>(
    task: &'static str,
    stop: &CancellationToken,
    wake: &Notify,
    poll: Duration,
    mut run_once: impl AsyncFnMut() -> Result<Round, E>,
) {
    let mut delay = FIRST_DELAY;
    while !stop.is_cancelled() {
        let round = run_once().await;
        if round.is_ok() {
            delay = FIRST_DELAY;
        }
        match round {
            // A loop that always finds more must still let the others on its thread run.
            Ok(Round::More) => yield_now().await,
            Ok(Round::Idle) => tokio::select! {
                () = stop.cancelled() => {}
                () = wake.notified() => {}
                () = sleep(jittered(poll)) => {}
            },
            Err(error) => {
                background_error!(task, error);
                // No wake-up shortens this wait: whoever wakes us does not know that we fail.
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = sleep(jittered(delay)) => {}
                }
                delay = (delay * 2).min(LONGEST_DELAY);
            }
        }
    }
}

fn jittered(most: Duration) -> Duration {
    most.mul_f64(rand::random_range(0.75..=1.0))
}
