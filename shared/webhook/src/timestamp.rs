//! The only form in which Foreman shows a time to others: RFC 3339, UTC, milliseconds, `Z`.
//!
//! The api's answers and the webhooks both use this form, so that one moment is the same text everywhere.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serializer;

/// `2026-11-22T10:38:00.123Z`. Digits below a millisecond are cut off. Rounding up could show a time in the future.
pub fn rfc3339(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// For `#[serde(serialize_with = "foreman_webhook::timestamp::serialize")]`.
pub fn serialize<S: Serializer>(time: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&rfc3339(*time))
}

/// Like [`serialize`], for a time that may be missing. A missing time is written as `null`.
pub fn serialize_option<S: Serializer>(
    time: &Option<DateTime<Utc>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => serialize(time, serializer),
        None => serializer.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_three_digits_and_a_z_whatever_its_precision() {
        for (micros, text) in [
            (1_792_000_000_000_000, "2026-10-14T17:46:40.000Z"),
            (1_792_000_000_123_999, "2026-10-14T17:46:40.123Z"),
            (1_792_000_000_999_999, "2026-10-14T17:46:40.999Z"),
        ] {
            assert_eq!(rfc3339(DateTime::from_timestamp_micros(micros).unwrap()), text);
        }
    }
}
