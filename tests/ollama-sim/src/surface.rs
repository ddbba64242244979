//! The routes that run a model: Ollama's own two, and those of `/v1`.
//!
//! As in Ollama, a route of `/v1` translates its request into one of `/api/chat` or `/api/generate`, and translates
//! each part of the answer back. Residency, slots, faults and the log see no difference between the routes.

use bytes::Bytes;
use futures_util::stream::Stream;
use hyper::Response;
use hyper::header::{CACHE_CONTROL, CONNECTION, HeaderValue};

use crate::go_json;
use crate::http::{self, Body, Cut};
use crate::replies::Native;
use crate::request::{RunRequest, Shape};
use crate::v1::{self, chat, completions, messages, responses};
use crate::voice::{Asked, End, Said, Voice};

/// A route that runs a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Surface {
    Chat,
    Generate,
    ChatCompletions,
    Completions,
    Responses,
    Messages,
}

impl Surface {
    const ALL: [Self; 6] = [
        Self::Chat,
        Self::Generate,
        Self::ChatCompletions,
        Self::Completions,
        Self::Responses,
        Self::Messages,
    ];

    pub(crate) fn at(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|surface| surface.path() == path)
    }

    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Chat => "/api/chat",
            Self::Generate => "/api/generate",
            Self::ChatCompletions => "/v1/chat/completions",
            Self::Completions => "/v1/completions",
            Self::Responses => "/v1/responses",
            Self::Messages => "/v1/messages",
        }
    }

    /// The request of Ollama's own into which this route translates.
    pub(crate) fn shape(self) -> Shape {
        match self {
            Self::Generate | Self::Completions => Shape::Generate,
            Self::Chat | Self::ChatCompletions | Self::Responses | Self::Messages => Shape::Chat,
        }
    }

    /// Reads a body, or returns the error text that this route answers with status 400.
    pub(crate) fn read(self, body: &[u8], simulated: bool) -> Result<Asked, String> {
        match self {
            Self::Chat | Self::Generate => {
                let request = RunRequest::decode(self.shape(), body)?;
                let voice = Native { shape: self.shape(), model: go_json::string(&request.model), simulated };
                Ok(Asked { request, voice: Box::new(voice) })
            }
            Self::ChatCompletions => chat::read(body, simulated),
            Self::Completions => completions::read(body, simulated),
            Self::Responses => responses::read(body, simulated),
            Self::Messages => messages::read(body, simulated),
        }
    }

    /// The refusal of a body that [`Self::read`] cannot read.
    pub(crate) fn unreadable(self, text: &str) -> Response<Body> {
        match self {
            Self::Chat | Self::Generate => http::error(400, text),
            Self::ChatCompletions | Self::Completions | Self::Responses => v1::unreadable(text),
            Self::Messages => messages::unreadable(text),
        }
    }
}

/// The form of the answer to one request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Form {
    pub(crate) surface: Surface,
    pub(crate) stream: bool,
}

impl Form {
    pub(crate) fn of(surface: Surface, request: &RunRequest) -> Self {
        Self { surface, stream: request.stream != Some(false) }
    }

    /// An error before anything else was sent.
    pub(crate) fn error(self, status: u16, text: &str) -> Response<Body> {
        self.headed(match self.surface {
            Surface::Chat | Surface::Generate => http::error(status, text),
            Surface::ChatCompletions | Surface::Completions | Surface::Responses => v1::error(status, text),
            Surface::Messages => messages::error(status, text),
        })
    }

    pub(crate) fn whole(self, body: String) -> Response<Body> {
        match self.surface {
            Surface::Chat | Surface::Generate => http::json(body),
            _ => http::json_line(200, body),
        }
    }

    pub(crate) fn stream(
        self,
        stream: impl Stream<Item = Result<Bytes, Cut>> + Send + 'static,
    ) -> Response<Body> {
        let kind = match self.surface {
            Surface::Chat | Surface::Generate => http::LINES,
            _ => http::EVENTS,
        };
        self.headed(http::stream(kind, stream))
    }

    /// The answer to a request that only loads or unloads a model. Ollama's own routes never stream it.
    pub(crate) fn empty(self, voice: &mut dyn Voice, reason: &'static str) -> Response<Body> {
        let end = End { reason, ..End::default() };
        if !self.stream || matches!(self.surface, Surface::Chat | Surface::Generate) {
            return self.whole(voice.whole(&Said::default(), Some(&end)));
        }
        let mut out = String::new();
        voice.last(&mut out, &end);
        self.stream(futures_util::stream::iter([Ok(out.into())]))
    }

    /// Some routes set these headers as soon as they know that the client wants a stream, so an error has them too.
    fn headed(self, mut answer: Response<Body>) -> Response<Body> {
        if self.stream && matches!(self.surface, Surface::Responses | Surface::Messages) {
            answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("keep-alive"));
        }
        answer
    }
}
