//! The requests that go to an Ollama without becoming jobs, because they need no turn on the GPU or one of their own: which they
//! are, and what Foreman reads in their bodies.
//!
//! Must never change a byte of a body, except that `keep_alive` is taken out as in the body of a job.

use reqwest::{Method, Request, Response, header};

use crate::client::Client;
use crate::failure::Failure;
use crate::go_json::{self, GoMember, GoValue, folds_to};
use crate::sync_body::may_be_duration;

/// A route of Ollama with a body that names a model, and whose requests do not become jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DirectRoute {
    Show,
    Embed,
    Embeddings,
    /// OpenAI's `/v1/embeddings`.
    OpenAiEmbeddings,
}

/// The listings of Ollama, which have no bodies.
pub const LISTINGS: [&str; 4] = ["/api/tags", "/api/ps", "/api/version", "/v1/models"];

/// Below this path is one model each.
pub const OPENAI_MODELS: &str = "/v1/models";

impl DirectRoute {
    pub const ALL: [Self; 4] = [Self::Show, Self::Embed, Self::Embeddings, Self::OpenAiEmbeddings];

    pub const fn path(self) -> &'static str {
        match self {
            Self::Show => "/api/show",
            Self::Embed => "/api/embed",
            Self::Embeddings => "/api/embeddings",
            Self::OpenAiEmbeddings => "/v1/embeddings",
        }
    }

    /// The structure into which Ollama reads the body, as its error texts name it.
    const fn go_type(self) -> &'static str {
        match self {
            Self::Show => "api.ShowRequest",
            Self::Embed => "api.EmbedRequest",
            Self::Embeddings => "api.EmbeddingRequest",
            Self::OpenAiEmbeddings => "openai.EmbedRequest",
        }
    }
}

/// The body of a direct request, read as Ollama reads it.
#[derive(Clone, Debug)]
pub struct DirectBody {
    /// The model as the client wrote it. It is empty if the body names none, or if the name is no text.
    pub model: String,
    /// What Ollama gets.
    pub payload: Vec<u8>,
}

impl DirectBody {
    /// The error is Ollama's own text for such a body.
    pub fn read(route: DirectRoute, body: &[u8]) -> Result<Self, String> {
        let (mut model, mut name, mut kept) = (String::new(), String::new(), Vec::with_capacity(body.len()));
        let take = |member: GoMember| {
            let value = &body[member.value];
            if folds_to(&member.key, "keep_alive") && may_be_duration(value) {
                return;
            }
            if !kept.is_empty() {
                kept.push(b',');
            }
            kept.extend_from_slice(&body[member.place]);
            for (field, read) in [("model", &mut model), ("name", &mut name)] {
                if folds_to(&member.key, field)
                    && let Some(text) = go_json::string(value)
                {
                    *read = text;
                }
            }
        };
        match go_json::read(body, take)? {
            GoValue::Object(place) => {
                let payload = [&body[..=place.start], &kept[..], b"}"].concat();
                // Only this route still knows the old name of the field.
                let model = if model.is_empty() && route == DirectRoute::Show { name } else { model };
                Ok(Self { model, payload })
            }
            GoValue::Missing if route == DirectRoute::OpenAiEmbeddings => Err("EOF".to_owned()),
            GoValue::Missing => Err("missing request body".to_owned()),
            // To Go, null is an object without members.
            GoValue::Other("null") => Ok(Self { model, payload: b"null".to_vec() }),
            GoValue::Other(kind) => {
                Err(format!("json: cannot unmarshal {kind} into Go value of type {}", route.go_type()))
            }
        }
    }
}

impl Client {
    /// Passes a direct request on, with a body if it has one, and returns Ollama's answer with whatever status.
    pub async fn pass_on(
        &self,
        method: Method,
        path: &str,
        body: Option<reqwest::Body>,
    ) -> Result<Response, Failure> {
        let mut request = Request::new(method, self.host().join(path));
        request.headers_mut().insert(header::ACCEPT, header::HeaderValue::from_static("*/*"));
        if let Some(body) = body {
            let json = header::HeaderValue::from_static("application/json");
            request.headers_mut().insert(header::CONTENT_TYPE, json);
            *request.body_mut() = Some(body);
        }
        self.execute(request).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(route: DirectRoute, body: &str) -> Result<(String, String), String> {
        let read = DirectBody::read(route, body.as_bytes())?;
        Ok((read.model, String::from_utf8(read.payload).unwrap()))
    }

    #[test]
    fn keep_alive_alone_is_taken_out() {
        for (body, payload) in [
            (r#"{"model":"m","input":"x"}"#, r#"{"model":"m","input":"x"}"#),
            (r#"{"model":"m","keep_alive":-1, "input" : [1.0, 2]}"#, r#"{"model":"m", "input" : [1.0, 2]}"#),
            (r#"{"Keep_Alive":"5m","model":"m"} trailing"#, r#"{"model":"m"}"#),
            (r#"{"keep_alive":"soon","model":"m"}"#, r#"{"keep_alive":"soon","model":"m"}"#),
        ] {
            assert_eq!(read(DirectRoute::Embed, body), Ok(("m".to_owned(), payload.to_owned())));
        }
    }

    #[test]
    fn the_model_is_the_one_that_ollama_sees() {
        let model = |route, body| read(route, body).unwrap().0;
        assert_eq!(model(DirectRoute::Embed, r#"{"model":"a","MODEL":"b"}"#), "b");
        assert_eq!(model(DirectRoute::Show, r#"{"name":"a"}"#), "a");
        assert_eq!(model(DirectRoute::Show, r#"{"name":"a","model":"b"}"#), "b");
        assert_eq!(model(DirectRoute::Embed, r#"{"name":"a"}"#), "");
        assert_eq!(model(DirectRoute::Embed, r#"{"model":5}"#), "");
        assert_eq!(model(DirectRoute::Embed, "null"), "");
    }

    #[test]
    fn what_ollama_cannot_read_is_refused_in_its_words() {
        for (route, body, text) in [
            (DirectRoute::Embed, "", "missing request body"),
            (DirectRoute::OpenAiEmbeddings, "", "EOF"),
            (DirectRoute::Embed, "[]", "json: cannot unmarshal array into Go value of type api.EmbedRequest"),
            (DirectRoute::Embed, "hello", "invalid character 'h' looking for beginning of value"),
            (DirectRoute::Show, r#"{"model":"#, "unexpected EOF"),
        ] {
            assert_eq!(read(route, body), Err(text.to_owned()), "{body}");
        }
    }
}
