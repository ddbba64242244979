//! Whether the loops of this process get on. Each reports how long its rounds may lawfully take; one whose round lasts longer
//! stands still, and both the metric and `/readyz` name it. A loop that waits for work stands nowhere and reports nothing.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use metrics::gauge;
use tokio::time::Instant;

use crate::metrics::Metric;

pub const STALLED: Metric = Metric::gauge(
    "foreman_loop_stalled_seconds",
    "How much longer than it may the round under way of a loop has lasted; 0 while it gets on or has nothing to do.",
);

/// A few statements, each with its deadline, and the waits for a connection.
pub const USUAL: Duration = Duration::from_secs(60);

/// A loop that stands still for longer will hardly go on by itself, and others should do its work.
const UNREADY_AFTER: Duration = Duration::from_secs(30);

/// For each task that has ever run here: when its rounds under way are due. One for the process, as the metrics are.
static LOOPS: Mutex<BTreeMap<&'static str, Vec<Instant>>> = Mutex::new(BTreeMap::new());

/// One round of a loop; it ends with the value.
#[derive(Debug)]
struct Round {
    task: &'static str,
    due: Instant,
}

impl Drop for Round {
    fn drop(&mut self) {
        let mut loops = loops();
        let under_way = loops.entry(self.task).or_default();
        if let Some(place) = under_way.iter().position(|due| *due == self.due) {
            under_way.swap_remove(place);
        }
    }
}

/// Runs one round of the loop `task`, which may lawfully take so long.
pub async fn round<T>(task: &'static str, lawful: Duration, round: impl Future<Output = T>) -> T {
    let this = Round { task, due: Instant::now() + lawful };
    loops().entry(task).or_default().push(this.due);
    let answer = round.await;
    drop(this);
    answer
}

/// Sets the metric for every loop.
pub(crate) fn publish() {
    for (task, under_way) in loops().iter() {
        gauge!(STALLED.name, "task" => *task).set(beyond(under_way).as_secs_f64());
    }
}

/// Whether the process may call itself ready.
pub(crate) fn check() -> Result<(), String> {
    let stalled = loops().iter().map(|(task, under_way)| (beyond(under_way), *task)).max();
    match stalled {
        Some((longest, task)) if longest > UNREADY_AFTER => Err(format!(
            "the loop {task} has stood still for {} s; look into the log for it, and restart this process if that says nothing",
            longest.as_secs()
        )),
        _ => Ok(()),
    }
}

fn beyond(under_way: &[Instant]) -> Duration {
    let first = under_way.iter().min();
    first.map_or(Duration::ZERO, |due| Instant::now().saturating_duration_since(*due))
}

fn loops() -> MutexGuard<'static, BTreeMap<&'static str, Vec<Instant>>> {
    LOOPS.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::time::{advance, timeout};

    use super::*;
    use crate::metrics::Metrics;

    #[tokio::test(start_paused = true)]
    async fn a_loop_stands_still_once_its_round_lasts_longer_than_it_may() {
        let metrics = Metrics::install(&[]);
        let stalled = |seconds: u64| {
            let line = format!("foreman_loop_stalled_seconds{{task=\"test_stall\"}} {seconds}\n");
            publish();
            assert!(metrics.render().contains(&line), "{}", metrics.render());
        };
        round("test_stall", USUAL, async {
            stalled(0);
            advance(USUAL + Duration::from_secs(20)).await;
            stalled(20);
            assert_eq!(check(), Ok(()), "it may still get on");
            advance(Duration::from_secs(11)).await;
            let problem = check().unwrap_err();
            assert!(problem.starts_with("the loop test_stall has stood still for 31 s"), "{problem}");
        })
        .await;
        stalled(0);
        assert_eq!(check(), Ok(()));
        // One that is given up ends its round, too.
        _ = timeout(USUAL * 3, round("test_stall", USUAL, pending::<()>())).await;
        assert_eq!(check(), Ok(()));
    }
}
