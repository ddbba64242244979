//! Watches an answer that is passed on as it comes: whether it is complete, whether Ollama reports an error in it, and how many
//! tokens it took.
//!
//! Must never change a byte, and must read no more of a piece than it needs: most pieces are single tokens.

use serde_json::Value;

use crate::classify::{error_text, stream_failure};
use crate::failure::Failure;
use crate::generation::AnswerHead;
use crate::pieces::Pieces;
use crate::route::Route;

/// What a piece means for the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relay {
    More,
    /// The answer is complete.
    Last,
}

/// Tokens, as Ollama counted them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub prompt_tokens: Option<u64>,
    pub completion_tokens: Option<u64>,
}

/// An answer whose pieces are watched.
#[derive(Debug)]
pub struct Relayed {
    route: Route,
    pieces: Pieces,
    usage: Usage,
    is_complete: bool,
}

impl Relayed {
    pub fn new(route: Route, head: &AnswerHead) -> Self {
        Self { route, pieces: head.pieces(), usage: Usage::default(), is_complete: false }
    }

    /// Looks at a piece. An error that Ollama reports in it becomes the failure behind it.
    pub fn push(&mut self, piece: &[u8]) -> Result<Relay, Failure> {
        match self.pieces {
            Pieces::Lines => self.object(piece)?,
            Pieces::Events => self.event(piece)?,
            // An answer that is no stream is complete when its connection says so.
            Pieces::Whole => {
                self.object(piece)?;
                self.is_complete = true;
            }
        }
        Ok(if self.is_complete { Relay::Last } else { Relay::More })
    }

    /// The tokens of the answer, if it was complete.
    pub fn finish(self) -> Result<Usage, Failure> {
        if self.is_complete { Ok(self.usage) } else { Err(Failure::EndedEarly) }
    }

    /// A line of a native stream, or an answer that is no stream.
    fn object(&mut self, text: &[u8]) -> Result<(), Failure> {
        if self.pieces == Pieces::Lines && !contains(text, b"\"done\":true") && !contains(text, b"\"error\"")
        {
            return Ok(());
        }
        let object: Value =
            serde_json::from_slice(text).map_err(|error| Failure::Unreadable { what: error.to_string() })?;
        self.fails(&object, text)?;
        self.is_complete |= object["done"] == true;
        self.count(&object);
        Ok(())
    }

    fn event(&mut self, event: &[u8]) -> Result<(), Failure> {
        for line in event.split(|byte| *byte == b'\n') {
            let Some(data) = line.strip_prefix(b"data:") else { continue };
            let data = data.trim_ascii();
            if data == b"[DONE]" {
                self.is_complete = true;
            }
            let tells = |word: &[u8]| contains(data, word);
            if !tells(b"\"usage\"")
                && !tells(b"\"error\"")
                && !tells(b"\"message_stop\"")
                && !tells(b"\"response.")
            {
                continue;
            }
            let Ok(object) = serde_json::from_slice::<Value>(data) else { continue };
            self.fails(&object, data)?;
            let kind = object["type"].as_str().unwrap_or_default();
            self.is_complete |= match self.route {
                Route::Messages => kind == "message_stop",
                Route::Responses => {
                    matches!(kind, "response.completed" | "response.incomplete" | "response.failed")
                }
                _ => false,
            };
            self.count(&object);
            self.count(&object["response"]);
            self.count(&object["message"]);
        }
        Ok(())
    }

    /// An `error` that is not null ends an answer. The object of `/v1/responses` always has the key.
    fn fails(&self, object: &Value, text: &[u8]) -> Result<(), Failure> {
        if object.get("error").is_none_or(Value::is_null) {
            return Ok(());
        }
        Err(stream_failure(&error_text(text).unwrap_or_default()))
    }

    /// Notes the tokens that an object tells. The last word counts.
    fn count(&mut self, object: &Value) {
        let count =
            |key: &str| object.get(key).or_else(|| object.get("usage")?.get(key)).and_then(Value::as_u64);
        let prompt = ["prompt_eval_count", "prompt_tokens", "input_tokens"].into_iter().find_map(count);
        let completion = ["eval_count", "completion_tokens", "output_tokens"].into_iter().find_map(count);
        self.usage.prompt_tokens = prompt.or(self.usage.prompt_tokens);
        self.usage.completion_tokens = completion.or(self.usage.completion_tokens);
    }
}

