//! Times as people say them: how long, and how long ago.

use std::time::Duration;

use chrono::{DateTime, Utc};

/// As exact as one wants to know: `0.4 s`, `42 s`, `3 min 5 s`, `2 h 10 min`, `3 d 4 h`.
pub(crate) fn long(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    match seconds {
        0..10 => format!("{}.{} s", seconds, duration.subsec_millis() / 100),
        10..60 => format!("{seconds} s"),
        60..3_600 => format!("{minutes} min {} s", seconds % 60),
        3_600..86_400 => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

/// The time between two moments, none where the clocks disagree.
pub(crate) fn between(from: DateTime<Utc>, to: DateTime<Utc>) -> Duration {
    (to - from).to_std().unwrap_or_default()
}

/// The largest unit says enough: `0.4 s`, `42 s`, `3 min`, `2 h`, `3 d`.
pub(crate) fn about(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => long(duration),
        60..3_600 => format!("{} min", seconds / 60),
        3_600..86_400 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// `5 min ago`, `in 2 h`.
pub(crate) fn from_now(at: DateTime<Utc>, now: DateTime<Utc>) -> String {
    if at > now {
        format!("in {}", about(between(now, at)))
    } else {
        format!("{} ago", about(between(at, now)))
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    #[test]
    fn durations_are_said_as_people_say_them() {
        for (millis, said) in [
            (0, "0.0 s"),
            (449, "0.4 s"),
            (9_999, "9.9 s"),
            (10_000, "10 s"),
            (61_000, "1 min 1 s"),
            (3_600_000, "1 h 0 min"),
            (100_000_000, "1 d 3 h"),
        ] {
            assert_eq!(long(Duration::from_millis(millis)), said);
        }
    }

    #[test]
    fn a_moment_is_before_or_after_now() {
        let now = Utc::now();
        for (seconds, said) in [
            (0, "0.0 s ago"),
            (-59, "59 s ago"),
            (-60, "1 min ago"),
            (7_300, "in 2 h"),
            (-200_000, "2 d ago"),
        ] {
            assert_eq!(from_now(now + TimeDelta::seconds(seconds), now), said);
        }
        assert_eq!(between(now, now - TimeDelta::seconds(1)), Duration::ZERO);
    }
}
