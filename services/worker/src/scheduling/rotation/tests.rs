//! The rules of the rotation, one by one. Where a test names no client, each key belongs to a client of its own. No client
//! has had anything, unless a test says so: so the client that was served longest ago comes next.

use super::*;

type Key = usize;
type Client = usize;

/// What a client waits for, and whether callers wait.
#[derive(Debug, Clone, Copy)]
struct Waits {
    client: Client,
    key: Key,
    sync: bool,
}

impl Waiting<Client, Key> for Vec<Waits> {
    fn clients(&self) -> impl Iterator<Item = Client> {
        self.iter().map(|waits| waits.client)
    }

    fn runners(&self) -> impl Iterator<Item = (Key, bool)> {
        self.iter().map(|waits| (waits.key, waits.sync))
    }

    fn runners_of(&self, client: Client) -> impl Iterator<Item = Key> {
        self.iter().filter(move |waits| waits.client == client).map(|waits| waits.key)
    }

    fn clients_of(&self, runner: &Key) -> impl Iterator<Item = Client> {
        self.iter().filter(move |waits| waits.key == *runner).map(|waits| waits.client)
    }
}

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A rotation, and what it is asked with.
struct Host {
    rotation: Rotation<Client, Key>,
    estimates: Estimates<Key>,
    /// What is loaded beside the key that has the turn.
    resident: Vec<Key>,
    start: Instant,
}

impl Host {
    fn new() -> Self {
        Self {
            rotation: Rotation::new(0.1, secs(600)),
            estimates: Estimates::default(),
            resident: Vec::new(),
            start: Instant::now(),
        }
    }

    /// What to do after so many seconds, while these wait.
    fn next(&mut self, waiting: &[(Client, Key)], in_flight: bool, second: u64) -> Next<Client, Key> {
        self.next_of(&waits(waiting), |_| 0, in_flight, second)
    }

    fn next_of(
        &mut self,
        waiting: &[Waits],
        had: impl Fn(&Client) -> u64,
        in_flight: bool,
        second: u64,
    ) -> Next<Client, Key> {
        let turn = self.rotation.turn().copied();
        let goes_on = waiting.iter().any(|waits| Some(waits.key) == turn);
        let now = self.start + secs(second);
        let gpu = Gpu { resident: &self.resident, is_busy: in_flight, estimates: &self.estimates };
        self.rotation.next(goes_on, || waiting.to_vec(), had, gpu, now)
    }

    /// Gives a key the turn, loaded in a load of one second. So its quantum is nine seconds.
    fn resident(&mut self, client: Client, key: Key, second: u64) {
        let now = self.start + secs(second);
        self.rotation.claimed(client, &key, now);
        self.rotation.loaded(now);
        self.rotation.is_resident(now);
        self.estimates.loaded(&key, secs(1));
    }
}

fn waits(waiting: &[(Client, Key)]) -> Vec<Waits> {
    waiting.iter().map(|(client, key)| Waits { client: *client, key: *key, sync: false }).collect()
}

/// These keys wait. Client and key have the same number.
fn keys<const N: usize>(keys: [Key; N]) -> [(Client, Key); N] {
    keys.map(|key| (key, key))
}

fn switch(client: Client, key: Key) -> Next<Client, Key> {
    Next::Switch { client, key }
}

#[test]
fn a_key_stays_alone_for_as_long_as_it_has_work() {
    let mut host = Host::new();
    assert_eq!(host.next(&[], false, 0), Next::Rest);
    assert_eq!(host.next(&keys([1]), false, 0), switch(1, 1));
    host.resident(1, 1, 0);
    assert_eq!(host.next(&keys([1]), true, 3_600), Next::Stay(1));
    assert_eq!(host.next(&[], true, 3_600), Next::Rest);
}

#[test]
fn a_key_that_another_waits_for_has_its_quantum_and_then_drains() {
    let mut host = Host::new();
    host.resident(1, 1, 0);
    assert_eq!(host.next(&keys([1, 2]), true, 8), Next::Stay(1));
    assert_eq!(host.next(&keys([1, 2]), true, 9), Next::WaitForIdle);
    assert_eq!(host.next(&keys([1, 2]), false, 9), switch(2, 2));
}

