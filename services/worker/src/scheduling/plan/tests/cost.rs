//! How long the plan takes for a decision while much waits. The figures are for people: run it with
//! `cargo test --release -p foreman-worker decision -- --ignored --nocapture`.

use super::*;

const MODELS: usize = 50;
const CLIENTS: usize = 200;
const USERS: usize = 10_000;
/// A load and the quantum after it, together.
const TURN: Duration = Duration::from_secs(100);
const DECISIONS: u32 = 200;

fn model(number: usize) -> String {
    format!("model-{number}:latest num_ctx=any")
}

/// Every user belongs to one client, and has jobs for two models.
fn groups(count: usize) -> Vec<Group> {
    let group = |nth: usize| {
        // Without a common divisor, so that few groups are of many clients and models, too.
        let user = nth * 7_919 % USERS;
        let model = model((user / CLIENTS + nth / USERS * (MODELS / 2)) % MODELS);
        Group { user: user.to_string().parse().unwrap(), ..group(&model, (user % CLIENTS) as u128) }
    };
    (0..count).map(group).collect()
}

fn show(count: usize, together: usize, after: Duration) {
    let start = Instant::now();
    let mut plan = Plan::new(&turns(), 2);
    plan.published((0..MODELS).map(|number| key(&model(number)).model().clone()).collect());
    let found = groups(count);
    let began = Instant::now();
    plan.scanned(found, start);
    let scanned = began.elapsed();
    let resident: Vec<Key> = (0..together).map(|number| key(&format!("model-{number}:latest"))).collect();
    for runner in &resident {
        plan.rotation.claimed(client(0), || None, runner, start);
        plan.loaded(runner, Duration::from_secs(10), start);
    }
    plan.are_resident(resident.clone());
    let capacity = Capacity { free_slots: 1, holds_job: false };
    let [mut next_took, mut order_took, mut rest_took] = [Duration::ZERO; 3];
    for _ in 0..DECISIONS {
        let began = Instant::now();
        let next = plan.next(std::iter::empty(), true, start + after);
        next_took += began.elapsed();
        let began = Instant::now();
        plan.order(next, capacity, |runner, _| resident.contains(runner), lowest(), start);
        order_took += began.elapsed();
        let began = Instant::now();
        assert!(plan.goes_on_with(&resident[together - 1]) && plan.work_waits());
        rest_took += began.elapsed();
    }
    println!(
        "{count} groups, {together} resident, {after:?} into the turn: scanned in {scanned:?}; next {:?}, order {:?}, rest {:?}",
        next_took / DECISIONS,
        order_took / DECISIONS,
        rest_took / DECISIONS
    );
}

#[test]
#[ignore = "it shows times, which depend on the machine"]
fn a_decision_while_much_waits() {
    for count in [1_000, 20_000] {
        show(count, 1, Duration::ZERO);
        show(count, 1, TURN);
        show(count, 3, Duration::ZERO);
    }
}
