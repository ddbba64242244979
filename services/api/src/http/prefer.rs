//! Reads `Prefer: wait=N` and `Prefer: respond-async` (RFC 7240). A preference that we do not understand is ignored, as the RFC asks.

use std::time::Duration;

use axum::http::HeaderMap;

/// The longest wait for a job.
pub(crate) const MAX_WAIT: Duration = Duration::from_secs(60);

/// The wait that the client prefers, at most [`MAX_WAIT`]. `None` if it prefers no wait.
pub(crate) fn preferred_wait(headers: &HeaderMap) -> Option<Duration> {
    // If the preference is repeated, the first one counts.
    let wait = preferences(headers).find_map(|preference| {
        let (name, value) = preference.split_once('=')?;
        name.trim().eq_ignore_ascii_case("wait").then(|| value.trim().trim_matches('"').to_owned())
    })?;
    let seconds: u64 = wait.parse().ok()?;
    (seconds > 0).then(|| Duration::from_secs(seconds).min(MAX_WAIT))
}

/// Whether the client prefers a job instead of the answer.
pub(crate) fn responds_async(headers: &HeaderMap) -> bool {
    preferences(headers).any(|name| name.trim().eq_ignore_ascii_case("respond-async"))
}

/// All preferences, each without its parameters.
fn preferences(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let lines = headers.get_all("prefer").iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).filter_map(|preference| preference.split(';').next())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_found_among_other_preferences() {
        let wait = |lines: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append("prefer", axum::http::HeaderValue::from_static(line));
            }
            preferred_wait(&headers).map(|wait| wait.as_secs())
        };
        for lines in [
            &["wait=10"][..],
            &["respond-async, Wait = 10"],
            &["return=minimal", "wait=\"10\"; x=1"],
            &["wait=10, wait=20"],
        ] {
            assert_eq!(wait(lines), Some(10), "{lines:?}");
        }
        assert_eq!(wait(&["wait=3600"]), Some(60));
        for lines in
            [&[][..], &["wait"], &["wait=0"], &["wait=-1"], &["wait=x"], &["waiting=10"], &["wait=1.5"]]
        {
            assert_eq!(wait(lines), None, "{lines:?}");
        }
    }
}
