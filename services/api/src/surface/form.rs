//! What Foreman itself says on the connection of a sync call, beside Ollama's answer: signs of life while the call waits, and
//! an error where the head of the answer is gone already. Each surface has its own form.
//!
//! Every form was seen to be taken by the real clients of its surface. Must never write something that a client takes for a
//! part of an answer.

use axum::http::{HeaderMap, HeaderValue};
use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use foreman_ollama::{ModelName, Route, SyncBody, error_text, no_embeddings};
use foreman_store::JobId;
use foreman_webhook::rfc3339;
use serde_json::{Value, json};

use super::{Surface, error};
use crate::forecasts::Prospect;
use crate::refusal::Refusal;

/// OpenAI's own libraries send it.
const OPENAIS_LIBRARY: &str = "x-stainless-lang";

/// How one call is spoken to.
#[derive(Debug, Clone)]
pub(crate) struct Form {
    route: Route,
    /// Whether the caller wants a stream.
    stream: bool,
    /// As the caller wrote it.
    model: String,
    /// The same as Ollama compares it.
    canonical: String,
    /// The helpers of OpenAI's libraries (`responses.stream`) take no event before `response.created`, and no event about a
    /// response with another id. Such a caller is shown comments, which count as signs for its time-out. Others, such as Codex,
    /// count only events.
    takes_only_ollamas_events: bool,
}

impl Form {
    pub(crate) fn of(body: &SyncBody, headers: &HeaderMap) -> Self {
        Self {
            route: body.route,
            stream: body.stream,
            model: body.model.clone(),
            canonical: ModelName::canonical(&body.model),
            takes_only_ollamas_events: headers.contains_key(OPENAIS_LIBRARY),
        }
    }

    /// The model as Ollama compares it.
    pub(crate) fn canonical(&self) -> &str {
        &self.canonical
    }

    pub(crate) fn streams(&self) -> bool {
        self.stream
    }

