//! Tests the routes that clients of Ollama, OpenAI and Anthropic call.

mod bound;
mod direct;
mod passed_on;
mod played;
mod refusals;
