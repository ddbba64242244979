//! The routes of Ollama that run a model. Every job has one.

use std::fmt;
use std::str::FromStr;

/// The route of a job at Ollama, which also decides the shape of its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Route {
    Chat,
    Generate,
    /// OpenAI's `/v1/chat/completions`.
    ChatCompletions,
    /// OpenAI's `/v1/completions`.
    Completions,
    /// OpenAI's `/v1/responses`.
    Responses,
    /// Anthropic's `/v1/messages`.
    Messages,
    Embed,
    Embeddings,
    /// OpenAI's `/v1/embeddings`.
    OpenAiEmbeddings,
}

/// What a model is asked for. A model may support only one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RunKind {
    Chat,
    Generate,
    Embed,
}

/// This path is not the route of any job.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a route that runs a model")]
pub struct UnknownRoute(String);

impl Route {
    pub const ALL: [Self; 9] = [
        Self::Chat,
        Self::Generate,
        Self::ChatCompletions,
        Self::Completions,
        Self::Responses,
        Self::Messages,
        Self::Embed,
        Self::Embeddings,
        Self::OpenAiEmbeddings,
    ];

    pub const fn path(self) -> &'static str {
        match self {
            Self::Chat => "/api/chat",
            Self::Generate => "/api/generate",
            Self::ChatCompletions => "/v1/chat/completions",
            Self::Completions => "/v1/completions",
            Self::Responses => "/v1/responses",
            Self::Messages => "/v1/messages",
            Self::Embed => "/api/embed",
            Self::Embeddings => "/api/embeddings",
            Self::OpenAiEmbeddings => "/v1/embeddings",
        }
    }

    /// Ollama itself turns every other route into one of these.
    pub const fn kind(self) -> RunKind {
        match self {
            Self::Chat | Self::ChatCompletions | Self::Responses | Self::Messages => RunKind::Chat,
            Self::Generate | Self::Completions => RunKind::Generate,
            Self::Embed | Self::Embeddings | Self::OpenAiEmbeddings => RunKind::Embed,
        }
    }

    /// Whether the route is one of Ollama's own.
    pub const fn is_native(self) -> bool {
        matches!(self, Self::Chat | Self::Generate | Self::Embed | Self::Embeddings)
    }

    /// Whether the route embeds. Its answers are never streams.
    pub const fn embeds(self) -> bool {
        matches!(self.kind(), RunKind::Embed)
    }
}

impl RunKind {
    /// Ollama's own route for this.
    pub const fn route(self) -> Route {
        match self {
            Self::Chat => Route::Chat,
            Self::Generate => Route::Generate,
            Self::Embed => Route::Embed,
        }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.path())
    }
}

impl FromStr for Route {
    type Err = UnknownRoute;

    fn from_str(path: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|route| route.path() == path).ok_or_else(|| UnknownRoute(path.to_owned()))
    }
}
