//! Polls that do not beat in time with those of other processes.

use std::time::Duration;

/// Between three quarters of `period` and five quarters.
pub(crate) fn jittered(period: Duration) -> Duration {
    period.mul_f64(rand::random_range(0.75..1.25))
}
