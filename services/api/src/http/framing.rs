//! Refuses requests whose head two servers could read in different ways. hyper accepts some of them. Such a request could pass
//! the checks of a gateway as one request and reach us as another.
//!
//! A head that is not HTTP at all never comes here. hyper answers it itself (400, 414, 431), without a body, and we cannot add
//! one.

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::refusal::Refusal;

/// Refuses a request whose length or host is ambiguous, and ends its connection.
pub(crate) async fn check(request: Request, next: Next) -> Response {
    let Some(refusal) = refusal(request.version(), request.headers()) else { return next.run(request).await };
    let mut response = refusal.into_response();
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// RFC 9112, sections 3.2 and 6.1.
fn refusal(version: Version, headers: &HeaderMap) -> Option<Refusal> {
    let count = |name| headers.get_all(name).iter().count();
    match count(header::HOST) {
        0 if version >= Version::HTTP_11 => {
            let error = "the request has no Host header; send one with the name by which you call";
            return Some(Refusal::bad_request("host_missing", error));
        }
        0 | 1 => {}
        _ => {
            return Some(Refusal::bad_request(
                "host_repeated",
                "the request has several Host headers; send one",
            ));
        }
    }
    let is_chunked = |coding: &HeaderValue| coding.as_bytes().eq_ignore_ascii_case(b"chunked");
    let coding = headers.get(header::TRANSFER_ENCODING);
    if count(header::TRANSFER_ENCODING) > 1 || !coding.is_none_or(is_chunked) {
        let error =
            "Transfer-Encoding may be `chunked` and nothing else; send the body without further codings";
        return Some(Refusal::bad_request("unknown_transfer_encoding", error));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_that_two_servers_could_read_differently_is_refused() {
        let code = |version, lines: &[(header::HeaderName, &'static str)]| {
            let lines = lines.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value)));
            let mut headers = HeaderMap::new();
            for (name, value) in lines {
                headers.append(name, value);
            }
            refusal(version, &headers).map(|refusal| refusal.code())
        };
        use header::{HOST, TRANSFER_ENCODING};
        let (old, new) = (Version::HTTP_10, Version::HTTP_11);
        assert_eq!(code(new, &[(HOST, "h")]), None);
        assert_eq!(code(new, &[(HOST, "h"), (TRANSFER_ENCODING, "Chunked")]), None);
        assert_eq!(code(old, &[]), None);
        assert_eq!(code(new, &[]), Some("host_missing"));
        assert_eq!(code(new, &[(HOST, "h"), (HOST, "h")]), Some("host_repeated"));
        for codings in ["gzip, chunked", "chunked, chunked", "identity", "", "chunked;q=1"] {
            let refused = code(new, &[(HOST, "h"), (TRANSFER_ENCODING, codings)]);
            assert_eq!(refused, Some("unknown_transfer_encoding"), "{codings}");
        }
        let twice = [(HOST, "h"), (TRANSFER_ENCODING, "chunked"), (TRANSFER_ENCODING, "chunked")];
        assert_eq!(code(new, &twice), Some("unknown_transfer_encoding"));
    }
}
