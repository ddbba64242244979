//! Reads values that more than one kind of request has.

use chrono::{DateTime, Utc};
use foreman_store::JobState;

use crate::refusal::Refusal;

/// Reads a time in RFC 3339, with any offset. `None` stands for a value that is no text: a number could be seconds or
/// milliseconds.
pub(crate) fn moment(field: &str, code: &'static str, text: Option<&str>) -> Result<DateTime<Utc>, Refusal> {
    let moment = text.and_then(|text| DateTime::parse_from_rfc3339(text).ok());
    moment.map(|moment| moment.to_utc()).ok_or_else(|| {
        let error = format!("`{field}` must be a time as in RFC 3339, such as \"2027-01-31T08:00:00Z\"");
        Refusal::bad_request(code, error)
    })
}

/// The states with these names, each once. `None` if there is none, or one that no state has.
pub(crate) fn states<'a>(names: impl IntoIterator<Item = &'a str>) -> Option<Vec<JobState>> {
    let mut states = Vec::new();
    for name in names {
        let state = name.parse().ok()?;
        if !states.contains(&state) {
            states.push(state);
        }
    }
    (!states.is_empty()).then_some(states)
}

/// The names of all states, for the sentence of a refusal.
pub(crate) fn state_names() -> String {
    JobState::ALL.map(JobState::as_str).join(", ")
}

/// The beginning of a client's text, so that the sentence of a refusal stays one that people read.
pub(crate) fn excerpt(text: &str) -> String {
    text.chars().take(64).collect()
}
