//! Parses the headers that a client wants on the webhooks to its endpoint.

use axum::http::HeaderName;
use foreman_store::EndpointHeaders;
use serde_json::Value;

use crate::http::values;
use crate::refusal::Refusal;

const MAX_HEADERS: usize = 20;

/// Of all names and values together, in bytes.
const MAX_SIZE: usize = 8 << 10;

/// What the sender writes itself, what frames a message, and what belongs to one connection (RFC 9110, 7.6.1).
const RESERVED: [&str; 17] = [
    "host",
    "content-length",
    "content-type",
    "content-encoding",
    "user-agent",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "te",
    "trailer",
    "upgrade",
    "expect",
    "proxy-connection",
    "proxy-authorization",
    "http2-settings",
    "traceparent",
    "tracestate",
];
const RESERVED_PREFIXES: [&str; 2] = ["webhook-", "x-foreman-"];

/// `null` and `{}` mean none.
pub(super) fn parse(value: &Value) -> Result<EndpointHeaders, Refusal> {
    let Value::Object(object) = value else {
        return if value.is_null() {
            Ok(Vec::new())
        } else {
            Err(refused("`headers` must be an object of names and values, both strings".to_owned()))
        };
    };
    let mut headers = EndpointHeaders::with_capacity(object.len());
    for (name, value) in object {
        let parsed = HeaderName::try_from(name.as_str());
        let parsed = parsed
            .map_err(|_| refused(format!("{:?} is no name of a header; mend it", values::excerpt(name))))?;
        let name = parsed.as_str().to_owned();
        if is_reserved(&name) {
            return Err(refused(format!("the header `{name}` belongs to the sender; choose another")));
        }
        let value = value
            .as_str()
            .filter(|value| value.bytes().all(|byte| (b' '..=b'~').contains(&byte)))
            .ok_or_else(|| {
                refused(format!("the value of the header `{name}` must be a string of printable ASCII"))
            })?;
        if headers.iter().any(|(other, _)| *other == name) {
            return Err(refused(format!("the header `{name}` is there twice; send it once")));
        }
        headers.push((name, value.to_owned()));
    }
    let size: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    if headers.len() > MAX_HEADERS || size > MAX_SIZE {
        let error =
            format!("`headers` may have {MAX_HEADERS} headers and {MAX_SIZE} bytes in all; send less");
        return Err(refused(error));
    }
    Ok(headers)
}

/// A receiver behind CGI reads `-` and `_` in a name as the same (RFC 3875, 4.1.18).
fn is_reserved(name: &str) -> bool {
    let name = name.replace('_', "-");
    RESERVED.contains(&name.as_str()) || RESERVED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

fn refused(error: String) -> Refusal {
    Refusal::bad_request("invalid_headers", error)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn headers_of_the_sender_and_nonsense_are_refused() {
        let long = "x".repeat(MAX_SIZE);
        for bad in [
            json!([]),
            json!({"Host": "x"}),
            json!({"Webhook-Id": "x"}),
            json!({"x-foreman-signature": "x"}),
            json!({"content-length": "1"}),
            json!({"Webhook_Id": "x"}),
            json!({"content_length": "1"}),
            json!({"x_foreman-signature": "x"}),
            json!({"proxy-authorization": "x"}),
            json!({"HTTP2-Settings": "x"}),
            json!({"User-Agent": "x"}),
            json!({"user_agent": "x"}),
            json!({"a b": "x"}),
            json!({"": "x"}),
            json!({"a": 7}),
            json!({"a": "x\r\nhost: y"}),
            json!({"a": "é"}),
            json!({"a": "x\ty"}),
            json!({"A": "x", "a": "y"}),
            json!({"a": long}),
        ] {
            assert_eq!(parse(&bad).map_err(|refusal| refusal.code()), Err("invalid_headers"), "{bad}");
        }
        let good = json!({"Authorization": "Bearer x", "X-Team": "gpu"});
        let parsed = parse(&good).unwrap();
        let parsed: Vec<_> = parsed.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(parsed, [("authorization", "Bearer x"), ("x-team", "gpu")]);
        assert_eq!(parse(&json!({})).unwrap(), []);
    }
}
