//! The rules of the rotation, one by one. Where a test names no client, each key belongs to a client of its own.

use super::*;

type Key = usize;
type Client = usize;

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn rotation() -> Rotation<Client, Key> {
    Rotation::new(0.1, secs(600))
}

/// These keys wait. Client and key have the same number.
fn keys<const N: usize>(keys: [Key; N]) -> [(Client, Key); N] {
    keys.map(|key| (key, key))
}

fn switch(client: Client, key: Key) -> Next<Client, Key> {
    Next::Switch { client, key }
}

/// Gives a key the turn, loaded at `now` after a load of one second. So its quantum is nine seconds.
fn resident(
    rotation: &mut Rotation<Client, Key>,
    estimates: &mut Estimates<Key>,
    client: Client,
    key: Key,
    now: Instant,
) {
    rotation.enter(client, &key, now);
    rotation.loaded(now);
    estimates.loaded(&key, secs(1));
}

#[test]
fn a_key_stays_alone_for_as_long_as_it_has_work() {
    let (mut rotation, mut estimates, start) = (rotation(), Estimates::default(), Instant::now());
    assert_eq!(rotation.next(&[], false, &estimates, start), Next::Rest);
    assert_eq!(rotation.next(&keys([1]), false, &estimates, start), switch(1, 1));
    resident(&mut rotation, &mut estimates, 1, 1, start);
    assert_eq!(rotation.next(&keys([1]), true, &estimates, start + secs(3_600)), Next::Stay(1));
    assert_eq!(rotation.next(&[], true, &estimates, start + secs(3_600)), Next::Rest);
}

#[test]
fn a_key_that_another_waits_for_has_its_quantum_and_then_drains() {
    let (mut rotation, mut estimates, start) = (rotation(), Estimates::default(), Instant::now());
    resident(&mut rotation, &mut estimates, 1, 1, start);
    assert_eq!(rotation.next(&keys([1, 2]), true, &estimates, start + secs(8)), Next::Stay(1));
    assert_eq!(rotation.next(&keys([1, 2]), true, &estimates, start + secs(9)), Next::WaitForIdle);
    assert_eq!(rotation.next(&keys([1, 2]), false, &estimates, start + secs(9)), switch(2, 2));
}

#[test]
fn a_key_without_work_gives_way_at_once_but_never_over_running_requests() {
    let (mut rotation, mut estimates, start) = (rotation(), Estimates::default(), Instant::now());
    resident(&mut rotation, &mut estimates, 1, 1, start);
    assert_eq!(rotation.next(&keys([2]), true, &estimates, start + secs(1)), Next::WaitForIdle);
    assert_eq!(rotation.next(&keys([2]), false, &estimates, start + secs(1)), switch(2, 2));
}

#[test]
fn the_quantum_does_not_run_while_the_model_loads() {
    let (mut rotation, mut estimates, start) = (rotation(), Estimates::default(), Instant::now());
    estimates.loaded(&1, secs(1));
    rotation.enter(1, &1, start);
    assert_eq!(rotation.next(&keys([1, 2]), true, &estimates, start + secs(100)), Next::Stay(1));
}

/// The turns of 1, 2 and 3 ended in this order, and 4 is first seen now. So the next turns come in the order 1, 2, 3, 4.
fn goes_round(of: impl Fn(Key) -> (Client, Key)) {
    let (mut rotation, estimates, start) = (rotation(), Estimates::default(), Instant::now());
    for (key, at) in [(1, 0), (2, 1), (3, 2)] {
        let (client, key) = of(key);
        rotation.enter(client, &key, start + secs(at));
    }
    rotation.leave(start + secs(3));
    let now = start + secs(4);
    let mut waiting = vec![of(4), of(3), of(2), of(1)];
    for expected in [1, 2, 3, 4] {
        let (client, key) = of(expected);
        assert_eq!(rotation.next(&waiting, false, &estimates, now), switch(client, key));
        waiting.retain(|waits| *waits != (client, key));
    }
}

#[test]
fn next_is_the_client_left_longest_ago_and_newcomers_line_up() {
    goes_round(|key| (key, key));
}

#[test]
fn a_client_that_is_alone_goes_round_its_keys_in_the_same_way() {
    goes_round(|key| (7, key));
}

#[test]
fn a_claim_that_brings_nothing_changes_no_turn() {
    let (mut rotation, mut estimates, start) = (rotation(), Estimates::default(), Instant::now());
    resident(&mut rotation, &mut estimates, 1, 1, start);
    assert_eq!(rotation.next(&keys([1, 2]), false, &estimates, start + secs(9)), switch(2, 2));
    assert_eq!(rotation.next(&keys([1]), false, &estimates, start + secs(9)), Next::Stay(1));
}

#[test]
fn a_client_with_many_keys_has_one_turn_and_then_another_client_has() {
    let (mut rotation, estimates, start) = (rotation(), Estimates::default(), Instant::now());
    let many: Vec<_> = (0..300).map(|key| (1, key)).collect();
    assert_eq!(rotation.next(&many, false, &estimates, start), switch(1, 0));
    rotation.enter(1, &0, start);
    let with_another = [&many[1..], &[(2, 999)]].concat();
    assert_eq!(rotation.next(&with_another, false, &estimates, start + secs(1)), switch(2, 999));
    rotation.enter(2, &999, start + secs(1));
    assert_eq!(rotation.next(&many[1..], false, &estimates, start + secs(2)), switch(1, 1), "its next key");
}

#[test]
fn a_turn_passes_without_a_load_to_a_client_that_only_wants_the_resident_key() {
    let (mut rotation, mut estimates, start) = (rotation(), Estimates::default(), Instant::now());
    let waiting = [(1, 5), (2, 5), (3, 6)];
    rotation.next(&waiting[..2], false, &estimates, start);
    resident(&mut rotation, &mut estimates, 1, 5, start);
    rotation.next(&waiting, false, &estimates, start + secs(1));
    assert_eq!(rotation.next(&waiting, true, &estimates, start + secs(9)), Next::Stay(5));
    // From second 9 on it is the turn of client 2, with a new quantum of nine seconds.
    assert_eq!(rotation.next(&waiting, true, &estimates, start + secs(17)), Next::Stay(5));
    assert_eq!(rotation.next(&waiting, false, &estimates, start + secs(18)), switch(3, 6));
}

#[test]
fn the_resident_key_is_the_last_that_a_client_gets_a_turn_for() {
    let (mut rotation, mut estimates, start) = (rotation(), Estimates::default(), Instant::now());
    let waiting = [(1, 5), (2, 5), (2, 6)];
    rotation.next(&waiting, false, &estimates, start);
    resident(&mut rotation, &mut estimates, 1, 5, start);
    assert_eq!(rotation.next(&waiting, false, &estimates, start + secs(9)), switch(2, 6));
}

mod in_virtual_time;
