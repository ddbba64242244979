//! Background work, which has no caller that would handle a failure: how its failures are logged and counted, and the loop
//! in which most of it runs.

use std::convert::Infallible;
use std::time::Duration;

use metrics::counter;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::metrics::Metric;
use crate::stalls;

pub const BACKGROUND_ERRORS: Metric =
    Metric::labelled_counter("foreman_background_errors_total", "Failures of background work, by task.");

/// The wait after a failure. It doubles with each further failure in a row.
const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(5);

/// The wait before work that was interrupted starts again. The most likely cause is that Postgres is away.
const RESTART_DELAY: Duration = Duration::from_secs(1);

/// Counts and logs one failure of background work. The second argument is an error or an `anyhow::Error`. The macro takes
/// it by value, because nobody else handles it, and logs its causes with it. `tracing` fields and a message may follow.
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

/// When the next round of a loop is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Round {
    /// At once: there may be more to do.
    More,
    /// At this moment, unless a wake-up or the poll comes first.
    Until(Instant),
    /// At the next wake-up or poll: nothing is known to come due.
    Idle,
}

/// Work that a loop repeats. Its tests call `run_once`.
pub trait Rounds: Send {
    /// The name in metrics and logs.
    const TASK: &'static str;
    /// How long a round may take. If it takes longer, the loop is stalled.
    const LAWFUL: Duration = stalls::USUAL;
    type Error: Into<anyhow::Error>;

    /// May be written as `async fn`. The loop never drops it in the middle.
    fn run_once(&mut self) -> impl Future<Output = Result<Round, Self::Error>> + Send;

    /// Returns at the next wake-up, and so ends the wait between two rounds. The loop often drops this future. Every
    /// wake-up must still be remembered, also one that comes while a round runs: `Notify::notify_one` and
    /// `watch::Receiver` do that.
    fn woken(&mut self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }
}

/// Runs `rounds` until `stop`. A stop ends a wait, but never a round.
///
/// Between two rounds the loop waits for a wake-up, for the moment that the round named, or for `poll`, [jittered]:
/// whichever comes first. After a failure, which is counted and logged, it waits longer each time.
pub async fn repeat<R: Rounds>(mut rounds: R, stop: &CancellationToken, poll: Duration) {
    let mut delay = FIRST_DELAY;
    while !stop.is_cancelled() {
        let round = stalls::round(R::TASK, R::LAWFUL, rounds.run_once()).await;
        if round.is_ok() {
            delay = FIRST_DELAY;
        }
        match round {
            // A loop that always finds more must still let other tasks run on its thread.
            Ok(Round::More) => yield_now().await,
            Ok(round) => {
                let next_poll = Instant::now() + jittered(poll);
                let due = if let Round::Until(moment) = round { moment.min(next_poll) } else { next_poll };
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = rounds.woken() => {}
                    () = sleep_until(due) => {}
                }
            }
            Err(error) => {
                background_error!(R::TASK, error);
                // A wake-up does not shorten this wait, because it does not say that the cause is gone.
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = sleep(jittered(delay)) => {}
                }
                delay = (delay * 2).min(LONGEST_DELAY);
            }
        }
    }
}

