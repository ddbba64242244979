//! What HTTP asks of a request's head, where hyper is more lenient than a front door should be: what two servers read
//! differently must not get behind one of them.
//!
//! Heads that are no HTTP at all never come here: hyper answers them itself (400, 414, 431), without a body, and offers no way
//! to give them one.

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::problem::Problem;

/// Refuses a request that is framed or addressed ambiguously, and ends its connection.
pub(crate) async fn check(request: Request, next: Next) -> Response {
    match problem(request.version(), request.headers()) {
        None => next.run(request).await,
        Some(problem) => problem.with(header::CONNECTION, HeaderValue::from_static("close")).into_response(),
    }
}

/// RFC 9112, sections 3.2 and 6.1.
fn problem(version: Version, headers: &HeaderMap) -> Option<Problem> {
    let count = |name| headers.get_all(name).iter().count();
    match count(header::HOST) {
        0 if version >= Version::HTTP_11 => {
            let error = "the request has no Host header; send one with the name by which you call";
            return Some(Problem::bad_request("host_missing", error));
        }
        0 | 1 => {}
        _ => {
            return Some(Problem::bad_request(
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
        return Some(Problem::bad_request("unknown_transfer_encoding", error));
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
            problem(version, &headers).map(|problem| problem.code())
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
