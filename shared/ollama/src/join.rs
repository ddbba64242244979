//! Joins the stream of `/api/chat` or `/api/generate` into exactly the answer that Ollama would have sent without
//! streaming.
//!
//! Must never decode a text or a list: the bytes between their quotes and brackets are joined, so that numbers,
//! escapes and the order of keys stay Ollama's own.

use std::time::Duration;

use serde_json::value::RawValue;

use crate::classify::stream_failure;
use crate::failure::Failure;
use crate::object::{self, Members};
use crate::route::{Route, RunKind};

/// Collects the lines of one answer.
#[derive(Debug)]
pub struct Join {
    kind: RunKind,
    limit: usize,
    text: String,
    thinking: String,
    logprobs: String,
    tool_calls: String,
    lines: usize,
    last: Option<String>,
}

/// Whether the answer goes on after a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    More,
    /// The line said `done: true`. Only after this line [`Join::finish`] succeeds.
    Last,
}

/// A complete answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// One JSON object, byte for byte as Ollama encodes it, without a newline.
    pub body: String,
    pub metrics: Metrics,
}

/// The counts of the last line. Ollama leaves zeros out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Metrics {
    /// Tokens of the prompt.
    pub prompt_eval_count: u64,
    /// Tokens of the answer.
    pub eval_count: u64,
    pub load_duration: Duration,
    pub total_duration: Duration,
}

impl Join {
    /// `limit` bounds the joined answer, in bytes. A longer answer fails the job without a retry.
    pub fn new(route: Route, limit: usize) -> Self {
        let empty = String::new;
        Self {
            kind: route.kind(),
            limit,
            text: empty(),
            thinking: empty(),
            logprobs: empty(),
            tool_calls: empty(),
            lines: 0,
            last: None,
        }
    }

    /// Takes one line. An `{"error": …}` line, which Ollama may send after a 200 too, becomes the failure behind it.
    pub fn push(&mut self, line: &[u8]) -> Result<Pushed, Failure> {
        let line = std::str::from_utf8(line).map_err(unreadable)?.trim();
        if line.is_empty() {
            return Ok(Pushed::More);
        }
        let members = Members::parse(line).map_err(unreadable)?;
        if let Some(error) = members.get("error") {
            let text = serde_json::from_str::<String>(error.get());
            return Err(stream_failure(&text.unwrap_or_else(|_| error.get().to_owned())));
        }
        if self.last.is_some() {
            return Err(unreadable("it went on after its end"));
        }
        self.lines += 1;
        match self.kind {
            RunKind::Chat => {
                if let Some(message) = members.get("message") {
                    let message = Members::parse(message.get()).map_err(unreadable)?;
                    push_text(&mut self.text, message.get("content"));
                    push_text(&mut self.thinking, message.get("thinking"));
                    push_items(&mut self.tool_calls, message.get("tool_calls"));
                }
            }
            RunKind::Generate => {
                push_text(&mut self.text, members.get("response"));
                push_text(&mut self.thinking, members.get("thinking"));
                push_items(&mut self.tool_calls, members.get("tool_calls"));
            }
            // Its answer is one object.
            RunKind::Embed => {}
        }
        push_items(&mut self.logprobs, members.get("logprobs"));
        let done = members.get("done").is_some_and(|done| done.get() == "true");
        let tail = if done { line.len() } else { 0 };
        let gathered = self.text.len() + self.thinking.len() + self.logprobs.len() + self.tool_calls.len();
        if gathered + tail > self.limit {
            return Err(Failure::TooLarge { limit: self.limit });
        }
        if done {
            self.last = Some(line.to_owned());
            Ok(Pushed::Last)
        } else {
            Ok(Pushed::More)
        }
    }

    /// The joined answer, if the stream was complete.
    pub fn finish(self) -> Result<Joined, Failure> {
        let last = self.last.as_deref().ok_or(Failure::EndedEarly)?;
        let members = Members::parse(last).map_err(unreadable)?;
        let count = |key| members.get(key).and_then(|raw| raw.get().parse::<u64>().ok()).unwrap_or(0);
        let metrics = Metrics {
            prompt_eval_count: count("prompt_eval_count"),
            eval_count: count("eval_count"),
            load_duration: Duration::from_nanos(count("load_duration")),
            total_duration: Duration::from_nanos(count("total_duration")),
        };
        // The answer to a load, or of an Ollama that did not stream, is a single line.
        let body = if self.lines == 1 { last.to_owned() } else { self.body(&members)? };
        Ok(Joined { body, metrics })
    }

