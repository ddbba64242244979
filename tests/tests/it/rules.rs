//! The rules of a job's life. Each has a test of the interleaving that would break the rule.

mod accepting;
mod cancelling;
mod claiming;
mod draining;
mod holding;
mod hosting;
mod intents;
mod missing_models;
mod orphans;
mod partitions;
mod plans;
mod repeating;
mod rescuing;
mod rooms;
mod schema;
mod silence;
mod time;
mod unloading;
mod usage;
mod users;
mod waking;
