//! Whether to ask the api again after an error, and when.

use std::time::Duration;

use reqwest::StatusCode;
use tokio::time::Instant;

use crate::api::ApiError;

/// While nothing gets through, one job is offered again for this long: somebody waits for its id.
const JOB_FOR: Duration = Duration::from_secs(60);
/// A file may be submitted with nobody there, and must outlive a restart of the api.
const FILE_FOR: Duration = Duration::from_secs(300);
const SHORTEST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(10);

pub(super) struct Patience {
    ask_for: Duration,
    /// A 429 says that the client has as many jobs queued as it may. A file waits for them to run, however long they take.
    waits_for_own_jobs: bool,
    was_reached: bool,
    nothing_since: Option<Instant>,
    next_wait: Duration,
}

impl Patience {
    pub(super) fn for_a_job() -> Self {
        Self {
            ask_for: JOB_FOR,
            waits_for_own_jobs: false,
            was_reached: false,
            nothing_since: None,
            next_wait: SHORTEST_WAIT,
        }
    }

    pub(super) fn for_a_file() -> Self {
        Self { ask_for: FILE_FOR, waits_for_own_jobs: true, ..Self::for_a_job() }
    }

    /// Call this when something got through.
    pub(super) fn renew(&mut self) {
        self.was_reached = true;
        self.nothing_since = None;
        self.next_wait = SHORTEST_WAIT;
    }

    /// How long to wait before asking again. `None` where asking again cannot help, or was tried for long enough.
    pub(super) fn wait_after(&mut self, error: &ApiError) -> Option<Duration> {
        let (at_least, is_own_limit) = match error {
            // An api that was never reached is more likely misnamed than restarting.
            ApiError::Away { .. } if !self.was_reached => return None,
            ApiError::Away { .. } | ApiError::Lost { .. } => (Duration::ZERO, false),
            ApiError::Busy { status, retry_after, .. } => {
                (*retry_after, *status == StatusCode::TOO_MANY_REQUESTS)
            }
            ApiError::Refused { .. } | ApiError::Strange { .. } => return None,
        };
        self.was_reached = true;
        let wait = self.next_wait.max(at_least);
        self.next_wait = (self.next_wait * 2).min(LONGEST_WAIT);
        if is_own_limit && self.waits_for_own_jobs {
            self.nothing_since = None;
            return Some(wait);
        }
        let now = Instant::now();
        let since = *self.nothing_since.get_or_insert(now);
        (now + wait <= since + self.ask_for).then_some(wait)
    }
}
