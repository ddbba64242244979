//! The routes that embed: `/api/embed`, the older `/api/embeddings`, and `/v1/embeddings`.
//!
//! A request for embeddings needs a runner and a slot like any other, so it throws other models out.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::Response;
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use crate::faults::{Due, Stage, Trouble};
use crate::go_json::{self, Json};
use crate::http::{self, Body, Cut, ResponseOrCut};
use crate::journal::Entry;
use crate::keep_alive::KeepAlive;
use crate::log::{Kind, Outcome};
use crate::model::Model;
use crate::ollama::Ollama;
use crate::orders::Orders;
use crate::request::RunRequest;
use crate::residency::Lease;
use crate::runner::{NoRunner, Runner};
use crate::v1::{self, Fields, embeddings};
use crate::vectors::{EmbedRequest, Vectors, tokens};

/// A route that embeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    Embed,
    Embeddings,
    V1,
}

impl Route {
    pub(crate) fn at(path: &str) -> Option<Self> {
        [Self::Embed, Self::Embeddings, Self::V1].into_iter().find(|route| route.path() == path)
    }

    fn path(self) -> &'static str {
        match self {
            Self::Embed => "/api/embed",
            Self::Embeddings => "/api/embeddings",
            Self::V1 => "/v1/embeddings",
        }
    }

    fn read(self, body: &[u8]) -> Result<EmbedRequest, String> {
        let of = match self {
            Self::Embed => "api.EmbedRequest",
            Self::Embeddings => "api.EmbeddingRequest",
            Self::V1 => return embeddings::read(body),
        };
        let fields = Fields::decode(of, body).map_err(|error| match error.as_str() {
            "EOF" => "missing request body".to_owned(),
            _ => error,
        })?;
        let input = match self {
            Self::Embed => fields.get("input").cloned(),
            _ => Some(Json::String(fields.text("prompt")?)),
        };
        let options = match fields.get("options") {
            Some(Json::Object(members)) => members.clone(),
            _ => Vec::new(),
        };
        Ok(EmbedRequest {
            model: fields.text("model")?,
            input,
            keep_alive: fields.get("keep_alive").map_or(Ok(None), KeepAlive::read)?,
            options,
            truncate: fields.get("truncate").map(|truncate| *truncate == Json::Bool(true)),
            dimensions: fields.integer("dimensions")?,
            base64: false,
        })
    }

    fn error(self, status: u16, text: &str) -> Response<Body> {
        match self {
            Self::Embed | Self::Embeddings => http::error(status, text),
            Self::V1 => v1::error(status, text),
        }
    }

    /// The refusal of a body that [`Self::read`] cannot read.
    fn unreadable(self, text: &str) -> Response<Body> {
        match self {
            Self::Embed | Self::Embeddings => http::error(400, text),
            Self::V1 => v1::unreadable(text),
        }
    }

    /// The failure when the process that embeds has died.
    fn runner_gone(self) -> Failed {
        // Only the older route tells Ollama's failures from those of the client.
        let status = if self == Self::Embeddings { 500 } else { 400 };
        Failed::Refused(
            status,
            "do embedding request: Post \"http://127.0.0.1:40557/embedding\": EOF".to_owned(),
        )
    }

    /// Checks that only the runner can make.
    fn check(
        self,
        asked: &EmbedRequest,
        texts: &[String],
        model: &Model,
        num_ctx: i64,
    ) -> Result<(), Failed> {
        if !model.embeds_only && !model.can("embedding") {
            let status = if self == Self::Embeddings { 500 } else { 501 };
            let text = "This server does not support embeddings. Start it with `--embeddings`";
            return Err(Failed::Refused(status, text.to_owned()));
        }
        let most = u64::try_from(num_ctx).unwrap_or_default();
        if asked.truncate == Some(false) && texts.iter().any(|text| tokens(text) > most) {
            return Err(Failed::Refused(400, "the input length exceeds the context length".to_owned()));
        }
        Ok(())
    }

    fn answer(self, asked: &EmbedRequest, vectors: &Vectors, total: Duration, load: Duration) -> Value {
        match self {
            Self::V1 => embeddings::answer(asked, vectors),
            Self::Embeddings => {
                // This route widens the numbers, which shows all their digits.
                let numbers: Vec<_> = vectors.all.iter().flatten().copied().map(f64::from).collect();
                json!({"embedding": numbers})
            }
            Self::Embed => {
                let all: Vec<_> = vectors.all.iter().map(|vector| Vectors::numbers(vector)).collect();
                let mut answer = json!({"model": asked.model, "embeddings": all});
                if !vectors.all.is_empty() {
                    let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
                    answer["total_duration"] = nanos(total).into();
                    answer["load_duration"] = nanos(load).into();
                    answer["prompt_eval_count"] = vectors.tokens.into();
                }
                answer
            }
        }
    }

    fn whole(self, answer: &Value) -> Response<Body> {
        match self {
            Self::Embed | Self::Embeddings => http::json(go_json::marshal(answer)),
            Self::V1 => http::json_line(200, go_json::marshal(answer)),
        }
    }
}

