//! The only way in which a test waits: it asks until the answer is right, and fails with the last wrong answer.
//!
//! A test must never sleep for a guessed time, and never assert how long something took by this machine's clock.

use std::{fmt::Display, time::Duration};

use tokio::time::{Instant, sleep};

/// Much longer than anything here needs, so that even on a busy machine only a real fault reaches it.
const GENEROUS: Duration = Duration::from_secs(30);

/// The pause between two questions.
const POLL: Duration = Duration::from_millis(10);

/// Asks `check` until it returns `Ok`, and returns that value. `what` completes the sentence "… did not come true".
pub async fn eventually<T, E: Display>(what: &str, check: impl AsyncFnMut() -> Result<T, E>) -> T {
    within(GENEROUS, what, check).await
}

/// The same with another deadline, for conditions that rightly take long.
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
