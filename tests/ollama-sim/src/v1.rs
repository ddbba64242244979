//! The routes of `/v1`: what OpenAI's clients and Anthropic's ask of an Ollama.

pub(crate) mod chat;
pub(crate) mod completions;
pub(crate) mod embeddings;
pub(crate) mod messages;
pub(crate) mod models;
pub(crate) mod responses;

use hyper::Response;
use serde_json::{Value, json};

use crate::go_json::{self, Json};
use crate::http::{self, Body};
use crate::request::Think;
use crate::voice::End;

/// An error in OpenAI's form.
pub(crate) fn error(status: u16, text: &str) -> Response<Body> {
    http::json_line(status, error_body(status, text))
}

/// The refusal of a body that could not be translated.
pub(crate) fn unreadable(text: &str) -> Response<Body> {
    http::json_with(400, error_body(400, text))
}

fn error_body(status: u16, text: &str) -> String {
    let kind = match status {
        400 => "invalid_request_error",
        404 => "not_found_error",
        _ => "api_error",
    };
    go_json::marshal(&json!({"error": {"message": text, "type": kind, "param": null, "code": null}}))
}

/// The counts of tokens in OpenAI's form; zeros for a run that broke off.
fn usage(end: Option<&End>) -> Value {
    let (prompt, completion) = counts(end);
    json!({"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion})
}

fn counts(end: Option<&End>) -> (u64, u64) {
    end.map_or((0, 0), |end| (end.prompt_tokens, end.eval_count))
}

/// One event of OpenAI's older routes.
fn data(out: &mut String, value: &Value) {
    out.push_str("data: ");
    out.push_str(&go_json::marshal(value));
    out.push_str("\n\n");
}

/// One event of the other routes, which name its type twice.
fn event(out: &mut String, value: &Value) {
    out.push_str("event: ");
    out.push_str(value["type"].as_str().unwrap_or_default());
    out.push('\n');
    data(out, value);
}

/// Marks an answer as simulated.
fn mark(value: &mut Value, simulated: bool) {
    if simulated {
        value["simulated"] = true.into();
    }
}

/// A number below `limit`, as the ids of answers contain.
fn id(prefix: &str, limit: u32) -> String {
    format!("{prefix}{}", rand::random_range(0..limit))
}

fn now() -> i64 {
    chrono::Utc::now().timestamp()
}

/// The fields of a body, with Go's error texts about values of the wrong type.
#[derive(Debug)]
pub(crate) struct Fields {
    /// Go's name of the structure.
    of: &'static str,
    members: Vec<(String, Json)>,
}

impl Fields {
    pub(crate) fn decode(of: &'static str, body: &[u8]) -> Result<Self, String> {
        match go_json::decode(body)? {
            Some(Json::Object(members)) => Ok(Self { of, members }),
            Some(Json::Null) => Ok(Self { of, members: Vec::new() }),
            Some(other) => Err(format!("json: cannot unmarshal {} into Go value of type {of}", other.kind())),
            None => Err("EOF".to_owned()),
        }
    }

    /// The last value of a field, unless it is null.
    pub(crate) fn get(&self, field: &str) -> Option<&Json> {
        let (_, value) = self.members.iter().rev().find(|(key, _)| go_json::folds_to(key, field))?;
        (*value != Json::Null).then_some(value)
    }

    pub(crate) fn text(&self, field: &str) -> Result<String, String> {
        match self.get(field) {
            None => Ok(String::new()),
            Some(Json::String(text)) => Ok(text.clone()),
            Some(other) => self.wrong(field, other, "string"),
        }
    }

    pub(crate) fn flag(&self, field: &str) -> Result<bool, String> {
        match self.get(field) {
            None => Ok(false),
            Some(Json::Bool(truth)) => Ok(*truth),
            Some(other) => self.wrong(field, other, "bool"),
        }
    }

    pub(crate) fn integer(&self, field: &str) -> Result<Option<i64>, String> {
        match self.get(field) {
            None => Ok(None),
            Some(value @ Json::Number(number)) => match number.parse() {
                Ok(number) => Ok(Some(number)),
                Err(_) => self.wrong(field, value, "int"),
            },
            Some(other) => self.wrong(field, other, "int"),
        }
    }

    pub(crate) fn float(&self, field: &str) -> Result<Option<f64>, String> {
        match self.get(field) {
            None => Ok(None),
            Some(value @ Json::Number(number)) => match number.parse() {
                Ok(number) => Ok(Some(number)),
                Err(_) => self.wrong(field, value, "float64"),
            },
            Some(other) => self.wrong(field, other, "float64"),
        }
    }

    pub(crate) fn list(&self, field: &str, wanted: &str) -> Result<&[Json], String> {
        match self.get(field) {
            None => Ok(&[]),
            Some(Json::Array(items)) => Ok(items),
            Some(other) => self.wrong(field, other, wanted),
        }
    }

    /// The options of Ollama that have the same meaning here, each as `(field, option)`.
    pub(crate) fn options(
        &self,
        integers: &[(&str, &str)],
        floats: &[&str],
    ) -> Result<Vec<(String, Json)>, String> {
        let mut options = Vec::new();
        for (field, option) in integers {
            if let Some(number) = self.integer(field)? {
                options.push(((*option).to_owned(), Json::Number(number.to_string())));
            }
        }
        for field in floats {
            if let Some(number) = self.float(field)? {
                options.push(((*field).to_owned(), Json::Number(number.to_string())));
            }
        }
        Ok(options)
    }

    /// The words at which an answer stops: one, or a list.
    pub(crate) fn stop(&self) -> Option<(String, Json)> {
        let words = match self.get("stop")? {
            word @ Json::String(_) => vec![word.clone()],
            Json::Array(words) => words.iter().filter(|word| word.as_str().is_some()).cloned().collect(),
            _ => return None,
        };
        Some(("stop".to_owned(), Json::Array(words)))
    }

    fn wrong<T>(&self, field: &str, value: &Json, wanted: &str) -> Result<T, String> {
        let what = match value {
            Json::Number(number) if wanted == "int" => format!("number {number}"),
            other => other.kind().to_owned(),
        };
        let shape = self.of.rsplit_once('.').map_or(self.of, |(_, name)| name);
        Err(format!("json: cannot unmarshal {what} into Go struct field {shape}.{field} of type {wanted}"))
    }
}

/// How much a model shall think.
fn effort(level: &str) -> Result<Option<Think>, String> {
    match level {
        "" => Ok(None),
        "none" => Ok(Some(Think(false))),
        "low" | "medium" | "high" | "max" => Ok(Some(Think(true))),
        other => Err(format!(
            "invalid reasoning value: '{other}' (must be \"high\", \"medium\", \"low\", \"max\", or \"none\")"
        )),
    }
}

/// Checks that a URL contains an image, because Ollama fetches none.
fn check_image(url: &str) -> Result<(), String> {
    if url.starts_with("http://") || url.starts_with("https://") {
        return Err(
            "image URLs are not currently supported, please use base64 encoded data instead".to_owned()
        );
    }
    let kinds = [
        "data:;base64,",
        "data:image/jpeg;base64,",
        "data:image/jpg;base64,",
        "data:image/png;base64,",
        "data:image/webp;base64,",
    ];
    match kinds.iter().any(|kind| url.starts_with(kind)) {
        true => Ok(()),
        false => Err("invalid image input".to_owned()),
    }
}
