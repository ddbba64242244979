//! The one way a test waits: it asks until the answer is right, and fails with the last wrong answer. No test sleeps for
//! a guessed time, and none asserts how long something took by this machine's clock.

use std::{fmt::Display, time::Duration};

use tokio::time::{Instant, sleep};

/// Far more than anything here needs, so that only a real fault reaches it, even on a busy machine.
const GENEROUS: Duration = Duration::from_secs(30);

/// Between two questions.
const POLL: Duration = Duration::from_millis(10);

/// Asks `check` until it is `Ok`, and returns what it found. `what` completes "… did not come true".
pub async fn eventually<T, E: Display>(what: &str, check: impl AsyncFnMut() -> Result<T, E>) -> T {
    within(GENEROUS, what, check).await
}

/// The same with a deadline of one's own, for what rightly takes long.
pub async fn within<T, E: Display>(
    deadline: Duration,
    what: &str,
    mut check: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    let end = Instant::now() + deadline;
    loop {
        match check().await {
            Ok(found) => return found,
            Err(seen) if Instant::now() >= end => {
                panic!("{what}: did not come true within {deadline:?}; last seen: {seen}")
            }
            Err(_not_yet) => sleep(POLL).await,
        }
    }
}
