//! The tests that need a real Postgres or real processes, in one binary: each would link everything.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod api;
mod calls;
mod cli;
mod clients;
mod clock_steps;
mod documents;
mod draining;
mod endpoints;
mod handing_back;
mod house;
mod kills;
mod lifecycle;
mod metrics;
mod ollama_away;
mod pausing;
mod pooled;
mod refusals;
mod rules;
mod sent_ahead;
mod several_clients;
mod several_hosts;
mod several_models;
mod silent_postgres;
mod stack;
mod standing_by;
mod statements;
mod stopping;
mod surface;
mod streams;
mod structure;
mod thin_line;
mod unloading;
mod upgrading;
mod usage;
mod waiting;
mod warming;
mod webhooks;

use serde_json::{Value, json};

/// A chat job; `prompt` may hold orders to the simulator.
fn chat(prompt: &str) -> Value {
    json!({"model": "tiny-a", "messages": [{"role": "user", "content": prompt}]})
}

/// The same with a receiver.
fn chat_with_webhook(prompt: &str, url: &str) -> Value {
    let mut job = chat(prompt);
    job["state_webhook_url"] = url.into();
    job
}
