//! The tests that need a real Postgres or real processes, in one binary: each would link everything.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod api;
mod rules;
