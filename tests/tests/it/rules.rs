//! The rules of a job's life: for each, the interleaving that breaks it where it is not kept.

mod accepting;
mod cancelling;
mod claiming;
mod holding;
mod hosting;
mod missing_models;
mod partitions;
mod plans;
mod rescuing;
mod rooms;
mod schema;
mod silence;
mod time;
mod waking;