fn contains(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|part| part == word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(content_type: &str) -> AnswerHead {
        AnswerHead { status: 200, content_type: Some(content_type.to_owned()), content_length: None }
    }

    /// The usage of an answer of these pieces, or the code of its failure.
    fn watch(route: Route, content_type: &str, pieces: &[&str]) -> Result<Usage, &'static str> {
        let mut relayed = Relayed::new(route, &head(content_type));
        for piece in pieces {
            relayed.push(piece.as_bytes()).map_err(|failure| failure.code())?;
        }
        relayed.finish().map_err(|failure| failure.code())
    }

    const LINES: &str = "application/x-ndjson";
    const EVENTS: &str = "text/event-stream";
    const JSON: &str = "application/json";

    #[test]
    fn every_surface_says_in_its_own_way_that_an_answer_is_complete() {
        let usage = |prompt, completion| Ok(Usage { prompt_tokens: prompt, completion_tokens: completion });
        for (route, kind, pieces, expected) in [
            (
                Route::Chat,
                LINES,
                &[
                    r#"{"message":{"content":"\"done\":true"},"done":false}"#,
                    "\n",
                    r#"{"done":true,"prompt_eval_count":3,"eval_count":5}"#,
                ][..],
                usage(Some(3), Some(5)),
            ),
            (Route::Generate, LINES, &[r#"{"response":"x","done":false}"#], Err("ollama_ended_early")),
            (Route::Chat, JSON, &[r#"{"done":true,"done_reason":"load"}"#], usage(None, None)),
            (
                Route::ChatCompletions,
                EVENTS,
                &[
                    "data: {\"choices\":[]}\n\n",
                    "data: {\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2}}\n\n",
                    "data: [DONE]\n\n",
                ],
                usage(Some(1), Some(2)),
            ),
            (Route::ChatCompletions, EVENTS, &["data: {\"choices\":[]}\n\n"], Err("ollama_ended_early")),
            (
                Route::ChatCompletions,
                JSON,
                &[r#"{"usage":{"prompt_tokens":1,"completion_tokens":2}}"#],
                usage(Some(1), Some(2)),
            ),
            (
                Route::Responses,
                EVENTS,
                &[
                    "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"error\":null}}\n\n",
                    "event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"error\":null,\"usage\":{\"input_tokens\":7,\"output_tokens\":8}}}\n\n",
                ],
                usage(Some(7), Some(8)),
            ),
            (
                Route::Messages,
                EVENTS,
                &[
                    "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":7,\"output_tokens\":0}}}\n\n",
                    "event: message_delta\ndata: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":9}}\n\n",
                    "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
                ],
                usage(Some(7), Some(9)),
            ),
            (
                Route::Messages,
                EVENTS,
                &["event: message_start\ndata: {\"type\":\"message_start\"}\n\n"],
                Err("ollama_ended_early"),
            ),
        ] {
            assert_eq!(watch(route, kind, pieces), expected, "{route}: {pieces:?}");
        }
    }

    #[test]
    fn an_error_in_the_middle_of_an_answer_is_its_failure() {
        for (route, kind, piece, code) in [
            (
                Route::Chat,
                LINES,
                r#"{"error":"an error was encountered while running the model: unexpected EOF"}"#,
                "runner_stopped",
            ),
            (Route::Chat, LINES, r#"{"error":"something new"}"#, "ollama_error"),
            (
                Route::ChatCompletions,
                EVENTS,
                "data: {\"error\":{\"message\":\"server busy\"}}\n\n",
                "server_busy",
            ),
            (
                Route::Messages,
                EVENTS,
                "event: error\ndata: {\"type\":\"error\",\"error\":{\"message\":\"x\"}}\n\n",
                "ollama_error",
            ),
        ] {
            assert_eq!(watch(route, kind, &[piece]), Err(code), "{piece}");
        }
        let spoken = r#"{"message":{"content":"{\"error\": 5}"},"done":false}"#;
        assert_eq!(watch(Route::Chat, LINES, &[spoken, r#"{"done":true}"#]), Ok(Usage::default()));
    }
}
