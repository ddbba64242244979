//! Whether the loops of this process make progress. Each round of a loop has a longest time that it may take. If a round
//! lasts longer, the loop is stalled, and the metric and `/readyz` name it. A loop that waits for work is in no round, so it
//! is never stalled.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use metrics::gauge;
use tokio::time::Instant;

use crate::metrics::Metric;

pub const STALLED: Metric = Metric::gauge(
    "foreman_loop_stalled_seconds",
    "By how much the current round of a loop has exceeded the time that it may take; 0 while the loop makes progress or waits.",
);

/// Enough for a few statements, each up to its deadline, and for the waits for a connection.
pub const USUAL: Duration = Duration::from_secs(60);

/// A loop that is stalled for longer will hardly go on by itself. Then other processes should do its work.
const UNREADY_AFTER: Duration = Duration::from_secs(30);

/// For each loop that has ever run here: when each of its current rounds must have ended. One for the whole process, like
/// the metrics.
static LOOPS: Mutex<BTreeMap<&'static str, Vec<Instant>>> = Mutex::new(BTreeMap::new());

/// One round of a loop. Dropping the value ends the round.
#[derive(Debug)]
struct Round {
    task: &'static str,
    due: Instant,
}

impl Drop for Round {
    fn drop(&mut self) {
        let mut loops = loops();
        let under_way = loops.entry(self.task).or_default();
        if let Some(index) = under_way.iter().position(|due| *due == self.due) {
            under_way.swap_remove(index);
        }
    }
}

/// Runs one round of the loop `task`. The round may take as long as `lawful`.
pub async fn round<T>(task: &'static str, lawful: Duration, round: impl Future<Output = T>) -> T {
    let this = Round { task, due: Instant::now() + lawful };
    loops().entry(task).or_default().push(this.due);
    let result = round.await;
    drop(this);
    result
}

/// Sets the metric of every loop.
pub(crate) fn publish() {
    for (task, under_way) in loops().iter() {
        gauge!(STALLED.name, "task" => *task).set(beyond(under_way).as_secs_f64());
    }
}

/// Checks that no loop is stalled for so long that the process is not ready any more.
pub(crate) fn check() -> Result<(), String> {
    let stalled = loops().iter().map(|(task, under_way)| (beyond(under_way), *task)).max();
    match stalled {
        Some((longest, task)) if longest > UNREADY_AFTER => Err(format!(
            "the loop {task} has stood still for {} s; look for {task} in the log, and restart this process if the log does not explain it",
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
        // A round whose future is dropped has ended too.
        _ = timeout(USUAL * 3, round("test_stall", USUAL, pending::<()>())).await;
        assert_eq!(check(), Ok(()));
    }
}
