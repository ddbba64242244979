//! A request that runs a model, from its arrival to its answer: every refusal in Ollama's words.

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use crate::faults::{Due, Stage, Trouble};
use crate::generation::{Broken, Run, Start};
use crate::go_json::{self, Json};
use crate::http::{Cut, ResponseOrCut};
use crate::journal::Entry;
use crate::keep_alive::KeepAlive;
use crate::log::{Kind, Outcome};
use crate::model::{self, Model};
use crate::ollama::Ollama;
use crate::request::{RunRequest, Shape};
use crate::runner::NoRunner;
use crate::script::{self, Plan};
use crate::surface::{Form, Surface};
use crate::voice::Asked;

/// A refusal: status and text.
type Refusal = (u16, String);

impl Ollama {
    pub(crate) async fn run(self: &Arc<Self>, surface: Surface, body: Bytes) -> ResponseOrCut {
        let arrived = Instant::now();
        let mut entry = self.journal.open(surface.path(), body.clone());
        let Asked { request, mut voice } = match surface.read(&body, self.config.simulated_mark) {
            Ok(asked) => asked,
            Err(text) => {
                entry.end(Outcome::Refused(400));
                return Ok(surface.unreadable(&text));
            }
        };
        let (shape, form) = (surface.shape(), Form::of(surface, &request));
        if let Some(Due { what, .. }) = self.due(Stage::Arrival, &request, &body) {
            return match what {
                Trouble::Error { status, text } => refuse(entry, form, status, &text),
                Trouble::Hang => std::future::pending().await,
                Trouble::RunnerKilled | Trouble::Reset | Trouble::EndEarly => cut(entry),
            };
        }
        let model = match self.check(shape, &request) {
            Ok(model) => Arc::clone(model),
            Err((status, text)) => return refuse(entry, form, status, &text),
        };
        let empty = request.is_empty(shape);
        if empty && request.keep_alive == Some(KeepAlive::For(std::time::Duration::ZERO)) {
            entry.is(Kind::Unload, &model.name, &body);
            self.residency.expire(&model).await;
            entry.end(Outcome::Done);
            return Ok(form.empty(&mut *voice, "unload"));
        }
        let (options, run_options) = match able(shape, &request, &model)
            .and_then(|()| self.options(&request, &model).map_err(|text| (500, text)))
        {
            Ok(options) => options,
            Err((status, text)) => return refuse(entry, form, status, &text),
        };
        entry.is(if empty { Kind::Load } else { Kind::Run }, &model.name, &body);
        let lease = match self.acquire(&mut entry, &model, options, &request, &body).await {
            Ok(lease) => lease,
            Err(failure) => return no_runner(entry, form, failure),
        };
        let load = arrived.elapsed();
        if empty {
            entry.end(Outcome::Done);
            return Ok(form.empty(&mut *voice, "load"));
        }
        if let Err((status, text)) = fits(&request, &model, lease.runner.options.num_ctx) {
            return refuse(entry, form, status, &text);
        }
        let run = Run::begin(Start {
            plan: Plan::make(&self.config, &model, shape, &request, &run_options),
            fault: self.due(Stage::Run, &request, &body),
            // The tokens of the answer, which a client can send back.
            context: shape == Shape::Generate && !request.raw,
            entry,
            lease,
            voice,
            top_logprobs: request.logprobs.then_some(request.top_logprobs),
            arrived,
            load,
        })
        .await;
        let answer = match run {
            Ok(run) if form.stream => run.stream().await.map(|stream| form.stream(stream)),
            Ok(run) => run.whole().await.map(|body| form.whole(body)),
            Err(broken) => Err(broken),
        };
        match answer {
            Ok(answer) => Ok(answer),
            Err((entry, broken)) => break_off(entry, form, broken),
        }
    }

