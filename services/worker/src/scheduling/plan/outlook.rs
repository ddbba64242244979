//! Tells people of the turns: who has the GPU and why, who comes next, and how its time was divided. Must never change
//! the plan.

use foreman_store::{ClientId, GpuPart, HostTurns, LoadedRunner, NextTurn, Why};
use tokio::time::Instant;

use super::Plan;
use crate::scheduling::division::Portion;
use crate::scheduling::key::Key;
use crate::scheduling::rotation::{By, Compared, Gpu, LaterTurn, Stays};

/// Tell of at most this many turns that come next. People look at the first few.
const MAX_NEXT: usize = 16;

/// Tell of the parts of at most this many clients, of those with the largest.
const MAX_PARTS: usize = 256;

impl Plan {
    /// What people are told of the turns. `held` are client and runner of each held job.
    pub(super) fn turns(&self, held: impl Iterator<Item = (ClientId, Key)>, now: Instant) -> HostTurns {
        let held: Vec<_> = held.collect();
        let turn = self.rotation.turn();
        let goes_on = self.goes_on(&held);
        let waiting = self.waiting(&held, goes_on);
        let gpu = Gpu { resident: &self.resident, is_busy: false, estimates: &self.estimates };
        let standing = |client: &ClientId| self.work.fairness.standing(*client);
        // As the decision does, which comes after the same line-up.
        let mut rotation = self.rotation.clone();
        rotation.line_up(&waiting, now);
        let why =
            if goes_on { why_now(rotation.stays(&waiting, standing, &gpu, now)) } else { Why::NoMoreJobs };
        let next = rotation.coming(&waiting, standing, &gpu, MAX_NEXT);
        let (gpu_seconds, parts) = self.parts();
        let loaded =
            |runner: &Key| LoadedRunner { runner: runner.as_str().to_owned(), context: self.context(runner) };
        HostTurns {
            client: self.rotation.client().copied(),
            context: turn.and_then(|runner| self.context(runner)),
            why,
            loaded: self.resident.iter().map(loaded).collect(),
            max_wait_ms: u64::try_from(self.rotation.max_wait().as_millis()).ok(),
            next: next.into_iter().map(|coming| self.next_turn(coming)).collect(),
            gpu_seconds,
            parts,
            ..HostTurns::default()
        }
    }

    fn next_turn(&self, LaterTurn { client, key, by }: LaterTurn<ClientId, Key>) -> NextTurn {
        let is_over_budget = |client| self.work.fairness.standing(client).is_over_budget;
        let differ = |other| is_over_budget(client) != is_over_budget(other);
        let why = match by {
            By::Alone => Why::OnlyClient,
            By::OwnRunners => Why::AfterOwn,
            By::Before(other, Compared::Standing) if differ(other) => Why::OthersOverBudget,
            By::Before(_, Compared::Standing) => Why::HadLess,
            By::Before(_, Compared::Turn) => Why::OthersHaveTurn,
            By::Before(_, Compared::Wait) => Why::WaitsLonger,
            By::Behind(other, Compared::Standing) if differ(other) => Why::OverBudget,
            By::Behind(_, Compared::Standing) => Why::OthersHadLess,
            By::Behind(_, Compared::Turn) => Why::HasTurn,
            By::Behind(_, Compared::Wait) => Why::OthersWaitLonger,
        };
        NextTurn { runner: key.as_str().to_owned(), context: self.context(&key), client, why }
    }

    /// What all clients together have got, and the largest parts of it.
    fn parts(&self) -> (f64, Vec<GpuPart>) {
        let portions = self.division.portions().into_iter();
        let part = |(client, Portion { due, got }): (&ClientId, _)| GpuPart { client: *client, due, got };
        let mut parts: Vec<GpuPart> = portions.map(part).collect();
        let size = |part: &GpuPart| part.due.max(part.got);
        parts.sort_by(|one, other| size(other).total_cmp(&size(one)).then(one.client.cmp(&other.client)));
        let all = parts.iter().map(|part| part.got).sum();
        parts.truncate(MAX_PARTS);
        (all, parts)
    }
}

fn why_now(stays: Option<Stays>) -> Why {
    match stays {
        Some(Stays::NobodyElseWaits) => Why::NobodyElseWaits,
        Some(Stays::WantedNext) => Why::WantedNext,
        Some(Stays::WithinQuantum) => Why::WithinQuantum,
        None => Why::QuantumIsOver,
    }
}

#[cfg(test)]
mod tests {
    use foreman_store::{ClientTerms, UserName};

    use super::*;
    use crate::scheduling::plan::Charge;
    use crate::scheduling::samples::{client, group, key, turns};

    /// A plan in which each of these clients waits for a model of its own.
    fn plan(clients: &[u128], now: Instant) -> Plan {
        let mut plan = Plan::new(&turns(), 2);
        let model = |number: u128| format!("m{number}:latest");
        plan.published(clients.iter().map(|number| key(&model(*number)).model().clone()).collect());
        plan.scanned(clients.iter().map(|number| group(&model(*number), *number, 1)).collect(), now);
        plan
    }

    fn told(plan: &Plan, now: Instant) -> Vec<(ClientId, Why)> {
        plan.turns(std::iter::empty(), now).next.into_iter().map(|next| (next.client, next.why)).collect()
    }

    #[test]
    fn each_place_in_the_line_has_the_reason_that_decides_it() {
        let now = Instant::now();
        assert_eq!(told(&plan(&[1], now), now), [(client(1), Why::OnlyClient)]);

        let mut plan = plan(&[1, 2, 3], now);
        let terms = |number| ClientTerms {
            client: client(number),
            weight: 1.0,
            max_running: None,
            is_over_budget: true,
        };
        plan.agreed(vec![terms(1)]);
        let charge = |number| Charge { client: client(number), user: UserName::default(), gpu_seconds: 0.0 };
        plan.ended(&charge(2), 5.0);
        let expected = [(3, Why::HadLess), (2, Why::OthersHadLess), (1, Why::OverBudget)];
        assert_eq!(told(&plan, now), expected.map(|(number, why)| (client(number), why)));
        let parts = plan.turns(std::iter::empty(), now).parts;
        assert!(parts.len() == 3 && parts[0].client == client(2), "{parts:?}");
    }
}
