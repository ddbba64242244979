//! What happens in a world of the decider, and how scripts are drawn at random.

use std::time::Duration;

use proptest::prelude::*;

#[derive(Debug, Clone)]
pub(super) struct Script {
    pub(super) slots: usize,
    /// How many models may be loaded at once, as the worker is told, and how many Ollama really holds.
    pub(super) room: usize,
    pub(super) holds: usize,
    pub(super) jobs: Vec<JobPlan>,
    /// How long each load takes, and whether it fails. The list repeats. No load fails once the world is calm.
    pub(super) loads: Vec<(Duration, bool)>,
    /// When and how each question is answered. The list repeats. Once the world is calm, every answer is quick and good.
    pub(super) claims: Vec<(Duration, Claiming)>,
    /// How long each unload takes, and whether it fails. The list repeats. No unload fails once the world is calm.
    pub(super) unloads: Vec<(Duration, bool)>,
    pub(super) disturbances: Vec<(Duration, Disturbance)>,
    /// When the process is told to stop, and after how long its grace is nearly over.
    pub(super) stop: Option<(Duration, Duration)>,
}

#[derive(Debug, Clone)]
pub(super) struct JobPlan {
    /// When the job becomes ready.
    pub(super) at: Duration,
    pub(super) client: usize,
    pub(super) user: usize,
    pub(super) sync: bool,
    pub(super) key: usize,
    pub(super) run: Duration,
    /// How often the job fails before it succeeds.
    pub(super) failures: u8,
    /// Whether it fails because Ollama cannot be reached, which costs it no attempt.
    pub(super) host_is_to_blame: bool,
    /// Whether each of its attempts gives a part of the answer to a caller.
    pub(super) speaks: bool,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Claiming {
    /// A claim brings as many jobs as it may.
    Full,
    /// A claim brings at most this many jobs, as if others held the rows.
    AtMost(usize),
    /// The claim is committed, but its answer is lost.
    LostAfterCommit,
    /// The claim is not committed, and the worker cannot know that.
    LostBeforeCommit,
    /// Postgres says that nothing was claimed.
    Refused,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Disturbance {
    /// Ollama is away for this long.
    HostAway(Duration),
    /// Somebody cancels the job with this number.
    Cancel(usize),
    /// Renewals fail for this long, and no janitor notices.
    SpellLost(Duration),
    /// Renewals fail for this long, and a janitor takes all leases away. The worker goes on under a new id.
    Rescued(Duration),
    /// This worker does not hold the host for this long.
    HolderLost(Duration),
    /// Ollama unloads its model by itself.
    NothingResident,
    /// An operator wants the model of the key with this number unloaded.
    UnloadAsked(usize),
}

fn millis(range: std::ops::Range<u64>) -> impl Strategy<Value = Duration> {
    range.prop_map(Duration::from_millis)
}

fn job() -> impl Strategy<Value = JobPlan> {
    let failures = prop_oneof![4 => Just(0u8), 1 => 1..3u8];
    let run = prop_oneof![3 => millis(1..100), 2 => millis(100..3_000)];
    let whose = (0..3usize, 0..2usize, any::<bool>());
    (millis(0..40_000), whose, 0..6usize, run, failures, any::<bool>(), any::<bool>()).prop_map(
        |(at, (client, user, sync), key, run, failures, host_is_to_blame, speaks)| JobPlan {
            at,
            client,
            user,
            sync,
            key,
            run,
            failures,
            host_is_to_blame,
            speaks,
        },
    )
}

fn claiming() -> impl Strategy<Value = (Duration, Claiming)> {
    let kind = prop_oneof![
        6 => Just(Claiming::Full),
        2 => (0..2usize).prop_map(Claiming::AtMost),
        1 => Just(Claiming::LostAfterCommit),
        1 => Just(Claiming::LostBeforeCommit),
        1 => Just(Claiming::Refused),
    ];
    // The longest delay is the deadline of a statement: by then every question has an answer or has failed.
    (prop_oneof![6 => millis(0..20), 1 => millis(20..8_000)], kind)
}

fn disturbance() -> impl Strategy<Value = (Duration, Disturbance)> {
    let kind = prop_oneof![
        2 => millis(1..10_000).prop_map(Disturbance::HostAway),
        2 => (0..60usize).prop_map(Disturbance::Cancel),
        1 => millis(1..8_000).prop_map(Disturbance::SpellLost),
        1 => millis(1..8_000).prop_map(Disturbance::Rescued),
        1 => millis(1..8_000).prop_map(Disturbance::HolderLost),
        1 => Just(Disturbance::NothingResident),
        // All keys but the one of the cloud.
        4 => (0..5usize).prop_map(Disturbance::UnloadAsked),
    ];
    (millis(0..50_000), kind)
}

pub(super) fn scripts() -> impl Strategy<Value = Script> {
    let load = (millis(1..5_000), prop::bool::weighted(0.15));
    let unload = (prop_oneof![3 => millis(1..20), 1 => millis(20..10_000)], prop::bool::weighted(0.2));
    (
        (1..=4usize, 1..=3usize, 1..=3usize),
        prop::collection::vec(job(), 1..60),
        prop::collection::vec(load, 1..8),
        prop::collection::vec(claiming(), 1..20),
        prop::collection::vec(unload, 1..4),
        prop::collection::vec(disturbance(), 0..12),
        prop::option::of((millis(0..60_000), millis(0..10_000))),
    )
        .prop_map(|((slots, room, holds), jobs, loads, claims, unloads, disturbances, stop)| Script {
            slots,
            room,
            holds,
            jobs,
            loads,
            claims,
            unloads,
            disturbances,
            stop,
        })
}