#[test]
fn while_a_caller_waits_for_another_key_a_turn_is_as_long_as_its_load_was() {
    let mut host = Host::new();
    host.resident(1, 1, 0);
    let calls = [Waits { client: 1, key: 1, sync: true }, Waits { client: 2, key: 2, sync: true }];
    assert_eq!(host.next_of(&calls, |_| 0, true, 0), Next::Stay(1));
    assert_eq!(host.next_of(&calls, |_| 0, true, 1), Next::WaitForIdle);
    let on_the_resident = [calls[0], Waits { sync: false, ..calls[1] }];
    assert_eq!(host.next_of(&on_the_resident, |_| 0, true, 1), Next::Stay(1), "its own callers are served");
}

#[test]
fn a_key_without_work_gives_way_at_once_but_never_over_running_requests() {
    let mut host = Host::new();
    host.resident(1, 1, 0);
    assert_eq!(host.next(&keys([2]), true, 1), Next::WaitForIdle);
    assert_eq!(host.next(&keys([2]), false, 1), switch(2, 2));
}

#[test]
fn the_quantum_does_not_run_while_the_model_loads() {
    let mut host = Host::new();
    host.estimates.loaded(&1, secs(1));
    host.rotation.claimed(1, &1, host.start);
    assert_eq!(host.next(&keys([1, 2]), true, 100), Next::Stay(1));
}

/// The turns of 1, 2 and 3 ended in this order, and 4 is first seen now. So the next turns come in the order 1, 2, 3, 4.
fn goes_round(of: impl Fn(Key) -> (Client, Key)) {
    let mut host = Host::new();
    host.next(&[of(1), of(2), of(3)], false, 0);
    for (key, second) in [(1, 0), (2, 1), (3, 2)] {
        let (client, key) = of(key);
        host.rotation.claimed(client, &key, host.start + secs(second));
    }
    host.rotation.leave(host.start + secs(3));
    let mut waiting = vec![of(4), of(3), of(2), of(1)];
    for expected in [1, 2, 3, 4] {
        let (client, key) = of(expected);
        assert_eq!(host.next(&waiting, false, 4), switch(client, key));
        waiting.retain(|waits| *waits != (client, key));
    }
}

#[test]
fn of_clients_that_have_had_the_same_the_one_served_longest_ago_is_next_and_newcomers_line_up() {
    goes_round(|key| (key, key));
}

#[test]
fn a_client_that_is_alone_goes_round_its_keys_in_the_same_way() {
    goes_round(|key| (7, key));
}

#[test]
fn the_client_that_has_had_least_is_next() {
    let mut host = Host::new();
    let had = |client: &Client| [0, 30, 10, 20][*client];
    assert_eq!(host.next_of(&waits(&keys([1, 2, 3])), had, false, 0), switch(2, 2));
}

#[test]
fn a_claim_that_brings_nothing_changes_no_turn() {
    let mut host = Host::new();
    host.resident(1, 1, 0);
    assert_eq!(host.next(&keys([1, 2]), false, 9), switch(2, 2));
    assert_eq!(host.next(&keys([1]), false, 9), Next::Stay(1));
}

#[test]
fn a_client_with_many_keys_has_one_turn_and_then_another_client_has() {
    let mut host = Host::new();
    let many: Vec<_> = (0..300).map(|key| (1, key)).collect();
    assert_eq!(host.next(&many, false, 0), switch(1, 0));
    host.rotation.claimed(1, &0, host.start);
    let with_another = [&many[1..], &[(2, 999)]].concat();
    let had = |client: &Client| if *client == 1 { 5 } else { 0 };
    assert_eq!(host.next_of(&waits(&with_another), had, false, 1), switch(2, 999));
    host.rotation.claimed(2, &999, host.start + secs(1));
    assert_eq!(host.next(&many[1..], false, 2), switch(1, 1), "its next key");
}

#[test]
fn a_turn_goes_on_without_a_load_while_the_next_client_only_wants_the_resident_key() {
    let mut host = Host::new();
    let waiting = waits(&[(1, 5), (2, 5), (3, 6)]);
    host.next_of(&waiting, |_| 0, false, 0);
    host.resident(1, 5, 1);
    let had = |client: &Client| [0, 9, 0, 5][*client];
    assert_eq!(host.next_of(&waiting, had, true, 10), Next::Stay(5), "client 2 is next");
    let had = |client: &Client| [0, 9, 6, 5][*client];
    assert_eq!(host.next_of(&waiting, had, false, 11), switch(3, 6));
}

