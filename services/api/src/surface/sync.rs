//! The sync routes: a call becomes a job, waits its turn, and its answer goes back as if nothing stood in between.
//!
//! Before the first byte an error has its own status. After it a stream ends with an error in the form of its surface, and any
//! other answer breaks its connection. Must never let a failure look like an answer.

use std::io;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{MatchedPath, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use foreman_live::{End, Head};
use foreman_ollama::{Purpose, Route, SyncBody};
use foreman_webhook::rfc3339;
use futures_util::stream;
use tracing::{Instrument, Span};

use super::form::Form;
use crate::access::auth::Caller;
use crate::app::Shared;
use crate::forecasts::Prospect;
use crate::http::body::{self, Bounded};
use crate::http::observe;
use crate::http::prefer;
use crate::intake::Intake;
use crate::live::call::{Call, News};
use crate::refusal::Refusal;
use crate::routes::job;

/// The job of a sync call.
const FOREMAN_JOB: HeaderName = HeaderName::from_static("foreman-job");

/// How long the call had waited when its attempt began, in milliseconds. Only where the head comes after that.
const WAIT_MS: HeaderName = HeaderName::from_static("foreman-wait-ms");

/// Where the call stood when its head went out with the first sign of life.
const POSITION: HeaderName = HeaderName::from_static("foreman-position");
const ETA: HeaderName = HeaderName::from_static("foreman-eta");

/// OpenAI's clients obey it above the status. A call that Foreman has tried already must not come again by itself.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// How much of an error of Ollama is kept until its end. The worker reads no more of it either.
const MAX_ERROR: usize = 64 << 10;

/// Takes a sync call on any of its routes.
pub(crate) async fn call(
    caller: Caller,
    path: MatchedPath,
    State(app): State<Shared>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let route: Route = path.as_str().parse().map_err(|_| Refusal::internal())?;
    let Bounded { bytes, held } = body::read(&app, caller.client, body).await?;
    let held = Arc::new(held);
    let size = bytes.len();
    let read = move || SyncBody::read(route, &bytes);
    let body = app.parse_beside_others(size, read).await??;
    let form = Form::of(&body, &headers);
    let async_wanted = prefer::responds_async(&headers);
    let intake = Intake::new(Shared::clone(&app), caller, headers)?;
    let model = intake.model(&body).await?;
    if body.purpose == Purpose::Unload {
        // A client could make the others wait for loads. An administrator has a route of ours for it.
        let (content_type, json) = form.unloaded(app.store.clock().now());
        return Ok((StatusCode::OK, [(header::CONTENT_TYPE, content_type)], json).into_response());
    }
    if async_wanted {
        let id = intake.take_in_sync_body(body, model, held).await?.accepted().await?.job();
        observe::is_about(id);
        return Ok(job::queued(&app, id));
    }
    // The permit comes first, so that nothing can refuse the call after its job is accepted.
    let permit = app.watch.permit(caller.client)?;
    let signs = if form.streams() { app.signs_of_streams } else { app.signs_of_others };
    let call = match intake.repeated_call(&body).await? {
        Some(guard) => {
            let mut call = Call::new(app, caller.client, guard, permit, signs);
            call.catch_up().await?;
            call
        }
        None => {
            let guard = intake.take_in_call(body, model, held).await?.accepted().await?;
            Call::new(app, caller.client, guard, permit, signs)
        }
    };
    let job = call.job();
    observe::is_about(job);
    let mut response = answer(call, form).await;
    if let Ok(job) = HeaderValue::try_from(job.to_string()) {
        response.headers_mut().insert(FOREMAN_JOB, job);
    }
    Ok(response)
}

/// Waits until something can be said, and begins the answer with it.
async fn answer(mut call: Call, form: Form) -> Response {
    match call.next().await {
        News::Head(head) => {
            let waited = call.waited();
            let body = AnswerBody { call, form, began: Began::WithHead };
            let mut response = relay(&head, body.into_body());
            if let Some(waited) = waited {
                tell(&mut response, WAIT_MS, &waited.as_millis().to_string());
            }
            response
        }
        News::StillWaiting { runs } => {
            let content_type = HeaderValue::from_static(form.content_type());
            let prospect = prospect(&mut call, &form, runs).await;
            let sign = form.sign(call.job(), runs, &prospect, call.now());
            let body = AnswerBody { call, form, began: Began::WithSign(Some(sign)) };
            let mut response =
                (StatusCode::OK, [(header::CONTENT_TYPE, content_type)], body.into_body()).into_response();
            if let Some(position) = prospect.position {
                tell(&mut response, POSITION, &position.to_string());
            }
            if let Some(eta) = prospect.eta {
                tell(&mut response, ETA, &rfc3339(eta));
            }
            response
        }
        News::End(end) => never_to_repeat(refusal(&end).into_response()),
        // A head comes before every piece.
        News::Piece(_) => Refusal::internal().into_response(),
    }
}

/// What is known of a call that waits. Nothing of one that runs.
async fn prospect(call: &mut Call, form: &Form, runs: bool) -> Prospect {
    if runs { Prospect::default() } else { call.prospect(form.canonical()).await }
}

fn tell(response: &mut Response, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::try_from(value) {
        response.headers_mut().insert(name, value);
    }
}

fn relay(head: &Head, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status_of(head);
    let headers = response.headers_mut();
    if let Some(Ok(value)) = head.content_type.as_deref().map(HeaderValue::try_from) {
        headers.insert(header::CONTENT_TYPE, value);
    }
    if let Some(length) = head.content_length {
        headers.insert(header::CONTENT_LENGTH, length.into());
    }
    if response.status().is_success() { response } else { never_to_repeat(response) }
}

fn status_of(head: &Head) -> StatusCode {
    StatusCode::from_u16(head.status).unwrap_or(StatusCode::BAD_GATEWAY)
}

fn never_to_repeat(mut response: Response) -> Response {
    response.headers_mut().insert(SHOULD_RETRY, HeaderValue::from_static("false"));
    response
}

/// What a caller is told of a call that has no answer of Ollama.
fn refusal(end: &End) -> Refusal {
    match end {
        End::Failed { code, error, .. } => {
            let status = match code.as_str() {
                "model_gone" | "model_not_found" => StatusCode::NOT_FOUND,
                "load_timeout" | "idle_timeout" | "run_timeout" => StatusCode::GATEWAY_TIMEOUT,
                _ => StatusCode::INTERNAL_SERVER_ERROR,
            };
            Refusal::new(status, "job_failed", error.clone())
        }
        End::Cancelled => Refusal::conflict("job_cancelled", "the job of this call was cancelled"),
        End::Expired => Refusal::new(
            StatusCode::GATEWAY_TIMEOUT,
            "job_expired",
            "the job of this call waited until it expired",
        ),
        End::Done | End::Again => Refusal::internal(),
    }
}

/// The body of an answer while it is sent.
struct AnswerBody {
    call: Call,
    form: Form,
    began: Began,
}

/// How the answer began, and so how it may end.
enum Began {
    /// With Ollama's own head.
    WithHead,
    /// With a sign of life, which is still to be sent at first.
    WithSign(Option<Bytes>),
    /// With a sign of life, and then Ollama refused the request with this status. Its error is gathered.
    Refused(StatusCode, BytesMut),
    Over,
}

impl AnswerBody {
    fn into_body(self) -> Body {
        let request = Span::current();
        Body::from_stream(stream::unfold(self, move |mut answer| {
            let next = async { answer.next().await.map(|bytes| (bytes, answer)) };
            next.instrument(request.clone())
        }))
    }

    /// The next bytes for the caller. An error breaks the connection.
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        match &mut self.began {
            Began::WithSign(sign) => {
                if let Some(sign) = sign.take() {
                    return Some(Ok(sign));
                }
            }
            Began::Over => return None,
            Began::WithHead | Began::Refused(..) => {}
        }
        loop {
            match self.call.next().await {
                News::Head(head) => {
                    let status = status_of(&head);
                    if !status.is_success() {
                        self.began = Began::Refused(status, BytesMut::new());
                    }
                }
                News::Piece(bytes) => match &mut self.began {
                    Began::Refused(_, error) => {
                        let room = MAX_ERROR.saturating_sub(error.len()).min(bytes.len());
                        error.extend_from_slice(&bytes[..room]);
                    }
                    _ => return Some(Ok(bytes)),
                },
                News::StillWaiting { runs } => {
                    let prospect = prospect(&mut self.call, &self.form, runs).await;
                    return Some(Ok(self.form.sign(self.call.job(), runs, &prospect, self.call.now())));
                }
                News::End(end) => return self.ended(&end),
            }
        }
    }

    fn ended(&mut self, end: &End) -> Option<io::Result<Bytes>> {
        let (job, now) = (self.call.job(), self.call.now());
        let said = match (std::mem::replace(&mut self.began, Began::Over), end) {
            (Began::Refused(status, error), _) => {
                let status = Refusal::new(status, "refused_by_ollama", "Ollama refused the request");
                self.form.ollamas_error(&error, status, job, now)
            }
            (_, End::Done | End::Failed { said: true, .. }) => return None,
            (_, end) => self.form.error(&refusal(end), job, now),
        };
        Some(said.ok_or_else(|| io::Error::other("the answer has failed, and cannot say so")))
    }
}
