//! What Ollama's error texts mean. This file has the only list of texts after which a job deserves another attempt.
//!
//! A text that is not on the list must never lead to a retry: Ollama also answers 500 for a wrong type of an option
//! or a wrong format, which no retry mends.

use reqwest::StatusCode;

use crate::failure::Failure;

/// A piece of an error text that shows a temporary trouble.
#[derive(Clone, Copy, Debug)]
pub struct RetryText {
    /// Searched anywhere in the error, ignoring case.
    pub text: &'static str,
    /// The stable `error_code` of jobs that fail with this text.
    pub code: &'static str,
}

const fn retry(text: &'static str, code: &'static str) -> RetryText {
    RetryText { text, code }
}

/// The texts of v0.24.0 and v0.32.15, most specific first. The first match names the failure.
pub const RETRY_TEXTS: &[RetryText] = &[
    // Memory: another model or program may have released memory before the next attempt.
    retry("out of memory", "out_of_memory"),
    retry("out-of-memory", "out_of_memory"),
    retry("failed to allocate", "out_of_memory"),
    retry("unable to allocate", "out_of_memory"),
    retry("not enough memory", "out_of_memory"),
    retry("requires more system memory", "out_of_memory"),
    // The runner died: before the first token, in the middle of the stream, or while it loaded.
    retry("model runner has unexpectedly stopped", "runner_stopped"),
    retry("runner process has terminated", "runner_stopped"),
    retry("llama-server process has terminated", "runner_stopped"),
    retry("llama runner exited", "runner_stopped"),
    retry("an error was encountered while running the model", "runner_stopped"),
    retry("unexpected eof", "runner_stopped"),
    // Ollama's own connection to its runner, which breaks when the runner dies.
    retry("connection reset by peer", "runner_stopped"),
    retry("connection refused", "runner_stopped"),
    retry("broken pipe", "runner_stopped"),
    // The runner did not start in time.
    retry("timed out waiting for llama", "runner_timed_out"),
    // Ollama's own queue is full.
    retry("server busy", "server_busy"),
    // The request was cancelled, but not by us, because we cancel by hanging up. So somebody stops Ollama.
    retry("request canceled", "request_cancelled"),
];

/// How many characters of an error text of Ollama are passed on.
const MAX_TEXT: usize = 500;

/// The failure behind a status other than 200 and its body.
pub fn answer_failure(host: &str, status: StatusCode, body: &[u8]) -> Failure {
    let text =
        error_text(body).unwrap_or_else(|| status.canonical_reason().unwrap_or("no reason given").to_owned());
    match status.as_u16() {
        // Ollama uses 400 and 404 for errors of the request. There, `unexpected EOF` is about the body of the
        // request.
        499 | 500 | 503 => match transient(&text) {
            Some(failure) => failure,
            // This text is not Ollama's. A proxy answered, which may reach Ollama again later.
            None if status == StatusCode::SERVICE_UNAVAILABLE => {
                Failure::Transient { code: "bad_gateway", text }
            }
            None => Failure::Refused { status, text },
        },
        404 if text.contains("not found") => Failure::ModelMissing { text },
        502 | 504 => Failure::Transient { code: "bad_gateway", text },
        400..=599 => Failure::Refused { status, text },
        _ => Failure::NotOllama { host: host.to_owned(), status },
    }
}

/// The failure behind an `{"error": …}` line that came after a 200.
pub fn stream_failure(text: &str) -> Failure {
    transient(text).unwrap_or_else(|| Failure::StreamError { text: shorten(text) })
}

fn transient(text: &str) -> Option<Failure> {
    let lower = text.to_lowercase();
    let known = RETRY_TEXTS.iter().find(|known| lower.contains(known.text))?;
    Some(Failure::Transient { code: known.code, text: shorten(text) })
}