#[test]
fn the_resident_key_is_the_last_that_a_client_gets_a_turn_for() {
    let mut host = Host::new();
    let waiting = [(1, 5), (2, 5), (2, 6)];
    host.next(&waiting, false, 0);
    host.resident(1, 5, 0);
    assert_eq!(host.next(&waiting, false, 9), switch(2, 6));
}

fn resident(client: Client, key: Key) -> Next<Client, Key> {
    Next::Resident { client, key }
}

#[test]
fn whoever_waits_for_another_resident_key_is_served_beside_what_runs() {
    let mut host = Host::new();
    host.resident(2, 2, 0);
    host.resident(1, 1, 1);
    host.resident = vec![1, 2];
    assert_eq!(host.next(&keys([1, 2]), true, 1), resident(2, 2));
    let had = |client: &Client| [0, 5, 9][*client];
    assert_eq!(host.next_of(&waits(&keys([1, 2])), had, true, 1), Next::Stay(1));
    host.rotation.claimed(2, &2, host.start + secs(1));
    assert_eq!(host.next(&keys([1, 2]), true, 1), resident(1, 1));
    assert_eq!(host.next(&keys([1]), true, 1), resident(1, 1), "the key that had the turn has no work");
}

#[test]
fn a_load_waits_for_the_quantum_since_the_last_load_whoever_had_the_turn_since() {
    let mut host = Host::new();
    host.resident(2, 2, 0);
    host.resident(1, 1, 1);
    host.resident = vec![1, 2];
    let waiting = keys([3, 1, 2]);
    host.next(&waiting, true, 1);
    for second in 2..10 {
        host.rotation.claimed(1, &1, host.start + secs(second));
        host.rotation.is_resident(host.start + secs(second));
        assert_eq!(host.next(&waiting, true, second), resident(2, 2), "client 3 is next, and waits");
        host.rotation.claimed(2, &2, host.start + secs(second));
        host.rotation.is_resident(host.start + secs(second));
    }
    assert_eq!(host.next(&waiting, true, 10), Next::WaitForIdle);
    assert_eq!(host.next(&waiting, false, 10), switch(3, 3));
    assert_eq!(host.next(&keys([3]), false, 2), switch(3, 3), "nothing that is resident has work");
}

#[test]
fn who_waits_is_asked_only_where_the_turn_may_end() {
    let mut host = Host::new();
    host.resident(1, 1, 0);
    let (rotation, estimates) = (&mut host.rotation, &host.estimates);
    let asked = std::cell::Cell::new(0);
    let mut next = |second| {
        let waiting = || {
            asked.set(asked.get() + 1);
            waits(&keys([1, 2]))
        };
        let gpu = Gpu { resident: &[], is_busy: true, estimates };
        rotation.next(true, waiting, |_| 0, gpu, host.start + secs(second))
    };
    assert_eq!(next(0), Next::Stay(1));
    assert_eq!(asked.get(), 0);
    assert_eq!(next(9), Next::WaitForIdle);
    assert_eq!(asked.get(), 1);
}

#[test]
fn the_bound_keeps_the_longest_wait_that_was_asked_for_wherever_the_shortest_turns_can() {
    for clients in 2..40 {
        let mut host = Host::new();
        let waiting: Vec<_> = (0..clients).map(|client| (client, client)).collect();
        host.rotation.line_up(&waits(&waiting), host.start);
        for key in 0..clients {
            host.estimates.loaded(&key, secs(8));
            host.estimates.ran(&key, secs(3), 3.0);
        }
        let others = 2.0 * (clients - 1) as f64;
        let with_no_quantum = secs(8 + 3).mul_f64(others) + secs(8 + 3 * 2);
        let bound = host.rotation.bound(others, &host.estimates);
        let can_be_kept = with_no_quantum <= host.rotation.max_wait();
        assert_eq!(
            bound <= host.rotation.max_wait() + Duration::from_micros(1),
            can_be_kept,
            "{clients}: {bound:?}"
        );
    }
}
