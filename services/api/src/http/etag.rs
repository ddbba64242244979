//! `ETag`, and the conditions `If-Match` and `If-None-Match` that a request puts on it (RFC 9110, 13.1). They save sending a
//! body that the client has already.

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

/// Only the client itself may store the answer, and it must ask us before it uses the stored answer again.
const CACHING: HeaderValue = HeaderValue::from_static("private, no-cache");

/// The tag of a whole body.
pub(crate) fn tag_of(body: &[u8]) -> HeaderValue {
    tag(&Sha256::digest(body)[..16])
}

/// 304, if the client has the body with this tag already.
pub(crate) fn unless_known(request: &HeaderMap, tag: &HeaderValue) -> Option<Response> {
    is_known(request, tag).then(|| {
        let mut response = StatusCode::NOT_MODIFIED.into_response();
        add_tag(&mut response, tag.clone());
        response
    })
}

/// The strong tag of a body with this digest.
pub(crate) fn tag(digest: &[u8]) -> HeaderValue {
    HeaderValue::try_from(format!("\"{}\"", hex::encode(digest))).expect("hex in quotes is a header's value")
}

/// Adds the tag to an answer, and forbids everybody but the client to store it.
pub(crate) fn add_tag(response: &mut Response, tag: HeaderValue) {
    response.headers_mut().insert(header::CACHE_CONTROL, CACHING);
    response.headers_mut().insert(header::ETAG, tag);
}

/// `If-None-Match`: whether the client has the body with this tag already. The comparison is weak.
pub(crate) fn is_known(request: &HeaderMap, tag: &HeaderValue) -> bool {
    tags(request, header::IF_NONE_MATCH)
        .any(|known| known == "*" || known.strip_prefix("W/").unwrap_or(known) == tag)
}

/// `If-Match`: whether the client wants the body with this tag. The comparison is strong. Without the header, any body is
/// wanted.
pub(crate) fn is_wanted(request: &HeaderMap, tag: &HeaderValue) -> bool {
    !request.contains_key(header::IF_MATCH)
        || tags(request, header::IF_MATCH).any(|wanted| wanted == "*" || wanted == tag)
}

fn tags(request: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let lines = request.get_all(name).into_iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: HeaderName, value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if !value.is_empty() {
            headers.insert(name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn a_client_that_has_the_bytes_is_not_sent_them_again() {
        let is_known = |value| is_known(&headers(header::IF_NONE_MATCH, value), &tag(&[0xaa]));
        for value in ["\"aa\"", "W/\"aa\"", "\"b\", \"aa\"", "*"] {
            assert!(is_known(value), "{value}");
        }
        for value in ["", "\"b\"", "aa", "\"AA\""] {
            assert!(!is_known(value), "{value}");
        }
    }

    #[test]
    fn a_client_that_wants_another_body_gets_none() {
        let is_wanted = |value| is_wanted(&headers(header::IF_MATCH, value), &tag(&[0xaa]));
        for value in ["", "\"aa\"", "\"b\", \"aa\"", "*"] {
            assert!(is_wanted(value), "{value}");
        }
        for value in ["\"b\"", "W/\"aa\"", "aa"] {
            assert!(!is_wanted(value), "{value}");
        }
    }
}
