//! What Ollama's own routes answer: every key in Ollama's own order, with zeros left out where Go leaves them out.

use std::fmt::Write as _;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};

use crate::go_json;
use crate::request::Shape;
use crate::voice::{Call, End, Said, Voice};

/// The voice of `/api/chat` and `/api/generate`.
#[derive(Clone, Debug)]
pub(crate) struct Native {
    pub(crate) shape: Shape,
    /// The model as the client wrote it, as JSON.
    pub(crate) model: String,
    pub(crate) simulated: bool,
}

impl Voice for Native {
    fn part(&mut self, out: &mut String, said: &Said) {
        self.answer(out, said, None);
        out.push('\n');
    }

    /// The last line contains no text.
    fn last(&mut self, out: &mut String, end: &End) {
        self.answer(out, &Said::default(), Some(end));
        out.push('\n');
    }

    fn failed(&mut self, out: &mut String, text: &str) {
        out.push_str(&error(text));
        out.push('\n');
    }

    fn whole(&mut self, said: &Said, end: Option<&End>) -> String {
        let mut out = String::with_capacity(160 + said.text.len());
        self.answer(&mut out, said, end);
        out
    }
}

impl Native {
    fn answer(&self, out: &mut String, said: &Said, end: Option<&End>) {
        out.push_str("{\"model\":");
        out.push_str(&self.model);
        _ = write!(out, ",\"created_at\":\"{}\"", timestamp(Utc::now()));
        let chat = self.shape == Shape::Chat;
        out.push_str(if chat {
            ",\"message\":{\"role\":\"assistant\",\"content\":"
        } else {
            ",\"response\":"
        });
        go_json::write_string(out, &said.text);
        if !said.thinking.is_empty() {
            out.push_str(",\"thinking\":");
            go_json::write_string(out, &said.thinking);
        }
        if chat {
            write_calls(out, said);
            out.push('}');
        }
        _ = write!(out, ",\"done\":{}", end.is_some());
        if let Some(end) = end {
            _ = write!(out, ",\"done_reason\":\"{}\"", end.reason);
        }
        if chat {
            write_list(out, "logprobs", &said.logprobs);
        }
        if let Some(end) = end {
            write_metrics(out, end);
        }
        if !chat {
            write_calls(out, said);
            write_list(out, "logprobs", &said.logprobs);
        }
        if self.simulated && end.is_some() {
            out.push_str(",\"simulated\":true");
        }
        out.push('}');
    }
}

fn write_metrics(out: &mut String, end: &End) {
    write_list(out, "context", &end.context);
    let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    for (key, value) in [
        ("total_duration", nanos(end.total)),
        ("load_duration", nanos(end.load)),
        ("prompt_eval_count", end.prompt_tokens),
        ("prompt_eval_duration", nanos(end.prompt)),
        ("eval_count", end.eval_count),
        ("eval_duration", nanos(end.eval)),
    ] {
        if value > 0 {
            _ = write!(out, ",\"{key}\":{value}");
        }
    }
}

fn write_calls(out: &mut String, said: &Said) {
    let numbered: Vec<_> = said
        .tool_calls
        .iter()
        .map(|Call { id, index, name, arguments }| {
            let name = go_json::string(name);
            format!(r#"{{"id":"{id}","function":{{"index":{index},"name":{name},"arguments":{arguments}}}}}"#)
        })
        .collect();
    write_list(out, "tool_calls", &numbered);
}

fn write_list<T: ToString>(out: &mut String, key: &str, items: &[T]) {
    if !items.is_empty() {
        let items: Vec<_> = items.iter().map(T::to_string).collect();
        _ = write!(out, ",\"{key}\":[{}]", items.join(","));
    }
}

/// A time as Go writes it: nanoseconds, without trailing zeros.
pub(crate) fn timestamp(time: DateTime<Utc>) -> String {
    let text = time.to_rfc3339_opts(SecondsFormat::Nanos, true);
    let text = text.trim_end_matches('Z').trim_end_matches('0').trim_end_matches('.');
    format!("{text}Z")
}

/// A moment in the future. `None` is Go's longest duration, which stands for "for ever".
pub(crate) fn time_from_now(after: Option<Duration>) -> String {
    let forever = TimeDelta::nanoseconds(i64::MAX);
    let after = after.map_or(forever, |after| TimeDelta::from_std(after).unwrap_or(forever).min(forever));
    timestamp(Utc::now() + after)
}

pub(crate) fn error(text: &str) -> String {
    format!("{{\"error\":{}}}", go_json::string(text))
}
