//! The two kinds of jobs, each with its route at Ollama.

use std::fmt;
use std::str::FromStr;

/// The route of a job at Ollama, which also decides the shape of its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Route {
    Chat,
    Generate,
}

/// This path is not the route of any job.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a route that runs a model")]
pub struct UnknownRoute(String);

impl Route {
    pub const fn path(self) -> &'static str {
        match self {
            Self::Chat => "/api/chat",
            Self::Generate => "/api/generate",
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
        match path {
            "/api/chat" => Ok(Self::Chat),
            "/api/generate" => Ok(Self::Generate),
            other => Err(UnknownRoute(other.to_owned())),
        }
    }
}