    /// The model of a request, after all checks that do not need the model.
    pub(crate) fn check(&self, shape: Shape, request: &RunRequest) -> Result<&Arc<Model>, Refusal> {
        if !(0..=20).contains(&request.top_logprobs) {
            return Err((400, "top_logprobs must be between 0 and 20".to_owned()));
        }
        let name = &request.model;
        let not_found = || (404, format!("model '{name}' not found"));
        let canonical = match (shape, model::canonical(name)) {
            (_, Some(canonical)) => canonical,
            (Shape::Chat, None) if name.is_empty() => return Err((400, "model is required".to_owned())),
            (Shape::Chat, None) => return Err((400, "invalid model name".to_owned())),
            (Shape::Generate, None) => return Err(not_found()),
        };
        if model::is_cloud(&canonical.to_ascii_lowercase()) {
            return Err((403, "ollama cloud is disabled: remote model is unavailable".to_owned()));
        }
        let model = self.find(name).ok_or_else(not_found)?;
        let shaped =
            !request.template.is_empty() || !request.system.is_empty() || !request.context.is_empty();
        if request.raw && shaped {
            return Err((400, "raw mode does not support template, system, or context".to_owned()));
        }
        Ok(model)
    }
}

/// Whether the model has the abilities that the request needs.
fn able(shape: Shape, request: &RunRequest, model: &Model) -> Result<(), Refusal> {
    let quoted = go_json::string(&request.model);
    if model.embeds_only {
        let what = if shape == Shape::Chat { "chat" } else { "generate" };
        return Err((400, format!("{quoted} does not support {what}")));
    }
    if request.think.is_some_and(|think| think.0) && !model.can("thinking") {
        return Err((400, format!("{quoted} does not support thinking")));
    }
    for (wanted, what) in [(!request.tools.is_empty(), "tools"), (!request.suffix.is_empty(), "insert")] {
        if wanted && !model.can(what) {
            return Err((400, format!("{} does not support {what}", model.full_name())));
        }
    }
    Ok(())
}

/// Checks that only the runner can make.
fn fits(request: &RunRequest, model: &Model, num_ctx: i64) -> Result<(), Refusal> {
    if let Some(Json::String(format)) = &request.format
        && !matches!(format.as_str(), "" | "json")
    {
        let quoted = go_json::string(&go_json::string(format));
        return Err((
            500,
            format!("invalid format: {quoted}; expected \"json\" or a valid JSON Schema object"),
        ));
    }
    if request.has_images() && !model.can("vision") {
        let text = "Multimodal data provided, but model does not support multimodal requests.";
        return Err((
            400,
            format!(r#"{{"error":{{"code":400,"message":"{text}","type":"invalid_request_error"}}}}"#),
        ));
    }
    let tokens = script::prompt_tokens(request);
    if request.truncate == Some(false) && tokens > u64::try_from(num_ctx).unwrap_or_default() {
        let message = format!(
            "request ({tokens} tokens) exceeds the available context size ({num_ctx} tokens), try increasing it"
        );
        return Err((
            400,
            format!(
                r#"{{"error":{{"code":400,"message":"{message}","type":"exceed_context_size_error","n_prompt_tokens":{tokens},"n_ctx":{num_ctx}}}}}"#
            ),
        ));
    }
    Ok(())
}

fn refuse(entry: Entry, form: Form, status: u16, text: &str) -> ResponseOrCut {
    entry.end(Outcome::Refused(status));
    Ok(form.error(status, text))
}

fn cut(entry: Entry) -> ResponseOrCut {
    entry.end(Outcome::Cut);
    Err(Cut)
}

fn no_runner(entry: Entry, form: Form, failure: NoRunner) -> ResponseOrCut {
    match failure.answer() {
        Some((status, text)) => refuse(entry, form, status, &text),
        None => cut(entry),
    }
}

/// The answer for a run that broke before any of it was sent.
fn break_off(entry: Entry, form: Form, broken: Broken) -> ResponseOrCut {
    match broken {
        Broken::Error { status, text } => refuse(entry, form, status, &text),
        Broken::EndEarly => {
            entry.end(Outcome::Cut);
            Ok(form.stream(futures_util::stream::empty()))
        }
        Broken::Cut => cut(entry),
    }
}
