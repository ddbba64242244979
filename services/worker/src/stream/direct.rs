//! The direct routes: what an api asks of this worker's Ollama without a job. Exactly these requests are passed on, and of their
//! headers none.
//!
//! Must never pass on a request that runs a model, except one that embeds.

use axum::RequestExt as _;
use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use foreman_live::DIRECT;
use foreman_ollama::{Client, DirectRoute, LISTINGS, OPENAI_MODELS};
use foreman_runtime::background::one_line;

/// The largest body that any api takes (its FOREMAN_MAX_BODY may be at most this).
const LARGEST_BODY: usize = 512 << 20;

pub(super) fn routes(ollama: Client) -> Router {
    let listings = LISTINGS.map(|path| (path.to_owned(), get(pass_on)));
    let one_model = (format!("{OPENAI_MODELS}/{{id}}"), get(pass_on));
    let others = DirectRoute::ALL.map(|route| (route.path().to_owned(), post(pass_on)));
    let all = listings.into_iter().chain([one_model]).chain(others);
    all.fold(Router::new(), |router, (path, method)| router.route(&format!("{DIRECT}{path}"), method))
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .with_state(ollama)
}

/// Passes a request on, and Ollama's answer back while it comes. If the api hangs up, all of this is dropped, and the
/// connection to Ollama with it.
async fn pass_on(State(ollama): State<Client>, request: Request) -> Response {
    let path = request.uri().path().strip_prefix(DIRECT).unwrap_or_default().to_owned();
    let method = request.method().clone();
    let body = (method == Method::POST).then(|| {
        let body = request.into_limited_body().into_data_stream();
        reqwest::Body::wrap_stream(body)
    });
    let answer = match ollama.pass_on(method, &path, body).await {
        Ok(answer) => answer,
        Err(failure) => {
            let text = failure.to_string();
            tracing::debug!(path, error = one_line(failure), "a direct request was not answered");
            return (StatusCode::BAD_GATEWAY, text).into_response();
        }
    };
    let mut response = Response::new(Body::empty());
    *response.status_mut() = answer.status();
    for name in [header::CONTENT_TYPE, header::CONTENT_LENGTH] {
        if let Some(value) = answer.headers().get(&name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    *response.body_mut() = Body::from_stream(answer.bytes_stream());
    response
}
