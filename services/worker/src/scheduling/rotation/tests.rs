//! The rules of the rotation, one by one. Where a test names no client, each key belongs to a client of its own. No client
//! has had anything, unless a test says so: so the client that was served longest ago comes next.

use super::*;

type Key = usize;
type Client = usize;
type User = &'static str;

/// What a client waits for, and whether callers wait.
#[derive(Debug, Clone, Copy)]
struct Waits {
    client: Client,
    key: Key,
    sync: bool,
    /// The user that alone waits for the key.
    user: Option<User>,
}

impl Waiting<Client, User, Key> for Vec<Waits> {
    fn clients(&self) -> impl Iterator<Item = Client> {
        self.iter().map(|waits| waits.client)
    }

    fn runners(&self) -> impl Iterator<Item = (Key, bool)> {
        self.iter().map(|waits| (waits.key, waits.sync))
    }

    fn runners_of(&self, client: Client) -> impl Iterator<Item = (Key, Option<User>)> {
        self.iter().filter(move |waits| waits.client == client).map(|waits| (waits.key, waits.user))
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
    rotation: Rotation<Client, User, Key>,
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
        self.rotation.claimed(client, || None, &key, now);
        self.rotation.loaded(now);
        self.rotation.is_resident(now);
        self.estimates.loaded(&key, secs(1));
    }
}

fn waits(waiting: &[(Client, Key)]) -> Vec<Waits> {
    waiting
        .iter()
        .map(|(client, key)| Waits { client: *client, key: *key, sync: false, user: None })
        .collect()
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
    let call = |number| Waits { client: number, key: number, sync: true, user: None };
    let calls = [call(1), call(2)];
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
    host.rotation.claimed(1, || None, &1, host.start);
    assert_eq!(host.next(&keys([1, 2]), true, 100), Next::Stay(1));
}

/// The turns of 1, 2 and 3 came in this order, and 4 is first seen now. So the next turns come in the order 1, 2, 3, 4, and 3
/// comes last while it has the turn.
fn goes_round(user: Option<User>, of: impl Fn(Key) -> (Client, Key)) {
    let waits = |number: Key| Waits { client: of(number).0, key: of(number).1, sync: false, user };
    for has_ended in [true, false] {
        let mut host = Host::new();
        host.next_of(&[1, 2, 3].map(waits), |_| 0, false, 0);
        for (number, second) in [(1, 0), (2, 1), (3, 2)] {
            let (client, key) = of(number);
            host.rotation.claimed(client, || user, &key, host.start + secs(second));
        }
        host.rotation.is_resident(host.start + secs(2));
        if has_ended {
            host.rotation.leave(host.start + secs(3));
        }
        let mut waiting = [4, 3, 2, 1].map(waits).to_vec();
        for expected in if has_ended { [1, 2, 3, 4] } else { [1, 2, 4, 3] } {
            let (client, key) = of(expected);
            let next = if has_ended || expected != 3 { switch(client, key) } else { Next::Stay(key) };
            assert_eq!(host.next_of(&waiting, |_| 0, false, 4), next);
            waiting.retain(|waits| waits.key != key);
        }
    }
}

#[test]
fn of_clients_that_have_had_the_same_the_one_served_longest_ago_is_next_and_newcomers_line_up() {
    goes_round(None, |key| (key, key));
}

#[test]
fn a_client_that_is_alone_goes_round_its_keys_in_the_same_way() {
    goes_round(None, |key| (7, key));
    goes_round(Some("ada"), |key| (7, key));
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
    host.rotation.claimed(1, || None, &0, host.start);
    let with_another = [&many[1..], &[(2, 999)]].concat();
    let had = |client: &Client| if *client == 1 { 5 } else { 0 };
    assert_eq!(host.next_of(&waits(&with_another), had, false, 1), switch(2, 999));
    host.rotation.claimed(2, || None, &999, host.start + secs(1));
    assert_eq!(host.next(&many[1..], false, 2), switch(1, 1), "its next key");
}

#[test]
fn a_user_with_many_keys_has_one_turn_and_then_other_users_of_its_client_have() {
    let mut host = Host::new();
    let mut waiting: Vec<_> = (0..300).map(|key| (1, key)).collect();
    host.next(&waiting, false, 0);
    waiting.extend([(1, 998), (1, 999)]);
    host.next(&waiting, false, 1);
    let waiting: Vec<Waits> = waits(&waiting)
        .into_iter()
        .map(|waits| Waits {
            user: (waits.key < 998).then_some("ada").or((waits.key == 998).then_some("bob")),
            ..waits
        })
        .collect();
    let mut turns = Vec::new();
    for second in 2..7 {
        let gpu = Gpu { resident: &[], is_busy: false, estimates: &host.estimates };
        let told = host.rotation.coming(&waiting, |_| 0, &gpu, 5);
        let Next::Switch { key, .. } = host.next_of(&waiting, |_| 0, false, second) else {
            panic!("nothing is loaded")
        };
        assert_eq!(told[0].key, key);
        let user = waiting.iter().find(|waits| waits.key == key).and_then(|waits| waits.user);
        host.rotation.claimed(1, || user, &key, host.start + secs(second));
        host.rotation.leave(host.start + secs(second));
        turns.push((key, told.iter().map(|turn| turn.key).collect::<Vec<_>>()));
    }
    // Those of bob, and of several users, wait for one turn of ada's, whatever she adds.
    let expected: Vec<Key> = vec![0, 998, 999, 1, 998];
    assert_eq!(turns.iter().map(|(key, _)| *key).collect::<Vec<_>>(), expected);
    assert_eq!(turns[0].1, [0, 998, 999, 1, 2], "and that is told before");
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
    host.rotation.claimed(2, || None, &2, host.start + secs(1));
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
        host.rotation.claimed(1, || None, &1, host.start + secs(second));
        host.rotation.is_resident(host.start + secs(second));
        assert_eq!(host.next(&waiting, true, second), resident(2, 2), "client 3 is next, and waits");
        host.rotation.claimed(2, || None, &2, host.start + secs(second));
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
