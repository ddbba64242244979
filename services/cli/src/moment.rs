//! Durations and moments in words.

use std::time::Duration;

use chrono::{DateTime, Datelike, TimeDelta, Utc};
use indicatif::HumanDuration;

/// The moment that is so long ago, such as `90m`, `2h` or `3d`. `None` if the text is no duration, or is longer than the time
/// since the year 0, before which RFC 3339 has no times.
pub(crate) fn ago(text: &str) -> Option<DateTime<Utc>> {
    let ago = TimeDelta::from_std(humantime::parse_duration(text).ok()?).ok()?;
    Utc::now().checked_sub_signed(ago).filter(|moment| moment.year() >= 0)
}

/// `0.4s`, `42s`, `3m`, `2h`. Short durations keep their tenths, because many models answer within a second.
pub(crate) fn in_words(duration: Duration) -> String {
    if duration < Duration::from_secs(10) {
        format!("{:.1}s", duration.as_secs_f32())
    } else {
        format!("{:#}", HumanDuration(duration))
    }
}

/// Zero where `to` is before `from`, as it may be between the clocks of two machines.
pub(crate) fn between(from: DateTime<Utc>, to: DateTime<Utc>) -> Duration {
    (to - from).to_std().unwrap_or_default()
}

/// `5m ago`, `in 2h`.
pub(crate) fn from_now(at: DateTime<Utc>, now: DateTime<Utc>) -> String {
    if at > now {
        format!("in {}", in_words(between(now, at)))
    } else {
        format!("{} ago", in_words(between(at, now)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_that_is_longer_than_time_has_no_beginning() {
        assert!(ago("1d").unwrap() < ago("23h").unwrap());
        for none in ["3000y", "300000y", "99999999999d", "-1d", "yesterday", ""] {
            assert_eq!(ago(none), None, "{none}");
        }
    }

    #[test]
    fn a_moment_is_before_or_after_now() {
        let now = Utc::now();
        for (millis, said) in [
            (0, "0.0s ago"),
            (-449, "0.4s ago"),
            (-59_000, "59s ago"),
            (-60_000, "60s ago"),
            (-300_000, "5m ago"),
            (7_300_000, "in 2h"),
            (-200_000_000, "2d ago"),
        ] {
            assert_eq!(from_now(now + TimeDelta::milliseconds(millis), now), said);
        }
        assert_eq!(between(now, now - TimeDelta::seconds(1)), Duration::ZERO);
    }
}
