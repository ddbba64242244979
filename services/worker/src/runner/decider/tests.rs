//! Runs the decider in virtual time against a scripted world ([`world`]). Each script says which jobs come, how long
//! loads and runs take, which answers of Postgres are late or lost, and when Ollama, the spell or the host lease goes
//! away. The world checks the rules of the floor after each decision.

mod world;

use std::time::Duration;

use proptest::prelude::*;

use world::{Claiming, Disturbance, JobPlan, Script, World};

fn millis(range: std::ops::Range<u64>) -> impl Strategy<Value = Duration> {
    range.prop_map(Duration::from_millis)
}

fn job() -> impl Strategy<Value = JobPlan> {
    let failures = prop_oneof![4 => Just(0u8), 1 => 1..3u8];
    let run = prop_oneof![3 => millis(1..100), 2 => millis(100..3_000)];
    (millis(0..40_000), 0..3usize, 0..4usize, run, failures, any::<bool>()).prop_map(
        |(at, client, key, run, failures, host_is_to_blame)| JobPlan {
            at,
            client,
            key,
            run,
            failures,
            host_is_to_blame,
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
    ];
    (millis(0..50_000), kind)
}

fn scripts() -> impl Strategy<Value = Script> {
    let load = (millis(1..5_000), prop::bool::weighted(0.15));
    (
        1..=4usize,
        prop::collection::vec(job(), 1..60),
        prop::collection::vec(load, 1..8),
        prop::collection::vec(claiming(), 1..20),
        prop::collection::vec(disturbance(), 0..8),
        prop::option::of((millis(0..60_000), millis(0..10_000))),
    )
        .prop_map(|(slots, jobs, loads, claims, disturbances, stop)| Script {
            slots,
            jobs,
            loads,
            claims,
            disturbances,
            stop,
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(384))]

    /// [`World::check`] has the rules that hold after each decision. In the end every claimed job is settled or
    /// handed back. If the script does not stop the process, every job has ended.
    #[test]
    fn whatever_happens_the_rules_of_the_floor_hold(script in scripts()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async { World::new(script).run().await });
    }
}
