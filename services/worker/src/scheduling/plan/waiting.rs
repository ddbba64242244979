//! Who waits for which runner of this host's GPU. It points into the backlog, so that a decision looks at the clients and at
//! the load keys, and not at each pair of them. Pure.

use std::collections::BTreeMap;

use foreman_store::{ClientId, UserName};

use super::work::Work;
use crate::scheduling::contexts;
use crate::scheduling::estimates::Estimates;
use crate::scheduling::key::Key;
use crate::scheduling::neighbours::Neighbours;
use crate::scheduling::rotation::Waiting;
use crate::scheduling::shares::Had;

pub(super) struct WaitingForGpu<'a> {
    work: &'a Work,
    /// By load key that somebody waits for, even if that client may have no other job run now.
    served: BTreeMap<&'a Key, Served<'a>>,
    /// Client and runner of each held job.
    held: &'a [(ClientId, Key)],
}

/// How a load key is served.
struct Served<'a> {
    /// The load key without its context.
    base: &'a Key,
    runner: Key,
    /// Whether a client waits for it that may have another job run.
    is_wanted: bool,
    /// Whether callers of such clients wait for it.
    sync: bool,
}

impl<'a> WaitingForGpu<'a> {
    /// What waits, as far as this host does not leave it to its neighbours. `here` are the runners that have the turn or
    /// are loaded: jobs that they serve wait for them, and others for what would be loaded. `goes_on` tells whether the
    /// runner that has the turn has work.
    pub(super) fn new(
        work: &'a Work,
        held: &'a [(ClientId, Key)],
        here: &[Key],
        goes_on: bool,
        neighbours: &Neighbours,
        estimates: &Estimates<Key>,
    ) -> Self {
        let mut served: BTreeMap<&Key, Served<'_>> = BTreeMap::new();
        let here_of: Vec<_> = here.iter().map(|runner| (contexts::base(runner), runner)).collect();
        for base in work.backlog.models() {
            if base.model().is_cloud() || !work.presence.has(base.model()) {
                continue;
            }
            let asked = work.backlog.keys(base).map(|key| key.context());
            let need = work.contexts.longest_need(base, asked);
            for key in work.backlog.keys(base) {
                let serves = |(its, runner): &&(Key, &Key)| its == base && work.serves(base, runner, key);
                let runner = here_of.iter().find(serves).map_or_else(
                    || contexts::with(base, work.contexts.runner_for(base, key.context(), need)),
                    |(_, runner)| Key::clone(runner),
                );
                let mut waiting = work.who_waits(base, key).peekable();
                let is_wanted = waiting.peek().is_some();
                let sync = work.backlog.has_sync(base, key) && waiting.any(|(_, queue)| queue.has_sync(key));
                served.insert(key, Served { base, runner, is_wanted, sync });
            }
        }
        if neighbours.are_there() {
            let runners = served.values().filter(|served| served.is_wanted).map(|served| &served.runner);
            let kept = neighbours.keep(runners, here.iter(), goes_on, estimates);
            served.retain(|_, served| !served.is_wanted || kept.contains(&served.runner));
        }
        Self { work, served, held }
    }

    /// The clients whose ready jobs this host serves, each with the least that a user of such a job has had.
    pub(super) fn least(&self) -> Vec<(ClientId, Had)> {
        let backlog = &self.work.backlog;
        let least = |client| backlog.least(client, |key| self.served.contains_key(key));
        backlog.clients().filter_map(|client| Some((client, least(client)?))).collect()
    }
}

