//! Work that nobody waits for: how its failures are told, and the loop that most of it runs in.

use std::time::Duration;

use metrics::counter;
use tokio::sync::Notify;
use tokio::task::yield_now;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metric;
use crate::stalls;

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

/// A job that is done again and again; `run_once` is what its tests call.
pub trait Rounds: Send {
    /// As metrics and logs name it.
    const TASK: &'static str;
    /// How long a round may lawfully take; beyond that the loop stands still.
    const LAWFUL: Duration = stalls::USUAL;
    type Error: Into<anyhow::Error>;

    /// May be written as `async fn`. It is never dropped in the middle.
    fn run_once(&mut self) -> impl Future<Output = Result<Round, Self::Error>> + Send;
}

/// Runs `rounds` until `stop`, which is looked at between rounds.
///
/// After an idle round it waits for `wake` (use `notify_one`, which is remembered while a round runs), at most
/// for `poll`, [jittered]. After a failure, which is counted
/// and logged, it waits longer each time.
pub async fn repeat<R: Rounds>(mut rounds: R, stop: &CancellationToken, wake: &Notify, poll: Duration) {
    let mut delay = FIRST_DELAY;
    while !stop.is_cancelled() {
        let round = stalls::round(R::TASK, R::LAWFUL, rounds.run_once()).await;
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
                background_error!(R::TASK, error);
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

/// Between three quarters of `most` and all of it, so that processes do not poll in step.
pub fn jittered(most: Duration) -> Duration {
    most.mul_f64(rand::random_range(0.75..=1.0))
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use tokio::time::Instant;

    use super::*;
    use crate::metrics::Metrics;
    use crate::shutdown::Shutdown;

    const POLL: Duration = Duration::from_secs(60);

    /// Answers as written down, then stops the loop; notes when each round began.
    struct Script {
        rounds: std::vec::IntoIter<io::Result<Round>>,
        begun: Instant,
        moments: Arc<Mutex<Vec<Duration>>>,
        stop: CancellationToken,
    }

    impl Rounds for Script {
        const TASK: &'static str = "test_script";
        type Error = io::Error;

        async fn run_once(&mut self) -> io::Result<Round> {
            self.moments.lock().unwrap().push(self.begun.elapsed());
            yield_now().await;
            self.rounds.next().unwrap_or_else(|| {
                self.stop.cancel();
                Ok(Round::Idle)
            })
        }
    }

    /// Runs `rounds` one after the other on a task of the process; gives the moments at which they began.
    async fn run(wake: Notify, rounds: Vec<io::Result<Round>>) -> Vec<Duration> {
        let (shutdown, moments) = (Shutdown::new(), Arc::default());
        let stop = shutdown.soft().clone();
        let script = Script {
            rounds: rounds.into_iter(),
            begun: Instant::now(),
            moments: Arc::clone(&moments),
            stop: stop.clone(),
        };
        shutdown.spawn_infallible("test_repeat", async move { repeat(script, &stop, &wake, POLL).await });
        shutdown.finished(POLL).await;
        moments.lock().unwrap().clone()
    }

    #[tokio::test(start_paused = true)]
    async fn more_work_is_taken_at_once_and_none_is_polled_for_within_the_poll() {
        let moments = run(Notify::new(), vec![Ok(Round::More), Ok(Round::More), Ok(Round::Idle)]).await;
        assert_eq!(moments[..3], [Duration::ZERO; 3]);
        assert!((POLL.mul_f64(0.75)..=POLL + Duration::from_millis(1)).contains(&moments[3]), "{moments:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_wake_up_during_a_round_is_not_lost() {
        let wake = Notify::new();
        wake.notify_one();
        assert_eq!(run(wake, vec![Ok(Round::Idle)]).await, [Duration::ZERO; 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_are_counted_and_waited_for_longer_each_time_until_a_success() {
        let metrics = Metrics::install(&[]);
        let failure = || Err(io::Error::other("boom"));
        let mut rounds: Vec<_> = (0..9).map(|_| failure()).collect();
        rounds.push(Ok(Round::More));
        rounds.push(failure());
        let moments = run(Notify::new(), rounds).await;
        let waits: Vec<_> = moments.windows(2).map(|pair| pair[1] - pair[0]).collect();
        for (wait, most) in waits.iter().zip([100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000, 5_000, 0, 100])
        {
            let most = Duration::from_millis(most);
            // The timer counts whole milliseconds, upwards.
            assert!((most.mul_f64(0.75)..=most + Duration::from_millis(1)).contains(wait), "{waits:?}");
        }
        assert!(metrics.render().contains("foreman_background_errors_total{task=\"test_script\"} 10\n"));
    }

    /// Is asked to stop in the middle of its only round.
    struct Interrupted(CancellationToken, Arc<Mutex<bool>>);

    impl Rounds for Interrupted {
        const TASK: &'static str = "test_interrupted";
        type Error = io::Error;

        async fn run_once(&mut self) -> io::Result<Round> {
            self.0.cancel();
            sleep(POLL).await;
            *self.1.lock().unwrap() = true;
            Ok(Round::Idle)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_ends_every_wait_but_no_round() {
        let (stop, finished, begun) = (CancellationToken::new(), Arc::default(), Instant::now());
        repeat(Interrupted(stop.clone(), Arc::clone(&finished)), &stop, &Notify::new(), POLL).await;
        assert!(*finished.lock().unwrap());
        assert_eq!(begun.elapsed(), POLL);
    }

    #[test]
    fn an_error_is_told_with_its_causes_on_one_line() {
        let error =
            anyhow::Error::from(io::Error::other("lost\nline")).context("the outcome was not written");
        assert_eq!(one_line(error), "the outcome was not written: lost line");
    }
}
