//! What is the same in the bodies of all requests to Ollama, whether they become jobs or are passed on: which of them can be read
//! at all, and which members are taken out.

use std::ops::Range;

use crate::go_json::{self, GoMember, GoValue, folds_to};
use crate::route::Route;

/// The members of a body that stay in it, with the commas between them.
pub(crate) struct Kept<'a> {
    body: &'a [u8],
    members: Vec<u8>,
}

impl<'a> Kept<'a> {
    pub(crate) fn new(body: &'a [u8]) -> Self {
        Self { body, members: Vec::with_capacity(body.len()) }
    }

    pub(crate) fn keep(&mut self, member: &GoMember) {
        if !self.members.is_empty() {
            self.members.push(b',');
        }
        self.members.extend_from_slice(&self.body[member.place.clone()]);
    }

    /// The object with the members that stay. What follows it in the body is left out.
    pub(crate) fn object(&self, place: &Range<usize>) -> Vec<u8> {
        [&self.body[..=place.start], &self.members[..], b"}"].concat()
    }
}

/// Reads a body, and gives `each` its members in their order. Returns where the object lies, or `None` for null, which to Go is
/// an object without members. The error is Ollama's own text.
pub(crate) fn read(
    body: &[u8],
    empty: &str,
    go_type: (&str, &str),
    each: impl FnMut(GoMember),
) -> Result<Option<Range<usize>>, String> {
    match go_json::read(body, each)? {
        GoValue::Object(place) => Ok(Some(place)),
        GoValue::Missing => Err(empty.to_owned()),
        GoValue::Other("null") => Ok(None),
        GoValue::Other(kind) => {
            let (package, name) = go_type;
            Err(format!("json: cannot unmarshal {kind} into Go value of type {package}.{name}"))
        }
    }
}

/// What Ollama says of a request without a body.
pub(crate) fn empty(is_native: bool) -> &'static str {
    if is_native { "missing request body" } else { "EOF" }
}

/// The structure into which Ollama reads the bodies of a route, as its error texts name it.
pub(crate) fn go_type(route: Route) -> (&'static str, &'static str) {
    match route {
        Route::Chat => ("api", "ChatRequest"),
        Route::Generate => ("api", "GenerateRequest"),
        Route::ChatCompletions => ("openai", "ChatCompletionRequest"),
        Route::Completions => ("openai", "CompletionRequest"),
        Route::Responses => ("openai", "ResponsesRequest"),
        Route::Messages => ("anthropic", "MessagesRequest"),
        Route::Embed => ("api", "EmbedRequest"),
        Route::Embeddings => ("api", "EmbeddingRequest"),
        Route::OpenAiEmbeddings => ("openai", "EmbedRequest"),
    }
}

/// Whether a member is a `keep_alive` that Ollama may obey. One that it certainly refuses stays in the body, so that Ollama says
/// why.
pub(crate) fn is_keep_alive(member: &GoMember, body: &[u8]) -> bool {
    folds_to(&member.key, "keep_alive") && may_be_duration(&body[member.value.clone()])
}

fn may_be_duration(value: &[u8]) -> bool {
    match go_json::kind(value) {
        "number" | "null" => true,
        "string" => go_json::string(value).is_some_and(|text| text.contains(|c: char| c.is_ascii_digit())),
        _ => false,
    }
}

/// Whether this member leaves the request without content, so that the request only loads or unloads its model. `None` if the
/// member says nothing about that.
pub(crate) fn is_without_content(route: Route, member: &GoMember, body: &[u8]) -> Option<bool> {
    let value = &body[member.value.clone()];
    let is = |field| folds_to(&member.key, field);
    match route {
        Route::Chat if is("messages") => Some(value == b"null" || is_empty_array(value)),
        // For Go, null leaves a string as it was.
        Route::Generate | Route::Embeddings if is("prompt") && value != b"null" => Some(value == b"\"\""),
        Route::Embed if is("input") => Some(value == b"null" || value == b"\"\"" || is_empty_array(value)),
        _ => None,
    }
}

/// Whether a valid array has no item. Its first bytes are enough.
fn is_empty_array(value: &[u8]) -> bool {
    value.strip_prefix(b"[").is_some_and(|rest| rest.trim_ascii_start().starts_with(b"]"))
}

/// Whether the duration of a `keep_alive` is zero: a number, or numbers with units.
pub(crate) fn is_zero(value: &[u8]) -> bool {
    let text = go_json::string(value).unwrap_or_else(|| go_json::utf8(value));
    let number = text.split(['e', 'E']).next().unwrap_or_default();
    let digits = |c: &char| c.is_ascii_digit();
    number.chars().any(|c| digits(&c)) && number.chars().filter(digits).all(|c| c == '0')
}
