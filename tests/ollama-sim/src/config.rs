//! The configuration of a simulator: its models, its times and its limits.

use std::net::SocketAddr;
use std::time::Duration;

use crate::keep_alive::KeepAlive;
use crate::model::{self, Model};

/// How a simulator behaves. By default it answers at once, with one model at a time, like a new Ollama on a very fast
/// machine.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen. Port 0 takes a free port that no outgoing connection can take, so that the simulator can go
    /// away and come back.
    pub addr: SocketAddr,
    /// A second address for the routes of `/sim`, which stays reachable while the simulator is away.
    pub control_addr: Option<SocketAddr>,
    pub version: String,
    pub models: Vec<Model>,
    /// How long a load takes.
    pub load_delay: Duration,
    /// Loads that take another time. The first entry that matches counts.
    pub load_delays: Vec<LoadDelay>,
    /// Time from the start of a run to its first token.
    pub prompt_delay: Duration,
    /// Time from one token to the next.
    pub token_delay: Duration,
    /// How many tokens an answer has if neither `num_predict` nor the prompt sets a number.
    pub tokens: u32,
    /// `OLLAMA_NUM_PARALLEL`.
    pub parallel: usize,
    /// `OLLAMA_MAX_LOADED_MODELS`.
    pub max_loaded: usize,
    /// `OLLAMA_MAX_QUEUE`.
    pub max_queue: usize,
    /// `OLLAMA_CONTEXT_LENGTH`: the context for requests and models that name none.
    pub context_length: i64,
    /// `OLLAMA_KEEP_ALIVE`.
    pub keep_alive: KeepAlive,
    /// Adds `"simulated": true` to every final answer, so that nobody takes it for the answer of a model.
    pub simulated_mark: bool,
    /// How many requests the log keeps. It drops older ones, but still counts them.
    pub keep_records: usize,
}

/// A load with a time of its own.
#[derive(Clone, Debug)]
pub struct LoadDelay {
    pub model: String,
    /// `num_ctx` of the request, if only this value is meant.
    pub num_ctx: Option<i64>,
    pub delay: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            addr: SocketAddr::from(([127, 0, 0, 1], 0)),
            control_addr: None,
            version: "0.32.15".to_owned(),
            models: vec![
                Model::new("tiny-a"),
                Model::new("tiny-b"),
                Model::new("tiny-tools").with("tools").with("thinking"),
            ],
            load_delay: Duration::ZERO,
            load_delays: Vec::new(),
            prompt_delay: Duration::ZERO,
            token_delay: Duration::ZERO,
            tokens: 8,
            parallel: 1,
            max_loaded: 1,
            max_queue: 512,
            context_length: 4096,
            keep_alive: KeepAlive::For(Duration::from_secs(5 * 60)),
            simulated_mark: false,
            keep_records: 200_000,
        }
    }
}

impl Config {
    /// Adds models with these names, each made by [`Model::new`].
    pub fn models<const N: usize>(mut self, names: [&str; N]) -> Self {
        self.models = names.into_iter().map(Model::new).collect();
        self
    }

    /// Gives every load of one model its own time.
    pub fn slow_load(mut self, model: &str, delay: Duration) -> Self {
        self.load_delays.push(LoadDelay { model: model.to_owned(), num_ctx: None, delay });
        self
    }

    pub(crate) fn load_delay(&self, loaded: &Model, num_ctx: i64) -> Duration {
        let fits = |delay: &&LoadDelay| {
            model::canonical(&delay.model).is_some_and(|name| name.eq_ignore_ascii_case(&loaded.name))
                && delay.num_ctx.is_none_or(|wanted| wanted == num_ctx)
        };
        self.load_delays.iter().find(fits).map_or(self.load_delay, |delay| delay.delay)
    }
}
