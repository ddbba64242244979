//! Answers with a body that the client may already have: `ETag` and `If-None-Match` (RFC 9110, 13.1.2).

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

/// Private to the client, and good only until it has asked again.
const CACHING: HeaderValue = HeaderValue::from_static("private, no-cache");

pub(crate) const JSON: &str = "application/json";

/// JSON that nobody needs to ask for twice.
pub(crate) fn json(status: StatusCode, body: Vec<u8>) -> Response {
    (status, [(header::CONTENT_TYPE, JSON)], body).into_response()
}

/// JSON with an `ETag` of its bytes, or 304 if the client has them.
pub(crate) fn json_unless_known(request: &HeaderMap, body: Vec<u8>) -> Response {
    let digest = Sha256::digest(&body);
    unless_known(request, &hex::encode(&digest[..16]), JSON, || body.into())
}

/// A body under this tag, or 304 if the client has it.
pub(crate) fn unless_known(
    request: &HeaderMap,
    tag: &str,
    content_type: &str,
    body: impl FnOnce() -> Body,
) -> Response {
    let tag = format!("\"{tag}\"");
    let mut response = if is_known(request, &tag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let mut response = Response::new(body());
        let content_type = HeaderValue::from_str(content_type);
        let any = HeaderValue::from_static("application/octet-stream");
        response.headers_mut().insert(header::CONTENT_TYPE, content_type.unwrap_or(any));
        response
    };
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, CACHING);
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        headers.insert(header::ETAG, tag);
    }
    response
}

fn is_known(request: &HeaderMap, tag: &str) -> bool {
    let lines = request.get_all(header::IF_NONE_MATCH).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).any(|known| {
        // The comparison is a weak one.
        known == "*" || known.strip_prefix("W/").unwrap_or(known) == tag
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_has_the_bytes_is_not_sent_them_again() {
        let status = |known: &str| {
            let mut headers = HeaderMap::new();
            if !known.is_empty() {
                headers.insert(header::IF_NONE_MATCH, known.parse().unwrap());
            }
            unless_known(&headers, "a", JSON, Body::empty).status()
        };
        for known in ["\"a\"", "W/\"a\"", "\"b\", \"a\"", "*"] {
            assert_eq!(status(known), StatusCode::NOT_MODIFIED, "{known}");
        }
        for known in ["", "\"b\"", "a", "\"A\""] {
            assert_eq!(status(known), StatusCode::OK, "{known}");
        }
    }
}