/// The texts to embed. None of them means that the model is only loaded.
fn texts(input: Option<&Json>) -> Result<Vec<String>, String> {
    let invalid = || "invalid input type".to_owned();
    match input {
        None => Ok(Vec::new()),
        Some(Json::String(text)) if text.is_empty() => Ok(Vec::new()),
        Some(Json::String(text)) => Ok(vec![text.clone()]),
        Some(Json::Array(items)) => {
            items.iter().map(|item| item.as_str().map(str::to_owned).ok_or_else(invalid)).collect()
        }
        Some(_) => Err(invalid()),
    }
}

/// What a request holds while it is served.
#[derive(Debug, Default)]
struct Held {
    lease: Option<Lease>,
    slot: Option<OwnedSemaphorePermit>,
}

/// Why there are no vectors.
#[derive(Debug)]
enum Failed {
    Unreadable(String),
    Refused(u16, String),
    EndedEarly,
    Cut,
}

impl From<NoRunner> for Failed {
    fn from(failure: NoRunner) -> Self {
        failure.answer().map_or(Self::Cut, |(status, text)| Self::Refused(status, text))
    }
}

impl Ollama {
    pub(crate) async fn embed(self: &Arc<Self>, route: Route, body: Bytes) -> ResponseOrCut {
        // The log hears of the end before the slot is free, and so never counts more runs than slots.
        let mut held = Held::default();
        let mut entry = self.journal.open(route.path(), body.clone());
        match self.answer_with_vectors(route, &mut entry, &mut held, body).await {
            Ok(answer) => {
                entry.end(Outcome::Done);
                Ok(route.whole(&answer))
            }
            Err(Failed::Unreadable(text)) => {
                entry.end(Outcome::Refused(400));
                Ok(route.unreadable(&text))
            }
            Err(Failed::Refused(status, text)) => {
                entry.end(Outcome::Refused(status));
                Ok(route.error(status, &text))
            }
            Err(Failed::EndedEarly) => {
                entry.end(Outcome::Cut);
                Ok(http::json(Bytes::new()))
            }
            Err(Failed::Cut) => {
                entry.end(Outcome::Cut);
                Err(Cut)
            }
        }
    }

    async fn answer_with_vectors(
        &self,
        route: Route,
        entry: &mut Entry,
        held: &mut Held,
        body: Bytes,
    ) -> Result<Value, Failed> {
        let arrived = Instant::now();
        let asked = route.read(&body).map_err(Failed::Unreadable)?;
        let texts = texts(asked.input.as_ref()).map_err(|text| Failed::Refused(400, text))?;
        // Faults and orders look at a request that runs a model.
        let request = RunRequest {
            model: asked.model.clone(),
            prompt: texts.join(" "),
            keep_alive: asked.keep_alive,
            options: asked.options.clone(),
            ..RunRequest::default()
        };
        match self.due(Stage::Arrival, &request, &body).map(|due| due.what) {
            None => {}
            Some(Trouble::Error { status, text }) => return Err(Failed::Refused(status, text)),
            Some(Trouble::Hang) => std::future::pending().await,
            Some(Trouble::RunnerKilled | Trouble::Reset | Trouble::EndEarly) => return Err(Failed::Cut),
        }
        let model = self.find(&asked.model).cloned().ok_or_else(|| {
            let name = go_json::string(&asked.model);
            Failed::Refused(404, format!("model {name} not found, try pulling it first"))
        })?;
        let (options, _) = self.options(&request, &model).map_err(|text| Failed::Refused(500, text))?;
        entry.is(if texts.is_empty() { Kind::Load } else { Kind::Run }, &model.name, &body);
        let lease = held.lease.insert(self.acquire(entry, &model, options, &request, &body).await?);
        let load = arrived.elapsed();
        let num_ctx = lease.runner.options.num_ctx;
        if !texts.is_empty() {
            route.check(&asked, &texts, &model, num_ctx)?;
            let fault = self.due(Stage::Run, &request, &body);
            let runner = Arc::clone(&lease.runner);
            tokio::select! {
                biased;
                () = runner.killed.cancelled() => return Err(route.runner_gone()),
                worked = self.work(route, entry, held, &runner, fault, &request.prompt) => worked?,
            }
        }
        let vectors = Vectors::of(&asked, &texts, &model, num_ctx);
        let mut answer = route.answer(&asked, &vectors, arrived.elapsed(), load);
        v1::mark(&mut answer, self.config.simulated_mark);
        Ok(answer)
    }

    /// Waits for a slot, and works for as long as a prompt takes. A fault happens at the end.
    async fn work(
        &self,
        route: Route,
        entry: &mut Entry,
        held: &mut Held,
        runner: &Runner,
        fault: Option<Due>,
        prompt: &str,
    ) -> Result<(), Failed> {
        // The slots of a runner are never closed.
        held.slot = Arc::clone(&runner.slots).acquire_owned().await.ok();
        entry.started();
        let delay = Orders::read(prompt).prompt_delay.unwrap_or(self.config.prompt_delay);
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        match fault.map(|fault| fault.what) {
            None => Ok(()),
            Some(Trouble::Error { status, text }) => Err(Failed::Refused(status, text)),
            Some(Trouble::RunnerKilled) => {
                runner.killed.cancel();
                Err(route.runner_gone())
            }
            Some(Trouble::Hang) => std::future::pending().await,
            Some(Trouble::Reset) => Err(Failed::Cut),
            Some(Trouble::EndEarly) => Err(Failed::EndedEarly),
        }
    }
}
