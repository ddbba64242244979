//! `/v1/completions`: OpenAI's completions on top of `/api/generate`.

use serde_json::{Value, json};

use super::{Fields, data, id, mark, now, usage};
use crate::go_json;
use crate::request::RunRequest;
use crate::voice::{Asked, End, Said, Voice};

pub(crate) fn read(body: &[u8], simulated: bool) -> Result<Asked, String> {
    let fields = Fields::decode("openai.CompletionRequest", body)?;
    let model = fields.text("model")?;
    let mut options = fields.options(
        &[("max_tokens", "num_predict"), ("seed", "seed")],
        &["temperature", "top_p", "frequency_penalty", "presence_penalty"],
    )?;
    options.extend(fields.stop());
    let usage = fields.get("stream_options").and_then(|options| options.get("include_usage"));
    let voice = Completions {
        id: id("cmpl-", 999),
        created: now(),
        model: model.clone(),
        usage: usage == Some(&go_json::Json::Bool(true)),
        simulated,
    };
    let request = RunRequest {
        model,
        prompt: fields.text("prompt")?,
        suffix: fields.text("suffix")?,
        stream: Some(fields.flag("stream")?),
        options,
        ..RunRequest::default()
    };
    Ok(Asked { request, voice: Box::new(voice) })
}

/// The voice of `/v1/completions`.
#[derive(Debug)]
struct Completions {
    id: String,
    created: i64,
    model: String,
    /// Whether every chunk has counts of tokens, which are zero in all but the last.
    usage: bool,
    simulated: bool,
}

impl Completions {
    fn chunk(&self, model: &str, choices: Value, end: Option<&End>) -> Value {
        let mut chunk = json!({
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "choices": choices,
            "model": model,
            "system_fingerprint": "fp_ollama",
        });
        if self.usage {
            chunk["usage"] = usage(end);
        }
        chunk
    }
}

fn choice(text: &str, reason: Option<&str>) -> Value {
    json!([{"text": text, "index": 0, "finish_reason": reason}])
}

impl Voice for Completions {
    fn part(&mut self, out: &mut String, said: &Said) {
        data(out, &self.chunk(&self.model, choice(&said.text, None), None));
    }

    fn last(&mut self, out: &mut String, end: &End) {
        let mut last = self.chunk(&self.model, choice("", Some(end.reason)), None);
        mark(&mut last, self.simulated);
        data(out, &last);
        if self.usage {
            data(out, &self.chunk(&self.model, json!([]), Some(end)));
        }
        out.push_str("data: [DONE]\n\n");
    }

    /// Ollama takes its own error for a chunk without text, so the error text is lost.
    fn failed(&mut self, out: &mut String, _: &str) {
        data(out, &self.chunk("", choice("", None), None));
    }

    fn whole(&mut self, said: &Said, end: Option<&End>) -> String {
        let mut answer = json!({
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.model,
            "system_fingerprint": "fp_ollama",
            "choices": choice(&said.text, end.map(|end| end.reason)),
            "usage": usage(end),
        });
        mark(&mut answer, self.simulated);
        go_json::marshal(&answer)
    }
}
