//! What Foreman knows about Ollama: its names, its addresses, its wire types, a client, and the meaning of its
//! failures.
//!
//! Everything here is pure except [`Client`], the only code of Foreman that talks to an Ollama. Must never know of
//! Postgres, of the rooms of jobs or of HTTP that Foreman serves, and must never decide *when* to ask Ollama for
//! something.

mod classify;
mod client;
mod context;
mod direct;
mod embedding;
mod failure;
mod generation;
mod go_json;
mod host;
mod job_body;
mod join;
mod load_key;
mod model;
mod object;
mod pieces;
mod relayed;
mod request_body;
mod route;
mod sync_body;
mod wire;

pub use classify::{RETRY_TEXTS, RetryText, answer_failure, error_text, stream_failure};
pub use client::{Client, ClientError};
pub use context::{Context, write_context};
pub use direct::{DirectBody, DirectRoute, LISTINGS, OPENAI_MODELS};
pub use embedding::{cannot_embed, no_embeddings};
pub use failure::{Failure, FailureKind};
pub use generation::{AnswerHead, Generation};
pub use host::{HostError, OllamaHost};
pub use job_body::{JobBody, JobBodyError, OWN_FIELDS};
pub use join::{Join, Joined, Metrics, Pushed};
pub use load_key::{LoadKey, LoadKeyError};
pub use model::{ModelName, ModelNameError};
pub use pieces::{Cutter, Pieces};
pub use relayed::{Relay, Relayed, Usage};
pub use route::{Route, RunKind, UnknownRoute};
pub use sync_body::{Purpose, SyncBody, SyncBodyError};
pub use wire::{InstalledModel, ModelDetails, RunningModel};