    /// The content type of an answer that begins before Ollama's own head is known. It is what Ollama would say.
    pub(crate) fn content_type(&self) -> &'static str {
        match (self.stream, Surface::of(self.route.path())) {
            (true, Surface::Ollama | Surface::Native) => "application/x-ndjson",
            (true, _) => "text/event-stream",
            (false, Surface::Ollama | Surface::Native) => "application/json; charset=utf-8",
            (false, _) => "application/json",
        }
    }

    /// A sign of life: shows the caller that its call is alive.
    pub(crate) fn sign(&self, job: JobId, runs: bool, prospect: &Prospect, now: DateTime<Utc>) -> Bytes {
        if !self.stream {
            // JSON may begin with white space.
            return Bytes::from_static(b" ");
        }
        let created_at = now.to_rfc3339_opts(SecondsFormat::Nanos, true);
        match self.route {
            Route::Chat => line(&json!({
                "model": self.model, "created_at": created_at,
                "message": {"role": "assistant", "content": ""}, "done": false,
            })),
            Route::Generate => {
                line(&json!({"model": self.model, "created_at": created_at, "response": "", "done": false}))
            }
            Route::ChatCompletions | Route::Completions => comment(prospect),
            Route::Responses if self.takes_only_ollamas_events => comment(prospect),
            // Never a stream.
            Route::Embed | Route::Embeddings | Route::OpenAiEmbeddings => Bytes::new(),
            Route::Responses => {
                let (kind, status) = if runs {
                    ("response.in_progress", "in_progress")
                } else {
                    ("response.queued", "queued")
                };
                event(
                    kind,
                    &json!({"type": kind, "sequence_number": 0, "response": self.response(job, status, now)}),
                )
            }
            Route::Messages => {
                let ping = event("ping", &json!({"type": "ping"}));
                // The ping is the sign of life. A comment follows only where it tells something.
                if *prospect == Prospect::default() {
                    ping
                } else {
                    [ping, comment(prospect)].concat().into()
                }
            }
        }
    }

    /// Ends a stream with an error. `None` for an answer that is not a stream: only a broken connection keeps its caller from
    /// taking the error for an answer.
    pub(crate) fn error(&self, refusal: &Refusal, job: JobId, now: DateTime<Utc>) -> Option<Bytes> {
        if !self.stream {
            return None;
        }
        let surface = Surface::of(self.route.path());
        let (_, body) = error::write(surface, refusal, None);
        Some(match self.route {
            Route::Responses => {
                // OpenAI's libraries know the second event, and Codex the first one.
                let error = json!({"code": "server_error", "message": refusal.sentence()});
                let mut response = self.response(job, "failed", now);
                response["error"] = error;
                let failed = event(
                    "response.failed",
                    &json!({"type": "response.failed", "sequence_number": 0, "response": response}),
                );
                let mut said: Value = serde_json::from_slice(&body).unwrap_or_default();
                said["type"] = "error".into();
                said["sequence_number"] = 1.into();
                said["message"] = refusal.sentence().into();
                let said = event("error", &said);
                if self.takes_only_ollamas_events { said } else { [failed, said].concat().into() }
            }
            _ => self.wrap(&body),
        })
    }

    /// Ends a stream with the body of an error that Ollama answered. `None` as for [`Self::error`].
    pub(crate) fn ollamas_error(
        &self,
        body: &[u8],
        status: Refusal,
        job: JobId,
        now: DateTime<Utc>,
    ) -> Option<Bytes> {
        match self.route {
            Route::Responses => {
                let text = error_text(body).unwrap_or_else(|| status.sentence().to_owned());
                self.error(&status.with_sentence(text), job, now)
            }
            _ => self.stream.then(|| self.wrap(body)),
        }
    }

    /// Puts the body of an error into a stream.
    fn wrap(&self, body: &[u8]) -> Bytes {
        let body = String::from_utf8_lossy(body.trim_ascii()).replace(['\n', '\r'], " ");
        Bytes::from(match self.route {
            Route::Chat | Route::Generate | Route::Embed | Route::Embeddings => format!("{body}\n"),
            Route::OpenAiEmbeddings | Route::ChatCompletions | Route::Completions | Route::Responses => {
                format!("data: {body}\n\n")
            }
            Route::Messages => format!("event: error\ndata: {body}\n\n"),
        })
    }

    /// The object of `/v1/responses` with every field that its type requires.
    fn response(&self, job: JobId, status: &str, now: DateTime<Utc>) -> Value {
        json!({
            "id": format!("resp_{job}"), "object": "response", "created_at": now.timestamp(), "status": status,
            "background": false, "error": null, "incomplete_details": null, "instructions": null, "metadata": {},
            "model": self.model, "output": [], "parallel_tool_calls": true, "temperature": null, "tool_choice": "auto",
            "tools": [], "top_p": null,
        })
    }

    /// The answer to an unload, as Ollama gives it.
    pub(crate) fn unloaded(&self, now: DateTime<Utc>) -> (HeaderValue, Bytes) {
        let json = HeaderValue::from_static("application/json; charset=utf-8");
        if self.route.embeds() {
            return (json, no_embeddings(self.route, &self.model).into());
        }
        let created_at = now.to_rfc3339_opts(SecondsFormat::Nanos, true);
        let mut answer = json!({"model": self.model, "created_at": created_at});
        if self.route == Route::Chat {
            answer["message"] = json!({"role": "assistant", "content": ""});
        } else {
            answer["response"] = "".into();
        }
        answer["done"] = true.into();
        answer["done_reason"] = "unload".into();
        (json, answer.to_string().into())
    }
}

/// A comment, which clients leave out, for people who look at the stream.
fn comment(prospect: &Prospect) -> Bytes {
    let Prospect { position, eta, waiting_for } = prospect;
    let mut text = ": waiting".to_owned();
    if let Some(position) = position {
        text += &format!("; position {position}");
    }
    if let Some(eta) = eta {
        text += &format!("; expected to begin at {}", rfc3339(*eta));
    }
    if let Some(why) = waiting_for {
        text += &format!("; {}", why.replace(['\n', '\r'], " "));
    }
    (text + "\n\n").into()
}

fn line(value: &Value) -> Bytes {
    format!("{value}\n").into()
}

fn event(kind: &str, data: &Value) -> Bytes {
    format!("event: {kind}\ndata: {data}\n\n").into()
}