/// Runs `work`, which ends only with an error. Counts and logs each error, and starts `work` again after about a second.
pub async fn keep_running<F, E>(task: &'static str, mut work: impl FnMut() -> F) -> Infallible
where
    F: Future<Output = Result<Infallible, E>>,
    E: Into<anyhow::Error>,
{
    loop {
        let Err(error) = work().await;
        background_error!(task, error, "interrupted; starting again in a second");
        sleep(jittered(RESTART_DELAY)).await;
    }
}

/// A random time between three quarters of `most` and `most`, so that processes do not poll at the same moments.
pub fn jittered(most: Duration) -> Duration {
    most.mul_f64(rand::random_range(0.75..=1.0))
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use tokio::sync::Notify;

    use super::*;
    use crate::metrics::Metrics;
    use crate::shutdown::Shutdown;

    const POLL: Duration = Duration::from_secs(60);

    /// Returns the results that the test wrote down, then stops the loop. Notes when each round began.
    struct Script {
        rounds: std::vec::IntoIter<io::Result<Round>>,
        wake: Arc<Notify>,
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

        async fn woken(&mut self) {
            self.wake.notified().await;
        }
    }

    /// Runs `rounds` one after the other on a task of the process. Returns when each of them began.
    async fn run(wake: Arc<Notify>, rounds: Vec<io::Result<Round>>) -> Vec<Duration> {
        let (shutdown, moments) = (Shutdown::new(), Arc::default());
        let stop = shutdown.soft().clone();
        let script = Script {
            rounds: rounds.into_iter(),
            wake,
            begun: Instant::now(),
            moments: Arc::clone(&moments),
            stop: stop.clone(),
        };
        shutdown.spawn_infallible("test_repeat", async move { repeat(script, &stop, POLL).await });
        shutdown.finished(POLL).await;
        moments.lock().unwrap().clone()
    }

    #[tokio::test(start_paused = true)]
    async fn more_work_is_taken_at_once_and_none_is_polled_for_within_the_poll() {
        let moments = run(Arc::default(), vec![Ok(Round::More), Ok(Round::More), Ok(Round::Idle)]).await;
        assert_eq!(moments[..3], [Duration::ZERO; 3]);
        assert!((POLL.mul_f64(0.75)..=POLL + Duration::from_millis(1)).contains(&moments[3]), "{moments:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_wake_up_during_a_round_is_not_lost() {
        let wake = Arc::<Notify>::default();
        wake.notify_one();
        assert_eq!(run(wake, vec![Ok(Round::Idle)]).await, [Duration::ZERO; 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_round_begins_at_the_moment_that_the_last_one_named_and_at_no_earlier_ones() {
        let now = Instant::now();
        let until = |seconds| Ok(Round::Until(now + Duration::from_secs(seconds)));
        // The second round begins at 3 s and says 5 s, the third begins at 5 s and names no moment any more.
        let moments = run(Arc::default(), vec![until(3), until(5), Ok(Round::Idle)]).await;
        assert_eq!(moments[..3], [0, 3, 5].map(Duration::from_secs));
        assert!(moments[3] - moments[2] >= POLL.mul_f64(0.75), "{moments:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_moment_beyond_the_poll_does_not_put_the_poll_off() {
        let moments = run(Arc::default(), vec![Ok(Round::Until(Instant::now() + POLL * 10))]).await;
        assert!(moments[1] <= POLL + Duration::from_millis(1), "{moments:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_wake_up_ends_the_wait_for_a_moment() {
        let wake = Arc::<Notify>::default();
        let wait = run(Arc::clone(&wake), vec![Ok(Round::Until(Instant::now() + POLL / 2))]);
        let (moments, ()) = tokio::join!(wait, async {
            sleep(Duration::from_secs(1)).await;
            wake.notify_one();
        });
        assert_eq!(moments, [0, 1].map(Duration::from_secs));
    }

    #[tokio::test(start_paused = true)]
    async fn failures_are_counted_and_waited_for_longer_each_time_until_a_success() {
        let metrics = Metrics::install(&[]);
        let failure = || Err(io::Error::other("boom"));
        let mut rounds: Vec<_> = (0..9).map(|_| failure()).collect();
        rounds.push(Ok(Round::More));
        rounds.push(failure());
        let moments = run(Arc::default(), rounds).await;
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
        repeat(Interrupted(stop.clone(), Arc::clone(&finished)), &stop, POLL).await;
        assert!(*finished.lock().unwrap());
        assert_eq!(begun.elapsed(), POLL);
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_is_interrupted_starts_again_after_about_a_second() {
        let begun = Instant::now();
        let mut starts = Vec::new();
        let work = keep_running("test_keep_running", || {
            starts.push(begun.elapsed());
            std::future::ready(Err(io::Error::other("boom")))
        });
        assert!(tokio::time::timeout(Duration::from_millis(1_100), work).await.is_err());
        assert_eq!(starts.len(), 2, "{starts:?}");
    }

    #[test]
    fn an_error_is_told_with_its_causes_on_one_line() {
        let error =
            anyhow::Error::from(io::Error::other("lost\nline")).context("the outcome was not written");
        assert_eq!(one_line(error), "the outcome was not written: lost line");
    }
}