    /// The last line, completed with the values of the lines before it, each in the place that Ollama's own
    /// structures give it.
    fn body(&self, last: &Members<'_>) -> Result<String, Failure> {
        let text = format!("\"{}\"", self.text);
        let thinking = quoted(&self.thinking, '"', '"');
        let tool_calls = quoted(&self.tool_calls, '[', ']');
        let logprobs = quoted(&self.logprobs, '[', ']');
        match self.kind {
            RunKind::Chat => {
                let message = last.get("message").map_or("{}", RawValue::get);
                let message = Members::parse(message).map_err(unreadable)?;
                let mut message = Fields::of(&message);
                message.set("tool_calls", tool_calls.as_deref(), &["tool_name", "tool_call_id"]);
                message.set(
                    "thinking",
                    thinking.as_deref(),
                    &["images", "tool_calls", "tool_name", "tool_call_id"],
                );
                message.set("content", Some(&text), &["thinking", "images", "tool_calls"]);
                let message = message.write();
                let mut answer = Fields::of(last);
                answer.set("message", Some(&message), &["done"]);
                answer.set("logprobs", logprobs.as_deref(), &METRICS);
                Ok(answer.write())
            }
            RunKind::Embed => Ok(Fields::of(last).write()),
            RunKind::Generate => {
                let mut answer = Fields::of(last);
                answer.set("logprobs", logprobs.as_deref(), &IMAGE);
                answer.set(
                    "tool_calls",
                    tool_calls.as_deref(),
                    &["_debug_info", "logprobs", IMAGE[0], IMAGE[1], IMAGE[2]],
                );
                answer.set("thinking", thinking.as_deref(), &["done"]);
                answer.set("response", Some(&text), &["thinking", "done"]);
                Ok(answer.write())
            }
        }
    }
}

/// In a chat, the keys of the last line that come after all others. Generate has more keys after them.
const METRICS: [&str; 6] = [
    "total_duration",
    "load_duration",
    "prompt_eval_count",
    "prompt_eval_duration",
    "eval_count",
    "eval_duration",
];
/// The last keys of generate.
const IMAGE: [&str; 3] = ["image", "completed", "total"];

/// The members of an answer while it is put together.
struct Fields<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Fields<'a> {
    fn of(members: &'a Members<'a>) -> Self {
        Self(members.0.iter().map(|member| (member.key.as_ref(), member.value.get())).collect())
    }

    /// Replaces a member in its place, or inserts it before the first of the members in `ahead_of`. `None` removes the
    /// member, because Ollama would have left it out.
    fn set(&mut self, key: &'a str, value: Option<&'a str>, ahead_of: &[&str]) {
        let Some(value) = value else {
            return self.0.retain(|(known, _)| *known != key);
        };
        match self.0.iter_mut().find(|(known, _)| *known == key) {
            Some(member) => member.1 = value,
            None => {
                let place =
                    self.0.iter().position(|(known, _)| ahead_of.contains(known)).unwrap_or(self.0.len());
                self.0.insert(place, (key, value));
            }
        }
    }

    fn write(self) -> String {
        object::write(self.0)
    }
}

/// Appends the inside of a JSON string.
fn push_text(gathered: &mut String, raw: Option<&RawValue>) {
    let inside = raw.and_then(|raw| raw.get().strip_prefix('"')?.strip_suffix('"'));
    gathered.push_str(inside.unwrap_or_default());
}

/// Appends the inside of a JSON array.
fn push_items(gathered: &mut String, raw: Option<&RawValue>) {
    let inside =
        raw.and_then(|raw| raw.get().strip_prefix('[')?.strip_suffix(']')).unwrap_or_default().trim();
    if !inside.is_empty() {
        if !gathered.is_empty() {
            gathered.push(',');
        }
        gathered.push_str(inside);
    }
}

fn quoted(inside: &str, open: char, close: char) -> Option<String> {
    (!inside.is_empty()).then(|| format!("{open}{inside}{close}"))
}

fn unreadable(what: impl ToString) -> Failure {
    Failure::Unreadable { what: what.to_string() }
}
