//! The messages of the model, as Anthropic's clients read them: blocks of thoughts, of text, and of calls of tools.

use serde_json::{Value, json};

use super::id;
use crate::go_json;
use crate::v1::{counts, event, mark};
use crate::voice::{End, Said, Voice};

/// The voice of `/v1/messages`.
#[derive(Debug)]
pub(super) struct Messages {
    id: String,
    model: String,
    /// What the stream says of the prompt's tokens at its start.
    estimate: usize,
    simulated: bool,
    begun: bool,
    /// The block that is being written.
    open: Option<Block>,
    /// The number of that block, or of the next one.
    index: usize,
    /// Whether the model called a tool.
    called: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Block {
    Thinking,
    Text,
}

impl Messages {
    pub(super) fn new(model: String, estimate: usize, simulated: bool) -> Self {
        Self { id: id("msg"), model, estimate, simulated, begun: false, open: None, index: 0, called: false }
    }

    fn begin(&mut self, out: &mut String) {
        if std::mem::replace(&mut self.begun, true) {
            return;
        }
        event(
            out,
            &json!({"type": "message_start", "message": {
                "id": self.id, "type": "message", "role": "assistant", "model": self.model, "content": [],
                "usage": {"input_tokens": self.estimate, "output_tokens": 0},
            }}),
        );
    }

    fn start(&self, out: &mut String, block: &Value) {
        event(out, &json!({"type": "content_block_start", "index": self.index, "content_block": block}));
    }

    fn delta(&self, out: &mut String, delta: &Value) {
        event(out, &json!({"type": "content_block_delta", "index": self.index, "delta": delta}));
    }

    fn stop(&mut self, out: &mut String) {
        event(out, &json!({"type": "content_block_stop", "index": self.index}));
        self.index += 1;
        self.open = None;
    }

    /// Ends the block that is being written, unless it is the wanted one.
    fn turn_to(&mut self, out: &mut String, wanted: Option<Block>) {
        if self.open.is_some() && self.open != wanted {
            self.stop(out);
        }
        if self.open.is_none()
            && let Some(block) = wanted
        {
            self.start(
                out,
                &match block {
                    Block::Thinking => json!({"type": "thinking", "thinking": ""}),
                    Block::Text => json!({"type": "text", "text": ""}),
                },
            );
            self.open = wanted;
        }
    }
}

impl Voice for Messages {
    fn part(&mut self, out: &mut String, said: &Said) {
        self.begin(out);
        if !said.thinking.is_empty() {
            self.turn_to(out, Some(Block::Thinking));
            self.delta(out, &json!({"type": "thinking_delta", "thinking": said.thinking}));
        }
        if !said.text.is_empty() {
            self.turn_to(out, Some(Block::Text));
            self.delta(out, &json!({"type": "text_delta", "text": said.text}));
        }
        for call in &said.tool_calls {
            self.turn_to(out, None);
            self.start(out, &json!({"type": "tool_use", "id": call.id, "name": call.name, "input": {}}));
            self.delta(out, &json!({"type": "input_json_delta", "partial_json": call.arguments}));
            self.stop(out);
            self.called = true;
        }
    }

    fn last(&mut self, out: &mut String, end: &End) {
        self.begin(out);
        self.turn_to(out, None);
        let (input, output) = counts(Some(end));
        let mut last = json!({
            "type": "message_delta",
            "delta": {"stop_reason": stop_reason(end, self.called)},
            "usage": {"input_tokens": input, "output_tokens": output},
        });
        mark(&mut last, self.simulated);
        event(out, &last);
        event(out, &json!({"type": "message_stop"}));
    }

    /// Ollama takes its own error for a part without content, so the stream just ends.
    fn failed(&mut self, _: &mut String, _: &str) {}

    fn whole(&mut self, said: &Said, end: Option<&End>) -> String {
        let mut content = Vec::new();
        if !said.thinking.is_empty() {
            content.push(json!({"type": "thinking", "thinking": said.thinking}));
        }
        if !said.text.is_empty() {
            content.push(json!({"type": "text", "text": said.text}));
        }
        content.extend(said.tool_calls.iter().map(|call| {
            let input: Value = serde_json::from_str(&call.arguments).unwrap_or_default();
            json!({"type": "tool_use", "id": call.id, "name": call.name, "input": input})
        }));
        let mut answer = json!({
            "id": self.id, "type": "message", "role": "assistant", "model": self.model,
            "content": if content.is_empty() { Value::Null } else { content.into() },
        });
        if let Some(end) = end {
            answer["stop_reason"] = stop_reason(end, !said.tool_calls.is_empty()).into();
        }
        let (input, output) = counts(end);
        answer["usage"] = json!({"input_tokens": input, "output_tokens": output});
        mark(&mut answer, self.simulated);
        go_json::marshal(&answer)
    }
}

fn stop_reason(end: &End, called: bool) -> &'static str {
    match end.reason {
        _ if called => "tool_use",
        "stop" => "end_turn",
        "length" => "max_tokens",
        _ => "stop_sequence",
    }
}
