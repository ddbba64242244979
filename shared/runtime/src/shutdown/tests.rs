//! For which tasks a stop waits, and how long, in virtual time. `tests/` sends real signals to a real process.

use std::convert::Infallible;
use std::future::pending;
use std::io;

use tokio::time::{Instant, sleep};

use super::*;
use crate::metrics::Metrics;

const GRACE: Duration = Duration::from_secs(25);

fn errors_of(task: &str) -> Option<String> {
    let text = Metrics::install(&[]).render();
    let start = format!("foreman_background_errors_total{{task=\"{task}\"}} ");
    text.lines().find_map(|line| line.strip_prefix(&start)).map(str::to_owned)
}

#[tokio::test(start_paused = true)]
async fn tasks_that_end_when_asked_make_a_clean_end_at_once() {
    let (shutdown, begun) = (Shutdown::new(), Instant::now());
    let soft = shutdown.soft().clone();
    shutdown.spawn("test_obedient", async move {
        soft.cancelled().await;
        Ok::<_, Infallible>(())
    });
    shutdown.stop();
    assert_eq!(shutdown.finished(GRACE).await, ShutdownResult::Clean);
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn running_work_has_all_but_the_last_3_seconds_and_then_hands_back() {
    let (shutdown, begun) = (Shutdown::new(), Instant::now());
    let hard = shutdown.hard().clone();
    shutdown.spawn_work("test_work", async move {
        hard.cancelled().await;
        assert_eq!(begun.elapsed(), GRACE - HAND_BACK);
        sleep(Duration::from_secs(2)).await;
    });
    shutdown.stop();
    assert_eq!(shutdown.finished(GRACE).await, ShutdownResult::Clean);
    assert_eq!(begun.elapsed().as_secs(), 24);
}

#[tokio::test(start_paused = true)]
async fn of_a_short_grace_half_is_kept_for_handing_back() {
    let (shutdown, begun) = (Shutdown::new(), Instant::now());
    let hard = shutdown.hard().clone();
    shutdown.spawn_work("test_work", async move { hard.cancelled().await });
    shutdown.stop();
    assert_eq!(shutdown.finished(Duration::from_secs(2)).await, ShutdownResult::Clean);
    assert_eq!(begun.elapsed().as_secs(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_does_not_even_hand_back_is_dropped_before_the_grace_ends() {
    let (shutdown, begun) = (Shutdown::new(), Instant::now());
    shutdown.spawn_work("test_stubborn", pending());
    shutdown.spawn_work("test_stubborn", pending());
    shutdown.spawn_work("test_other", pending());
    assert_eq!(shutdown.running(), "test_other, test_stubborn ×2");
    shutdown.stop();
    assert_eq!(shutdown.finished(GRACE).await, ShutdownResult::Failed);
    assert!((GRACE - Duration::from_secs(1)..GRACE).contains(&begun.elapsed()), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_task_that_ends_unasked_takes_the_process_with_it() {
    Metrics::install(&[]);
    let shutdown = Shutdown::new();
    shutdown.spawn("test_early", async { Ok::<_, Infallible>(()) });
    assert_eq!(errors_of("test_early").as_deref(), Some("0"), "it exists before it counts");
    assert_eq!(shutdown.finished(GRACE).await, ShutdownResult::Failed);
    assert_eq!(errors_of("test_early").as_deref(), Some("1"));
}

#[tokio::test]
async fn a_task_that_fails_or_panics_takes_the_process_with_it() {
    Metrics::install(&[]);
    let shutdown = Shutdown::new();
    shutdown.spawn("test_error", async { Err(io::Error::other("boom")) });
    assert_eq!(shutdown.finished(GRACE).await, ShutdownResult::Failed);
    assert_eq!(errors_of("test_error").as_deref(), Some("1"));

    let shutdown = Shutdown::new();
    shutdown.spawn_work("test_panic", async { panic!("boom") });
    assert_eq!(shutdown.finished(GRACE).await, ShutdownResult::Failed);
    assert_eq!(errors_of("test_panic").as_deref(), Some("1"));
    assert_eq!(shutdown.running(), "");
}

#[tokio::test]
async fn a_failure_while_stopping_is_a_failure_too() {
    let shutdown = Shutdown::new();
    let soft = shutdown.soft().clone();
    shutdown.spawn("test_late", async move {
        soft.cancelled().await;
        Err(io::Error::other("could not hand back"))
    });
    shutdown.stop();
    assert_eq!(shutdown.finished(GRACE).await, ShutdownResult::Failed);
}

#[tokio::test]
async fn work_that_ends_or_is_aborted_is_no_failure() {
    let shutdown = Shutdown::new();
    shutdown.spawn_work("test_work", async {});
    shutdown.spawn_work("test_work", pending()).abort();
    shutdown.stop();
    assert_eq!(shutdown.finished(GRACE).await, ShutdownResult::Clean);
    assert_eq!(shutdown.running(), "");
}

#[tokio::test]
async fn work_spawned_while_stopping_is_waited_for() {
    let shutdown = Shutdown::new();
    let (done, inner) = (Arc::new(AtomicBool::new(false)), shutdown.clone());
    let (soft, flag) = (shutdown.soft().clone(), Arc::clone(&done));
    shutdown.spawn_work("test_outer", async move {
        soft.cancelled().await;
        inner.spawn_work("test_inner", async move {
            tokio::task::yield_now().await;
            flag.store(true, Ordering::Release);
        });
    });
    shutdown.stop();
    assert_eq!(shutdown.finished(GRACE).await, ShutdownResult::Clean);
    assert!(done.load(Ordering::Acquire));
}