/// The `error` of a JSON body, or the body itself if it is plain text.
pub fn error_text(body: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Body {
        error: serde_json::Value,
    }
    let text = match serde_json::from_slice::<Body>(body) {
        Ok(Body { error: serde_json::Value::String(text) }) => text,
        // The form of the `/v1` routes.
        Ok(Body { error }) => match error.get("message").and_then(serde_json::Value::as_str) {
            Some(message) => message.to_owned(),
            None => error.to_string(),
        },
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    };
    let text = text.trim();
    (!text.is_empty()).then(|| shorten(text))
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(MAX_TEXT) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::FailureKind;

    fn error(text: &str) -> Vec<u8> {
        serde_json::to_vec(&serde_json::json!({ "error": text })).unwrap()
    }

    /// Each text of the list in the words of real Ollama servers: status, words, code.
    const CASES: &[(u16, &str, &str)] = &[
        (500, "llama runner process has terminated: CUDA error: out of memory", "out_of_memory"),
        (500, "llama-server reported out-of-memory during startup: cudaMalloc failed", "out_of_memory"),
        (
            500,
            "llama runner process has terminated: error loading model: failed to allocate buffer",
            "out_of_memory",
        ),
        (500, "error loading model: unable to allocate CUDA0 buffer", "out_of_memory"),
        (500, "there is not enough memory to load the model", "out_of_memory"),
        (500, "model requires more system memory (9.9 GiB) than is available (7.6 GiB)", "out_of_memory"),
        (
            500,
            "model runner has unexpectedly stopped, this may be due to resource limitations or an internal error, \
             check ollama server logs for details",
            "runner_stopped",
        ),
        (500, "llama runner process has terminated with exit code -1", "runner_stopped"),
        (500, "llama-server process has terminated: signal: killed", "runner_stopped"),
        (
            500,
            "llama runner exited, you may not have enough available memory to run this model",
            "runner_stopped",
        ),
        (
            500,
            "an error was encountered while running the model: context deadline exceeded",
            "runner_stopped",
        ),
        (500, "error reading llm response: unexpected EOF", "runner_stopped"),
        (500, "read tcp 127.0.0.1:40000->127.0.0.1:40001: read: connection reset by peer", "runner_stopped"),
        (
            500,
            "Post \"http://127.0.0.1:40001/completion\": dial tcp 127.0.0.1:40001: connect: connection refused",
            "runner_stopped",
        ),
        (500, "write tcp 127.0.0.1:40000->127.0.0.1:40001: write: broken pipe", "runner_stopped"),
        (500, "timed out waiting for llama runner to start: 0.91", "runner_timed_out"),
        (500, "timed out waiting for llama-server to start", "runner_timed_out"),
        (503, "server busy, please try again.  maximum pending requests exceeded", "server_busy"),
        (499, "request canceled", "request_cancelled"),
    ];

    #[test]
    fn every_text_of_the_list_is_retried_under_its_code() {
        for &(status, text, code) in CASES {
            let failure = answer_failure("h", StatusCode::from_u16(status).unwrap(), &error(text));
            assert_eq!((failure.kind(), failure.code()), (FailureKind::MayPass, code), "{text}");
            assert!(failure.to_string().contains(text), "{failure}");
            let failure = stream_failure(text);
            assert_eq!((failure.kind(), failure.code()), (FailureKind::MayPass, code), "in a stream: {text}");
        }
        for known in RETRY_TEXTS {
            let first =
                |text: &str| RETRY_TEXTS.iter().find(|k| text.to_lowercase().contains(k.text)).unwrap().text;
            assert!(
                CASES.iter().any(|(_, text, _)| first(text) == known.text),
                "{:?} has no case",
                known.text
            );
        }
    }

    #[test]
    fn what_no_retry_mends_is_final() {
        for (status, text, code) in [
            (400, "unexpected EOF", "ollama_refused"),
            (400, "\"tiny-embed\" does not support chat", "ollama_refused"),
            (400, "the input length exceeds the context length", "ollama_refused"),
            (403, "ollama cloud is disabled: remote model is unavailable", "ollama_refused"),
            (404, "model 'nope' not found", "model_not_found"),
            (404, "no such page", "ollama_refused"),
            (500, "option \"num_ctx\" must be of type integer", "ollama_error"),
            (
                500,
                "invalid format: \"\\\"yaml\\\"\"; expected \"json\" or a valid JSON Schema object",
                "ollama_error",
            ),
            (500, "tensor \"blk.0\" offset+size (669824) exceeds file size (600000)", "ollama_error"),
            (501, "This server does not support embeddings. Start it with `--embeddings`", "ollama_error"),
        ] {
            let failure = answer_failure("h", StatusCode::from_u16(status).unwrap(), &error(text));
            let kind =
                if code == "model_not_found" { FailureKind::ModelMissing } else { FailureKind::Lasting };
            assert_eq!((failure.kind(), failure.code()), (kind, code), "{text}");
        }
        assert_eq!(stream_failure("something new").kind(), FailureKind::Lasting);
    }

    #[test]
    fn what_ollama_never_says_is_the_hosts_or_a_gateways_trouble() {
        for (status, kind, code) in [
            (502, FailureKind::MayPass, "bad_gateway"),
            (503, FailureKind::MayPass, "bad_gateway"),
            (504, FailureKind::MayPass, "bad_gateway"),
            (301, FailureKind::NotOllama, "not_ollama"),
            (204, FailureKind::NotOllama, "not_ollama"),
        ] {
            let failure = answer_failure("h", StatusCode::from_u16(status).unwrap(), b"<html>");
            assert_eq!((failure.kind(), failure.code()), (kind, code), "{status}");
        }
    }

    #[test]
    fn errors_are_read_from_whatever_body_comes() {
        let fail = |body: &[u8]| answer_failure("h", StatusCode::BAD_REQUEST, body).to_string();
        assert_eq!(fail(br#"{"error":"x"}"#), "Ollama refused the request (400 Bad Request): x");
        assert_eq!(fail(br#"{"error":{"message":"x"}}"#), "Ollama refused the request (400 Bad Request): x");
        assert_eq!(fail(br#"{"error":{"a":1}}"#), r#"Ollama refused the request (400 Bad Request): {"a":1}"#);
        assert_eq!(fail(b""), "Ollama refused the request (400 Bad Request): Bad Request");
        assert_eq!(fail(b"\xff plain"), "Ollama refused the request (400 Bad Request): \u{fffd} plain");
        let long = fail("ä".repeat(2000).as_bytes());
        assert!(long.ends_with('…') && long.chars().count() < 600);
    }
}
