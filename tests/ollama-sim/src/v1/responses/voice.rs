//! The events of a streamed response, which Ollama writes from Go's maps: the keys of all objects are sorted.

use serde_json::{Value, json};

use super::Echo;
use crate::go_json;
use crate::v1::{event, id, mark};
use crate::voice::{Call, End, Said, Voice};

/// The voice of `/v1/responses`.
#[derive(Debug)]
pub(super) struct Responses {
    echo: Echo,
    simulated: bool,
    /// The id of the message.
    item: String,
    /// The number of the next event.
    sequence: u64,
    /// The items that are complete.
    output: Vec<Value>,
    /// The id of the thoughts that are being told, and the thoughts so far.
    thinking: Option<(String, String)>,
    /// The text so far, once the message began.
    text: Option<String>,
}

impl Responses {
    pub(super) fn new(echo: Echo, simulated: bool) -> Self {
        Self {
            echo,
            simulated,
            item: id("msg_", 999_999),
            sequence: 0,
            output: Vec::new(),
            thinking: None,
            text: None,
        }
    }

    fn tell(&mut self, out: &mut String, kind: &str, mut data: Value) {
        data["type"] = kind.into();
        data["sequence_number"] = self.sequence.into();
        data.sort_all_objects();
        self.sequence += 1;
        event(out, &data);
    }

    /// Tells an event of the item that is being written.
    fn tell_of_item(&mut self, out: &mut String, kind: &str, mut data: Value) {
        data["output_index"] = self.output.len().into();
        self.tell(out, kind, data);
    }

    fn begin(&mut self, out: &mut String) {
        if self.sequence > 0 {
            return;
        }
        let response = self.echo.response("in_progress", &[], &self.echo.reasoning(), None);
        self.tell(out, "response.created", json!({"response": response}));
        self.tell(out, "response.in_progress", json!({"response": response}));
    }

    fn think(&mut self, out: &mut String, more: &str) {
        let (item, mut thoughts) = match self.thinking.take() {
            Some(thinking) => thinking,
            None => {
                let item = id("rs_", 999_999);
                let begun = json!({"item": {"id": item, "type": "reasoning", "summary": []}});
                self.tell_of_item(out, "response.output_item.added", begun);
                (item, String::new())
            }
        };
        thoughts.push_str(more);
        let delta = json!({"item_id": item, "summary_index": 0, "delta": more});
        self.tell_of_item(out, "response.reasoning_summary_text.delta", delta);
        self.thinking = Some((item, thoughts));
    }

    fn stop_thinking(&mut self, out: &mut String) {
        let Some((item, thoughts)) = self.thinking.take() else { return };
        let done = json!({"item_id": item, "summary_index": 0, "text": thoughts});
        self.tell_of_item(out, "response.reasoning_summary_text.done", done);
        self.complete(out, reasoning(&item, &thoughts));
    }

    fn say(&mut self, out: &mut String, more: &str) {
        let item = self.item.clone();
        if self.text.is_none() {
            let begun = json!({"item": {
                "id": item, "type": "message", "status": "in_progress", "role": "assistant", "content": [],
            }});
            self.tell_of_item(out, "response.output_item.added", begun);
            let part = json!({"item_id": item, "content_index": 0, "part": part("")});
            self.tell_of_item(out, "response.content_part.added", part);
        }
        self.text.get_or_insert_default().push_str(more);
        let delta = json!({"item_id": item, "content_index": 0, "delta": more, "logprobs": []});
        self.tell_of_item(out, "response.output_text.delta", delta);
    }

    fn stop_saying(&mut self, out: &mut String) {
        let Some(text) = self.text.take() else { return };
        let item = self.item.clone();
        let done = json!({"item_id": item, "content_index": 0, "text": text, "logprobs": []});
        self.tell_of_item(out, "response.output_text.done", done);
        let part = json!({"item_id": item, "content_index": 0, "part": part(&text)});
        self.tell_of_item(out, "response.content_part.done", part);
        self.complete(out, message(&item, &text));
    }

    fn call(&mut self, out: &mut String, call: &Call) {
        let item = format!("{}_0", id("fc_", 999_999));
        let begun = json!({"item": {
            "id": item, "type": "function_call", "status": "in_progress", "call_id": call.id, "name": call.name,
            "arguments": "",
        }});
        self.tell_of_item(out, "response.output_item.added", begun);
        let delta = json!({"item_id": item, "delta": call.arguments});
        self.tell_of_item(out, "response.function_call_arguments.delta", delta);
        let done = json!({"item_id": item, "arguments": call.arguments});
        self.tell_of_item(out, "response.function_call_arguments.done", done);
        self.complete(out, function_call(item, call));
    }

    fn complete(&mut self, out: &mut String, item: Value) {
        self.tell_of_item(out, "response.output_item.done", json!({"item": item}));
        self.output.push(item);
    }
}

fn part(text: &str) -> Value {
    json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
}

fn reasoning(id: &str, thoughts: &str) -> Value {
    json!({
        "id": id,
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": thoughts}],
        // Ollama encrypts nothing.
        "encrypted_content": thoughts,
    })
}

fn message(id: &str, text: &str) -> Value {
    json!({"id": id, "type": "message", "status": "completed", "role": "assistant", "content": [part(text)]})
}

fn function_call(id: String, call: &Call) -> Value {
    json!({
        "id": id,
        "type": "function_call",
        "status": "completed",
        "call_id": call.id,
        "name": call.name,
        "arguments": call.arguments,
    })
}

impl Voice for Responses {
    fn part(&mut self, out: &mut String, said: &Said) {
        self.begin(out);
        if !said.thinking.is_empty() {
            self.think(out, &said.thinking);
        }
        if !said.tool_calls.is_empty() || !said.text.is_empty() {
            self.stop_thinking(out);
        }
        if !said.text.is_empty() {
            self.say(out, &said.text);
        }
        for call in &said.tool_calls {
            self.call(out, call);
        }
    }

    fn last(&mut self, out: &mut String, end: &End) {
        self.begin(out);
        self.stop_thinking(out);
        self.stop_saying(out);
        let mut response = self.echo.response("completed", &self.output, &self.echo.reasoning(), Some(end));
        mark(&mut response, self.simulated);
        self.tell(out, "response.completed", json!({"response": response}));
    }

    /// Ollama takes its own error for a part without content, so the stream just ends.
    fn failed(&mut self, _: &mut String, _: &str) {}

    fn whole(&mut self, said: &Said, end: Option<&End>) -> String {
        let response = &self.echo.id;
        let mut output = Vec::new();
        if !said.thinking.is_empty() {
            output.push(reasoning(&format!("rs_{response}"), &said.thinking));
        }
        match said.tool_calls.is_empty() {
            true => output.push(message(&self.item, &said.text)),
            false => output.extend(
                said.tool_calls
                    .iter()
                    .enumerate()
                    .map(|(at, call)| function_call(format!("fc_{response}_{at}"), call)),
            ),
        }
        let broken_off = End::default();
        let mut answer = self.echo.response(
            "completed",
            &output,
            &self.echo.reasoning_without_nulls(),
            Some(end.unwrap_or(&broken_off)),
        );
        mark(&mut answer, self.simulated);
        go_json::marshal(&answer)
    }
}
