//! Which requests an Ollama on loopback admits: it checks `Host` and `Origin`, and adds headers for browsers that it
//! admits.

use std::net::IpAddr;

use hyper::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, ALLOW, HOST, HeaderMap, HeaderName, HeaderValue,
    ORIGIN, VARY,
};
use hyper::{Method, Response, StatusCode};

use crate::http::{self, Body};

const HEADERS: &str = "Authorization,Content-Type,User-Agent,Accept,X-Requested-With,Openai-Beta,X-Stainless-Arch,\
                       X-Stainless-Async,X-Stainless-Custom-Poll-Interval,X-Stainless-Helper-Method,X-Stainless-Lang,\
                       X-Stainless-Os,X-Stainless-Package-Version,X-Stainless-Poll-Helper,X-Stainless-Retry-Count,\
                       X-Stainless-Runtime,X-Stainless-Runtime-Version,X-Stainless-Timeout";
const METHODS: &str = "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS";

/// The refusal of a request that names another host. An Ollama that also listens for other machines does not check
/// this, because it cannot know all of its names.
pub(crate) fn check_host(listens_at: IpAddr, headers: &HeaderMap) -> Option<Response<Body>> {
    let refused = listens_at.is_loopback() && !text(headers, HOST).is_none_or(host_is_near);
    refused.then(|| http::bare(StatusCode::FORBIDDEN))
}

/// The refusal of a page from another origin, or the answer to a browser's preflight.
pub(crate) fn check_origin(
    method: &Method,
    headers: &HeaderMap,
    allowed: &'static str,
) -> Option<Response<Body>> {
    let origin = text(headers, ORIGIN)?;
    if !origin_is_near(origin) {
        return Some(http::bare(StatusCode::FORBIDDEN));
    }
    if method != Method::OPTIONS || !headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD) {
        return None;
    }
    let mut answer = http::bare(StatusCode::NO_CONTENT);
    let out = answer.headers_mut();
    out.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(HEADERS));
    out.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(METHODS));
    out.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("43200"));
    out.insert(ALLOW, HeaderValue::from_static(allowed));
    out.insert(VARY, HeaderValue::from_static("Access-Control-Request-Headers"));
    if let Some(origin) = headers.get(ORIGIN) {
        out.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    }
    Some(answer)
}

/// Tells a browser that it may read the answer.
pub(crate) fn admit(headers: &HeaderMap, answer: &mut Response<Body>) {
    if let Some(origin) = headers.get(ORIGIN) {
        answer.headers_mut().insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        answer.headers_mut().insert(VARY, HeaderValue::from_static("Origin"));
    }
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name).map(|value| value.to_str().unwrap_or("\u{fffd}"))
}

fn host_is_near(host: &str) -> bool {
    let name = without_port(host);
    if let Ok(address) = name.trim_matches(['[', ']']).parse::<IpAddr>() {
        return match address {
            IpAddr::V4(ip) => {
                ip.is_loopback() || ip.is_private() || ip.is_unspecified() || ip.is_link_local()
            }
            IpAddr::V6(ip) => ip.is_loopback() || ip.is_unspecified() || ip.is_unique_local(),
        };
    }
    let name = name.to_ascii_lowercase();
    name.is_empty()
        || name == "localhost"
        || [".localhost", ".local", ".internal"].iter().any(|ending| name.ends_with(ending))
}

fn origin_is_near(origin: &str) -> bool {
    let Some((scheme, rest)) = origin.split_once("://") else { return false };
    match scheme {
        "http" | "https" => {
            let host = without_port(rest);
            matches!(host, "localhost" | "127.0.0.1" | "0.0.0.0")
        }
        "app" | "file" | "tauri" | "vscode-webview" | "vscode-file" => true,
        _ => false,
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.ends_with(':') => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_ollama_on_loopback_minds_the_host() {
        let refuses = |listens_at: &str, host: &'static str| {
            let headers = HeaderMap::from_iter([(HOST, HeaderValue::from_static(host))]);
            check_host(listens_at.parse().unwrap(), &headers).is_some()
        };
        assert!(refuses("127.0.0.1", "ollama:11434"));
        assert!(!refuses("127.0.0.1", "localhost:11434"));
        assert!(!refuses("0.0.0.0", "ollama:11434"));
    }
}
