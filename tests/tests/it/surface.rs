//! Tests the routes that clients of Ollama, OpenAI and Anthropic call.

mod bound;
mod refusals;
