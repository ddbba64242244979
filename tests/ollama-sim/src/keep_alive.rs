//! Keep-alives: how long a model stays after its last request, given in seconds or as a duration of Go.

use std::time::Duration;

use crate::go_json::{self, Json};

/// How long a model stays after its last request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeepAlive {
    For(Duration),
    Forever,
}

impl KeepAlive {
    /// Parses the keep-alive of a request, in any form that Ollama accepts. `None` for null.
    pub(crate) fn read(value: &Json) -> Result<Option<Self>, String> {
        match value {
            Json::Null => Ok(None),
            Json::Number(number) => {
                let seconds = number.parse::<f64>().map_err(|_| format!("invalid duration {number}"))?;
                Ok(Some(in_seconds(seconds)))
            }
            Json::String(text) => duration(text).map(|seconds| Some(in_seconds(seconds))),
            other => Err(format!("Unsupported type: '{}'", other.kind())),
        }
    }
}

fn in_seconds(seconds: f64) -> KeepAlive {
    match Duration::try_from_secs_f64(seconds) {
        Ok(time) => KeepAlive::For(time),
        // Negative, or too long for a duration.
        Err(_) => KeepAlive::Forever,
    }
}

/// Go's `time.ParseDuration`, in seconds.
fn duration(text: &str) -> Result<f64, String> {
    let quoted = go_json::string(text);
    let invalid = || format!("time: invalid duration {quoted}");
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(0.0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let number: f64 = rest[..digits].parse().map_err(|_| invalid())?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let scale = match &rest[..unit] {
            "" => return Err(format!("time: missing unit in duration {quoted}")),
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            other => {
                return Err(format!("time: unknown unit {} in duration {quoted}", go_json::string(other)));
            }
        };
        seconds += number * scale;
        rest = &rest[unit..];
    }
    Ok(sign * seconds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{RunRequest, Shape};

    #[test]
    fn keep_alives_are_read_in_every_form() {
        use KeepAlive::{For, Forever};
        for (written, meant) in [
            ("0", For(Duration::ZERO)),
            ("-1", Forever),
            ("300", For(Duration::from_secs(300))),
            ("\"0\"", For(Duration::ZERO)),
            ("\"-1m\"", Forever),
            ("\"1h1.5m\"", For(Duration::from_secs(3690))),
            ("\"250ms\"", For(Duration::from_millis(250))),
        ] {
            let body = format!(r#"{{"keep_alive":{written}}}"#);
            let request = RunRequest::decode(Shape::Generate, body.as_bytes()).unwrap();
            assert_eq!(request.keep_alive, Some(meant), "{written}");
        }
        for (written, error) in [
            ("\"soon\"", "time: invalid duration \"soon\""),
            ("\"5\"", "time: missing unit in duration \"5\""),
            ("\"5x\"", "time: unknown unit \"x\" in duration \"5x\""),
        ] {
            let body = format!(r#"{{"keep_alive":{written}}}"#);
            assert_eq!(RunRequest::decode(Shape::Chat, body.as_bytes()).unwrap_err(), error);
        }
    }
}
