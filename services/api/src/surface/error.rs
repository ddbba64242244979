//! Writes a [`Refusal`] in the error form of each surface, as Ollama itself answers there, so that clients find the sentence
//! where they look for it. Must never decide what a client is told.

use axum::http::{HeaderValue, StatusCode};
use serde::Serialize;

use super::Surface;
use crate::http::problem;
use crate::refusal::Refusal;

/// `{"error": "…"}`.
#[derive(Serialize)]
struct Ollama<'a> {
    error: &'a str,
}

/// OpenAI's clients want all four keys.
#[derive(Serialize)]
struct OpenAi<'a> {
    error: OpenAiError<'a>,
}

#[derive(Serialize)]
struct OpenAiError<'a> {
    message: &'a str,
    r#type: &'static str,
    param: Option<&'a str>,
    code: Option<&'a str>,
}

#[derive(Serialize)]
struct Anthropic<'a> {
    /// Always `error`.
    r#type: &'static str,
    error: AnthropicError<'a>,
    request_id: &'a str,
}

#[derive(Serialize)]
struct AnthropicError<'a> {
    r#type: &'static str,
    message: &'a str,
}

/// The content type and the body of a refusal.
pub(super) fn write(
    surface: Surface,
    refusal: &Refusal,
    request_id: Option<&HeaderValue>,
) -> (&'static str, Vec<u8>) {
    let (status, message) = (refusal.status(), refusal.sentence());
    match surface {
        Surface::Native => (problem::CONTENT_TYPE, json(&problem::Body::from(refusal))),
        Surface::Ollama => ("application/json; charset=utf-8", json(&Ollama { error: message })),
        Surface::OpenAi => {
            let (r#type, code) = (openai_type(status), openai_code(refusal));
            let error = OpenAiError { message, r#type, param: None, code };
            ("application/json", json(&OpenAi { error }))
        }
        Surface::Anthropic => {
            let error = AnthropicError { r#type: anthropic_type(status), message };
            let request_id = request_id.and_then(|id| id.to_str().ok()).unwrap_or_default();
            ("application/json", json(&Anthropic { r#type: "error", error, request_id }))
        }
    }
}

fn json(body: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(body).expect("strings and a number always serialise")
}

/// The types of OpenAI's service. 404 has Ollama's own.
fn openai_type(status: StatusCode) -> &'static str {
    match status {
        StatusCode::NOT_FOUND => "not_found_error",
        StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
        _ if status.is_server_error() => "server_error",
        _ => "invalid_request_error",
    }
}

/// Ollama gives no code with 400 and 404. OpenAI's service has names of its own for a wrong key and a limit, which programs
/// look for. Everything else has Foreman's code.
fn openai_code(refusal: &Refusal) -> Option<&'static str> {
    match refusal.status() {
        StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND => None,
        StatusCode::UNAUTHORIZED => Some("invalid_api_key"),
        StatusCode::TOO_MANY_REQUESTS => Some("rate_limit_exceeded"),
        _ => Some(refusal.code()),
    }
}

/// The types of Anthropic's service, which Ollama gives too.
fn anthropic_type(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED => "authentication_error",
        StatusCode::FORBIDDEN => "permission_error",
        StatusCode::NOT_FOUND => "not_found_error",
        StatusCode::PAYLOAD_TOO_LARGE => "request_too_large",
        StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
        StatusCode::SERVICE_UNAVAILABLE => "overloaded_error",
        _ if status.is_server_error() => "api_error",
        _ => "invalid_request_error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(surface: Surface, status: u16, sentence: &'static str) -> String {
        let refusal = Refusal::new(StatusCode::from_u16(status).unwrap(), "our_code", sentence);
        let (_, body) = write(surface, &refusal, Some(&HeaderValue::from_static("req_1")));
        String::from_utf8(body).unwrap()
    }

    /// The bodies are recorded ones of Ollama, with another id.
    #[test]
    fn what_ollama_says_too_is_said_in_the_same_bytes() {
        let unknown = "model 'nope' not found";
        assert_eq!(written(Surface::Ollama, 404, unknown), r#"{"error":"model 'nope' not found"}"#);
        assert_eq!(
            written(Surface::OpenAi, 404, unknown),
            r#"{"error":{"message":"model 'nope' not found","type":"not_found_error","param":null,"code":null}}"#
        );
        assert_eq!(
            written(Surface::OpenAi, 400, "EOF"),
            r#"{"error":{"message":"EOF","type":"invalid_request_error","param":null,"code":null}}"#
        );
        assert_eq!(
            written(Surface::Anthropic, 404, unknown),
            r#"{"type":"error","error":{"type":"not_found_error","message":"model 'nope' not found"},"request_id":"req_1"}"#
        );
        assert_eq!(
            written(Surface::Anthropic, 400, "messages is required"),
            r#"{"type":"error","error":{"type":"invalid_request_error","message":"messages is required"},"request_id":"req_1"}"#
        );
    }

    #[test]
    fn the_type_and_the_code_follow_from_the_status() {
        for (status, openai, code, anthropic) in [
            (401, "invalid_request_error", "invalid_api_key", "authentication_error"),
            (403, "invalid_request_error", "our_code", "permission_error"),
            (413, "invalid_request_error", "our_code", "request_too_large"),
            (429, "rate_limit_error", "rate_limit_exceeded", "rate_limit_error"),
            (500, "server_error", "our_code", "api_error"),
            (503, "server_error", "our_code", "overloaded_error"),
        ] {
            let body = written(Surface::OpenAi, status, "mend it");
            assert!(body.contains(&format!(r#""type":"{openai}","param":null,"code":"{code}""#)), "{body}");
            let body = written(Surface::Anthropic, status, "mend it");
            assert!(body.contains(&format!(r#"{{"type":"{anthropic}","#)), "{body}");
        }
    }
}
