//! Orders to the simulator: words in the last message, in the prompt, or in a text to embed, that begin with `sim:`.
//! They work on every route.
//!
//! | order | what it does |
//! |---|---|
//! | `sim:tokens=N` | the answer has N tokens, unless `num_predict` is smaller |
//! | `sim:bytes=N` | the answer has about N bytes, in at most 1,000 tokens |
//! | `sim:echo` | the answer repeats the prompt |
//! | `sim:loop` | the model falls into a loop, which Ollama ends after 31 equal tokens, without a last line |
//! | `sim:think` | the model thinks first, if the request allows it |
//! | `sim:tools=N` | the model calls the first tool of the request N times |
//! | `sim:prompt-delay=1s`, `sim:token-delay=50ms` | the times of this answer |
//! | `sim:no-metrics` | counts and durations are zero, and so left out |
//! | `sim:fault=…` | a fault happens; see [`crate::Fault`] for the names |

use std::time::Duration;

use crate::faults::{Due, Fault, Moment, Stage};
use crate::request::RunRequest;

/// The orders of a prompt.
#[derive(Clone, Debug, Default)]
pub(crate) struct Orders {
    pub(crate) tokens: Option<u32>,
    pub(crate) bytes: Option<usize>,
    pub(crate) echo: bool,
    pub(crate) looping: bool,
    pub(crate) think: bool,
    pub(crate) tools: u32,
    pub(crate) prompt_delay: Option<Duration>,
    pub(crate) token_delay: Option<Duration>,
    pub(crate) no_metrics: bool,
}

/// More than any test needs, and few enough not to exhaust the simulator.
const MOST_TOKENS: u32 = 1_000_000;
const MOST_BYTES: usize = 256 << 20;

/// The fault that the prompt of a request orders for this stage.
pub(crate) fn ordered_fault(request: &RunRequest, stage: Stage) -> Option<Due> {
    let fault = orders(request.last_text()).find_map(|(name, value)| match name {
        "fault" => value.parse::<Fault>().ok(),
        _ => None,
    })?;
    let here = match fault.when {
        Moment::Arrival => Stage::Arrival,
        Moment::Load => Stage::Load,
        Moment::Tokens(_) => Stage::Run,
    };
    (here == stage).then(|| Due::of(&fault))
}

fn orders(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let words = if text.contains("sim:") { text } else { "" };
    words
        .split_whitespace()
        .filter_map(|word| word.strip_prefix("sim:"))
        .map(|order| order.split_once('=').unwrap_or((order, "")))
}

impl Orders {
    pub(crate) fn read(text: &str) -> Self {
        let mut read = Self::default();
        for (name, value) in orders(text) {
            match name {
                "tokens" => read.tokens = value.parse().ok().map(|tokens: u32| tokens.min(MOST_TOKENS)),
                "bytes" => read.bytes = value.parse().ok().map(|bytes: usize| bytes.min(MOST_BYTES)),
                "echo" => read.echo = true,
                "loop" => read.looping = true,
                "think" => read.think = true,
                "tools" => read.tools = value.parse().unwrap_or(1).min(MOST_TOKENS),
                "prompt-delay" => read.prompt_delay = humantime::parse_duration(value).ok(),
                "token-delay" => read.token_delay = humantime::parse_duration(value).ok(),
                "no-metrics" => read.no_metrics = true,
                _ => {}
            }
        }
        read
    }
}
