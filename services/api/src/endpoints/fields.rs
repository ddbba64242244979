//! Parses the fields of an endpoint. No later code checks these values again.

use foreman_ollama::ModelName;
use foreman_store::{EndpointHeaders, EndpointSettings, JobState};
use foreman_webhook::ReceiverUrl;
use serde_json::Value;

use super::headers;
use crate::http::{object, values};
use crate::refusal::Refusal;

const MAX_DESCRIPTION: usize = 200;
const MAX_MODELS: usize = 100;
const MAX_RATE: i64 = 1_000;

const NAMES: [&str; 7] = ["url", "description", "events", "models", "headers", "rate_limit", "disabled"];

/// The fields that a request gives, each checked. `Some(None)` clears a field.
#[derive(Debug, Default)]
pub(crate) struct Fields {
    pub(crate) url: Option<ReceiverUrl>,
    pub(crate) description: Option<String>,
    pub(crate) events: Option<Option<Vec<JobState>>>,
    pub(crate) models: Option<Option<Vec<String>>>,
    pub(crate) headers: Option<EndpointHeaders>,
    pub(crate) rate_limit: Option<Option<i32>>,
    pub(crate) disabled: Option<bool>,
}

impl Fields {
    /// Reads the body of a request on Foreman's own routes. `null` clears a field (RFC 7396).
    pub(crate) fn parse(body: &[u8]) -> Result<Self, Refusal> {
        let body = object::only(object::read(body)?, &NAMES)?;
        let given = |name| body.get(name);
        Ok(Self {
            url: given("url").map(url).transpose()?,
            description: given("description").map(|value| description("description", value)).transpose()?,
            events: given("events").map(|value| or_null(value, events)).transpose()?,
            models: given("models").map(|value| or_null(value, models)).transpose()?,
            headers: given("headers").map(headers::parse).transpose()?,
            rate_limit: given("rate_limit").map(|value| or_null(value, rate_limit)).transpose()?,
            disabled: given("disabled").map(disabled).transpose()?,
        })
    }

    /// The settings of a new endpoint.
    pub(crate) fn settings(self) -> Result<EndpointSettings, Refusal> {
        let Some(url) = &self.url else {
            let error = "`url` is missing; it says where the webhooks go";
            return Err(Refusal::bad_request("url_missing", error));
        };
        let mut settings = EndpointSettings {
            url: url.as_str().to_owned(),
            origin: url.origin(),
            description: String::new(),
            events: None,
            models: None,
            rate_limit: None,
            is_disabled: false,
        };
        self.apply(&mut settings);
        Ok(settings)
    }

    pub(crate) fn apply(self, settings: &mut EndpointSettings) {
        if let Some(url) = self.url {
            settings.origin = url.origin();
            settings.url = url.as_str().to_owned();
        }
        if let Some(description) = self.description {
            settings.description = description;
        }
        if let Some(events) = self.events {
            settings.events = events;
        }
        if let Some(models) = self.models {
            settings.models = models;
        }
        if let Some(rate_limit) = self.rate_limit {
            settings.rate_limit = rate_limit;
        }
        if let Some(disabled) = self.disabled {
            settings.is_disabled = disabled;
        }
    }
}

pub(crate) fn url(value: &Value) -> Result<ReceiverUrl, Refusal> {
    let text = value.as_str().ok_or_else(|| {
        Refusal::bad_request("invalid_url", "`url` must be a string: an endpoint always has a URL")
    })?;
    Ok(ReceiverUrl::parse(text)?)
}

/// `null` clears it.
pub(crate) fn description(name: &str, value: &Value) -> Result<String, Refusal> {
    match value {
        Value::Null => Ok(String::new()),
        Value::String(text)
            if text.chars().count() <= MAX_DESCRIPTION && !text.chars().any(char::is_control) =>
        {
            Ok(text.clone())
        }
        _ => {
            let error = format!(
                "`{name}` must be a string of at most {MAX_DESCRIPTION} characters, without control characters"
            );
            Err(Refusal::bad_request("invalid_description", error))
        }
    }
}

fn or_null<T>(value: &Value, parse: impl FnOnce(&Value) -> Result<T, Refusal>) -> Result<Option<T>, Refusal> {
    if value.is_null() { Ok(None) } else { parse(value).map(Some) }
}

fn events(value: &Value) -> Result<Vec<JobState>, Refusal> {
    texts(value).and_then(values::states).ok_or_else(|| {
        let names = values::state_names();
        let error = format!("`events` must be an array of some of {names}, or null for all of them");
        Refusal::bad_request("invalid_events", error)
    })
}

