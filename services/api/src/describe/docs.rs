//! The routes that need no key, because they show no data: `GET /`, `/openapi.json` and `/docs`.

use std::sync::LazyLock;

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;

use super::{description, page};
use crate::http::etag;

/// Ollama's own answer. Clients of Ollama ask for it to see whether a server is there.
const RUNNING: &str = "Ollama is running";

// Both documents are made once. They do not change while the process lives.

static OPENAPI: LazyLock<Document> = LazyLock::new(|| {
    let json = serde_json::to_vec(&description()).expect("a description is plain JSON");
    Document::new("application/json", json)
});
static PAGE: LazyLock<Document> =
    LazyLock::new(|| Document::new("text/html; charset=utf-8", page::html(&description()).into_bytes()));

/// The content security policy of the page. It allows the page's own style sheet, by its digest, and nothing else.
static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        page::style_digest()
    );
    HeaderValue::try_from(policy).expect("base64 is a header's value")
});

/// A document that is the same for every client.
struct Document {
    content_type: HeaderValue,
    tag: HeaderValue,
    bytes: Bytes,
}

impl Document {
    fn new(content_type: &'static str, bytes: Vec<u8>) -> Self {
        let tag = etag::tag_of(&bytes);
        Self { content_type: HeaderValue::from_static(content_type), tag, bytes: bytes.into() }
    }

    fn answer(&self, request: &HeaderMap) -> Response {
        let mut response = if etag::is_known(request, &self.tag) {
            StatusCode::NOT_MODIFIED.into_response()
        } else {
            self.bytes.clone().into_response()
        };
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, self.content_type.clone());
        headers.insert(header::ETAG, self.tag.clone());
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        response
    }
}

/// Says that somebody is here, as Ollama does.
#[utoipa::path(get, path = "/", tag = "about", responses((status = 200, description = "`Ollama is running`", body = String, content_type = "text/plain")))]
pub(crate) async fn root() -> &'static str {
    RUNNING
}

/// Describes this api for programs.
#[utoipa::path(get, path = "/openapi.json", tag = "about", responses(
    (status = 200, description = "OpenAPI 3.1.", body = Object, content_type = "application/json"),
    (status = 304, description = "The client has it already."),
))]
pub(crate) async fn openapi(headers: HeaderMap) -> Response {
    OPENAPI.answer(&headers)
}

/// Describes this api for people.
#[utoipa::path(get, path = "/docs", tag = "about", responses(
    (status = 200, description = "One page, without scripts and without anything from elsewhere.", body = String, content_type = "text/html"),
    (status = 304, description = "The client has it already."),
))]
pub(crate) async fn page(headers: HeaderMap) -> Response {
    let mut response = PAGE.answer(&headers);
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, POLICY.clone());
    response
}
