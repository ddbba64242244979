//! The requests that go to an Ollama without becoming jobs, because they need no turn on the GPU or one of their own: which they
//! are, and what Foreman reads in their bodies.
//!
//! Must never change a byte of a body, except that `keep_alive` is taken out as in the body of a job.

use reqwest::{Method, Response};

use crate::client::Client;
use crate::failure::Failure;
use crate::go_json::{self, GoMember, folds_to};
use crate::request_body::{self, Kept, go_type, is_keep_alive, is_without_content, is_zero};
use crate::route::Route;

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
        match self.embedding() {
            None => "/api/show",
            Some(route) => route.path(),
        }
    }

    /// The route as that of a job. `None` if it is never one.
    pub const fn embedding(self) -> Option<Route> {
        match self {
            Self::Show => None,
            Self::Embed => Some(Route::Embed),
            Self::Embeddings => Some(Route::Embeddings),
            Self::OpenAiEmbeddings => Some(Route::OpenAiEmbeddings),
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
    /// Whether the request brings nothing to embed, so that it only loads or unloads the model.
    pub is_empty: bool,
    /// Whether `keep_alive` is zero.
    pub unloads: bool,
}

impl DirectBody {
    /// The error is Ollama's own text for such a body.
    pub fn read(route: DirectRoute, body: &[u8]) -> Result<Self, String> {
        let (mut model, mut name, mut kept) = (String::new(), String::new(), Kept::new(body));
        // The other routes refuse a request without content before they load anything.
        let (mut is_empty, mut unloads) = (route.embedding().is_some_and(Route::is_native), false);
        let take = |member: GoMember| {
            if is_keep_alive(&member, body) {
                unloads = is_zero(&body[member.value]);
                return;
            }
            kept.keep(&member);
            if let Some(route) = route.embedding() {
                is_empty = is_without_content(route, &member, body).unwrap_or(is_empty);
            }
            for (field, read) in [("model", &mut model), ("name", &mut name)] {
                if folds_to(&member.key, field)
                    && let Some(text) = go_json::string(&body[member.value.clone()])
                {
                    *read = text;
                }
            }
        };
        let is_native = route.embedding().is_none_or(Route::is_native);
        let go_type = route.embedding().map_or(("api", "ShowRequest"), go_type);
        let object = request_body::read(body, request_body::empty(is_native), go_type, take)?;
        let payload = object.map_or_else(|| b"null".to_vec(), |place| kept.object(&place));
        // Only this route still knows the old name of the field.
        let model = if model.is_empty() && route == DirectRoute::Show { name } else { model };
        Ok(Self { model, payload, is_empty, unloads })
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
        let request = match body {
            Some(body) => self.request_with(method, path, body),
            None => self.request(method, path),
        };
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
    fn an_unload_brings_nothing_to_embed_and_a_keep_alive_of_zero() {
        for (route, body, expected) in [
            (DirectRoute::Embed, r#"{"model":"m","input":[ ],"keep_alive":0}"#, (true, true)),
            (DirectRoute::Embed, r#"{"model":"m","keep_alive":"0s"}"#, (true, true)),
            (DirectRoute::Embed, r#"{"model":"m","input":"","keep_alive":"5m"}"#, (true, false)),
            (DirectRoute::Embed, r#"{"model":"m","input":[],"INPUT":"x","keep_alive":0}"#, (false, true)),
            (DirectRoute::Embed, r#"{"model":"m","input":5}"#, (false, false)),
            (DirectRoute::Embeddings, r#"{"model":"m","prompt":"","keep_alive":0}"#, (true, true)),
            (DirectRoute::Embeddings, r#"{"model":"m","prompt":"x","input":[]}"#, (false, false)),
            (DirectRoute::OpenAiEmbeddings, r#"{"model":"m","input":[]}"#, (false, false)),
        ] {
            let read = DirectBody::read(route, body.as_bytes()).unwrap();
            assert_eq!((read.is_empty, read.unloads), expected, "{body}");
        }
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