/// The entries of an array of strings.
pub(crate) fn texts(value: &Value) -> Option<Vec<&str>> {
    value.as_array()?.iter().map(Value::as_str).collect()
}

fn models(value: &Value) -> Result<Vec<String>, Refusal> {
    let refused = || {
        let error = format!(
            "`models` must be an array of 1 to {MAX_MODELS} names of models, as `ollama list` shows them, or null for all"
        );
        Refusal::bad_request("invalid_models", error)
    };
    let names =
        value.as_array().filter(|names| (1..=MAX_MODELS).contains(&names.len())).ok_or_else(refused)?;
    let mut models = Vec::with_capacity(names.len());
    for name in names {
        let name = name.as_str().and_then(|name| ModelName::parse(name).ok()).ok_or_else(refused)?;
        models.push(name.as_str().to_owned());
    }
    models.sort_unstable();
    models.dedup();
    Ok(models)
}

fn rate_limit(value: &Value) -> Result<i32, Refusal> {
    let rate = value.as_i64().filter(|rate| (1..=MAX_RATE).contains(rate));
    rate.and_then(|rate| i32::try_from(rate).ok()).ok_or_else(|| {
        let error = format!(
            "`rate_limit` must be a whole number of webhooks a second from 1 to {MAX_RATE}, or null for no limit"
        );
        Refusal::bad_request("invalid_rate_limit", error)
    })
}

fn disabled(value: &Value) -> Result<bool, Refusal> {
    match value {
        Value::Null => Ok(false),
        Value::Bool(disabled) => Ok(*disabled),
        _ => Err(Refusal::bad_request("invalid_disabled", "`disabled` must be true or false")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(body: &str) -> &'static str {
        Fields::parse(body.as_bytes()).unwrap_err().code()
    }

    #[test]
    fn bad_fields_are_refused_with_a_code_of_their_own() {
        for (body, refused) in [
            ("", "invalid_json"),
            ("[]", "invalid_json"),
            (r#"{"uri":"https://example.com"}"#, "unknown_field"),
            (r#"{"url":"https://example.com","\u0075rl":"https://example.org"}"#, "repeated_key"),
            (r#"{"headers":{"x-team":"a","x-team":"b"}}"#, "repeated_key"),
            (r#"{} {}"#, "invalid_json"),
            (r#"{"url":null}"#, "invalid_url"),
            (r#"{"url":7}"#, "invalid_url"),
            (r#"{"url":"ftp://example.com"}"#, "webhook_url_invalid"),
            (r#"{"description":7}"#, "invalid_description"),
            (r#"{"description":"a\nb"}"#, "invalid_description"),
            (r#"{"events":[]}"#, "invalid_events"),
            (r#"{"events":["finished"]}"#, "invalid_events"),
            (r#"{"events":"done"}"#, "invalid_events"),
            (r#"{"models":[]}"#, "invalid_models"),
            (r#"{"models":["a b"]}"#, "invalid_models"),
            (r#"{"rate_limit":0}"#, "invalid_rate_limit"),
            (r#"{"rate_limit":1.5}"#, "invalid_rate_limit"),
            (r#"{"rate_limit":1001}"#, "invalid_rate_limit"),
            (r#"{"disabled":"yes"}"#, "invalid_disabled"),
            (r#"{"headers":{"host":"x"}}"#, "invalid_headers"),
        ] {
            assert_eq!(code(body), refused, "{body}");
        }
        assert_eq!(Fields::parse(b"{}").unwrap().settings().unwrap_err().code(), "url_missing");
    }

    #[test]
    fn null_clears_a_field_and_a_missing_one_is_kept() {
        let all = r#"{"url":"https://example.com/in","description":"mine","events":["done","done","failed"],
                      "models":["Llama3"],"rate_limit":5,"disabled":true}"#;
        let mut settings = Fields::parse(all.as_bytes()).unwrap().settings().unwrap();
        let whole = settings.clone();
        assert_eq!(settings.events, Some(vec![JobState::Done, JobState::Failed]));
        assert_eq!(settings.models.as_deref(), Some(&["llama3:latest".to_owned()][..]));
        Fields::parse(b"{}").unwrap().apply(&mut settings);
        assert_eq!(settings, whole);
        let none = r#"{"description":null,"events":null,"models":null,"rate_limit":null,"disabled":null}"#;
        Fields::parse(none.as_bytes()).unwrap().apply(&mut settings);
        let cleared = EndpointSettings {
            description: String::new(),
            events: None,
            models: None,
            rate_limit: None,
            is_disabled: false,
            ..whole
        };
        assert_eq!(settings, cleared);
    }
}
