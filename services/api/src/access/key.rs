//! Reads the key of a request. Clients of Ollama, OpenAI and Anthropic send it in different ways, and each of them works on
//! every route: as `Authorization: Bearer`, as `x-api-key`, or as the password of `Authorization: Basic` with any user.

use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use base64::Engine as _;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use base64::{alphabet, engine::DecodePaddingMode};

use crate::refusal::Refusal;

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Some clients leave the padding out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The key of a request. An empty key counts only if there is no other: tools fill the header that they do not use with it.
pub(crate) fn key(headers: &HeaderMap) -> Result<String, Refusal> {
    let mut keys = Vec::new();
    for value in headers.get_all(header::AUTHORIZATION) {
        keys.extend(of_authorization(value.to_str().map_err(|_| wrong())?)?);
    }
    for value in headers.get_all(API_KEY) {
        keys.push(value.to_str().map_err(|_| wrong())?.trim().to_owned());
    }
    if keys.is_empty() {
        return Err(missing());
    }
    keys.retain(|key| !key.is_empty());
    keys.dedup();
    let key = keys.pop().ok_or_else(wrong)?;
    if keys.is_empty() { Ok(key) } else { Err(ambiguous()) }
}

/// The key in a value of `Authorization`. Of a scheme without keys we know nothing.
fn of_authorization(value: &str) -> Result<Option<String>, Refusal> {
    let (scheme, rest) = value.split_once(' ').ok_or_else(wrong)?;
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Ok(Some(rest.to_owned()));
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return Ok(None);
    }
    let decoded =
        BASE64.decode(rest).ok().and_then(|bytes| String::from_utf8(bytes).ok()).ok_or_else(wrong)?;
    let (_user, password) = decoded.split_once(':').ok_or_else(wrong)?;
    Ok(Some(password.to_owned()))
}

fn missing() -> Refusal {
    unauthorized(
        "key_missing",
        "a key is needed; send the key of your client as `Authorization: Bearer fk_…`, as `x-api-key`, or as the password of \
         `Authorization: Basic`",
    )
}

pub(crate) fn wrong() -> Refusal {
    unauthorized("key_wrong", "the key is not known or was revoked; ask the operator for a new one")
}

fn ambiguous() -> Refusal {
    unauthorized("key_ambiguous", "the request has two different keys; send one of them, in one header")
}

fn unauthorized(code: &'static str, error: &'static str) -> Refusal {
    Refusal::new(StatusCode::UNAUTHORIZED, code, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(headers: &[(&'static str, &str)]) -> Result<String, &'static str> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        key(&map).map_err(|refusal| refusal.code())
    }

    #[test]
    fn a_key_comes_in_one_of_three_ways() {
        for headers in [
            &[("authorization", "Bearer fk_a")][..],
            &[("authorization", "bearer  fk_a ")],
            &[("x-api-key", "fk_a")],
            // "user:fk_a", ":fk_a" without padding, and a user that is the key's owner for LangChain's `http://x:KEY@host`.
            &[("authorization", "Basic dXNlcjpma19h")],
            &[("authorization", "basic OmZrX2E")],
            &[("authorization", "Basic eDpma19h")],
            // Claude Code sends both, and other tools an empty one beside the real one.
            &[("authorization", "Bearer fk_a"), ("x-api-key", "fk_a")],
            &[("authorization", "Bearer "), ("x-api-key", "fk_a")],
            &[("authorization", "Bearer fk_a"), ("x-api-key", "")],
            &[("authorization", "Digest a=b"), ("x-api-key", "fk_a")],
        ] {
            assert_eq!(read(headers).as_deref(), Ok("fk_a"), "{headers:?}");
        }
        assert_eq!(
            read(&[("authorization", "Basic eDphOmI=")]).as_deref(),
            Ok("a:b"),
            "a colon in the password"
        );
    }

    #[test]
    fn a_request_without_exactly_one_key_is_refused() {
        for (headers, code) in [
            (&[][..], "key_missing"),
            (&[("authorization", "Digest a=b")], "key_missing"),
            (&[("authorization", "fk_a")], "key_wrong"),
            (&[("authorization", "")], "key_wrong"),
            (&[("authorization", "Bearer")], "key_wrong"),
            (&[("authorization", "Bearer ")], "key_wrong"),
            (&[("authorization", "Basic fk_a")], "key_wrong"),
            (&[("authorization", "Basic ZmtfYQ==")], "key_wrong"),
            (&[("x-api-key", " ")], "key_wrong"),
            (&[("authorization", "Bearer fk_a"), ("x-api-key", "fk_b")], "key_ambiguous"),
            (&[("authorization", "Bearer fk_a"), ("authorization", "Bearer fk_b")], "key_ambiguous"),
            (
                &[("authorization", "Bearer a"), ("authorization", "Bearer b"), ("x-api-key", "a")],
                "key_ambiguous",
            ),
        ] {
            assert_eq!(read(headers), Err(code), "{headers:?}");
        }
    }
}