impl Waiting<ClientId, UserName, Key> for WaitingForGpu<'_> {
    fn clients(&self) -> impl Iterator<Item = ClientId> {
        let backlog = &self.work.backlog;
        let waits = |client: &ClientId| {
            let mut keys = backlog.queues(*client).flat_map(|(_, queue)| queue.keys());
            self.work.fairness.may_run_more(*client) && keys.any(|key| self.served.contains_key(key))
        };
        backlog.clients().filter(waits).chain(self.held.iter().map(|(client, _)| *client))
    }

    fn runners(&self) -> impl Iterator<Item = (Key, bool)> {
        let wanted = self.served.values().filter(|served| served.is_wanted);
        let ready = wanted.map(|served| (Key::clone(&served.runner), served.sync));
        ready.chain(self.held.iter().map(|(_, runner)| (Key::clone(runner), false)))
    }

    fn runners_of(&self, client: ClientId) -> impl Iterator<Item = (Key, Option<UserName>)> {
        let may_run_more = self.work.fairness.may_run_more(client);
        let queues = self.work.backlog.queues(client).filter(move |_| may_run_more);
        let keys = queues.flat_map(|(_, queue)| queue.keys().map(move |key| (key, queue)));
        let ready = keys.filter_map(|(key, queue)| {
            Some((Key::clone(&self.served.get(key)?.runner), queue.only_user(key).cloned()))
        });
        let held = self.held.iter().filter(move |(of, _)| *of == client);
        ready.chain(held.map(|(_, runner)| (Key::clone(runner), None)))
    }

    fn clients_of(&self, runner: &Key) -> impl Iterator<Item = ClientId> {
        let keys = self.served.iter().filter(move |(_, served)| served.runner == *runner);
        let ready = keys.flat_map(|(key, served)| self.work.who_waits(served.base, key));
        let held = self.held.iter().filter(move |(_, its)| its == runner).map(|(client, _)| *client);
        ready.map(|(client, _)| client).chain(held)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use foreman_store::ClientTerms;
    use tokio::time::Instant;

    use super::*;
    use crate::scheduling::backlog::Group;
    use crate::scheduling::plan::Plan;
    use crate::scheduling::samples::{client, group, key, turns};

    #[test]
    fn clients_and_runners_tell_the_same_of_each_other_and_only_of_what_can_run_here() {
        let mut plan = Plan::new(&turns(), 2);
        plan.published(
            ["a:latest", "b:latest", "far:120b-cloud"].map(|name| key(name).model().clone()).into(),
        );
        let at_its_ceiling =
            ClientTerms { client: client(3), weight: 1.0, max_running: Some(0), is_over_budget: false };
        plan.agreed(vec![at_its_ceiling]);
        let calls = |text, number| Group { sync: true, ..group(text, number, 1) };
        let groups = vec![
            group("a:latest num_ctx=any", 1, 1),
            calls("a:latest num_ctx=512", 2),
            group("b:latest", 2, 1),
            calls("b:latest", 3),
            group("far:120b-cloud", 1, 1),
            group("absent:latest", 1, 1),
        ];
        plan.scanned(groups, Instant::now());
        let held = [(client(4), key("b:latest"))];
        let waiting = plan.waiting(&held, false);

        let (any, fitted, b) = (key("a:latest"), key("a:latest num_ctx=512"), key("b:latest"));
        let expected = [(1, &any), (2, &fitted), (2, &b), (4, &b)];
        let expected = BTreeSet::from(expected.map(|(number, runner)| (client(number), Key::clone(runner))));
        let of = |one: ClientId| waiting.runners_of(one).map(move |(runner, _)| (one, runner));
        assert_eq!(waiting.clients().flat_map(of).collect::<BTreeSet<_>>(), expected);
        let of = |(runner, _): (Key, bool)| {
            let clients: Vec<_> = waiting.clients_of(&runner).collect();
            clients.into_iter().map(move |one| (one, Key::clone(&runner)))
        };
        assert_eq!(waiting.runners().flat_map(of).collect::<BTreeSet<_>>(), expected);
        let sync = waiting.runners().filter(|(_, sync)| *sync).map(|(runner, _)| runner);
        assert_eq!(sync.collect::<Vec<_>>(), [fitted], "a client at its ceiling does not hurry anybody");
    }
}
