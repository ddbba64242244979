//! The other hosts, and which work this host should leave to them. Pure.
//!
//! Two hosts that load the same model for a few jobs waste a load, and so do two hosts that take turns with all models
//! instead of sharing them out. So a load key has a home, the host that came to load it last, and these rules hold:
//!
//! - A host chooses first among what it has loaded and the keys that have their home here or nowhere.
//! - A host that has nothing of that takes keys of other homes that are loaded nowhere: somebody must load them anyway.
//! - A host that has nothing of that either helps with a key that another host has loaded, if the jobs that wait there take
//!   longer than the load here.
//! - Before each load a host says so in Postgres. It says nothing, and does not load, if another host has said so since it
//!   looked. So of two idle hosts one comes.
//!
//! A home ends where its host is away, is drained, lacks the model, or has not come to load the key for some minutes.
//! While there is no other host, none of this costs anything.

use std::collections::{BTreeSet, HashMap, HashSet};

use foreman_ollama::ModelName;

use super::contexts;
use super::estimates::{Estimates, Measured};
use super::key::Key;

/// At most so many jobs are counted to find out whether helping is worth a load.
const MAX_COUNTED: u32 = 20_000;

#[derive(Debug, Clone, Default)]
pub(crate) struct Neighbours {
    hosts: Vec<Neighbour>,
    /// By load key without its context.
    intents: HashMap<Key, Intent>,
    /// Without its context: what this host may load, because Postgres has its word.
    granted: Option<Key>,
    /// Without their contexts: what this host may not load until it has looked again.
    refused: HashSet<Key>,
}

/// Another host that takes jobs.
#[derive(Debug, Clone, Default)]
pub(crate) struct Neighbour {
    pub(crate) id: String,
    pub(crate) slots: u32,
    pub(crate) models: BTreeSet<ModelName>,
    /// The runners that it has loaded, or loads.
    pub(crate) loaded: Vec<Key>,
    /// What it has measured, by runner.
    pub(crate) measured: Vec<(Key, Measured)>,
}

/// Which host has said last that it loads a key.
#[derive(Debug, Clone)]
pub(crate) struct Intent {
    pub(crate) host: String,
    pub(crate) number: i64,
    /// Whether its load may just be under way.
    pub(crate) is_new: bool,
}

/// What a host says before a load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Word {
    /// Without its context.
    pub(crate) base: Key,
    /// The number of the last intent that this host has seen; 0 for none.
    pub(crate) seen: i64,
    /// The load keys that its jobs have.
    pub(crate) load_keys: Vec<Key>,
    /// It says nothing if fewer jobs wait.
    pub(crate) at_least: u32,
}

/// What a host chooses among first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Own,
    Away,
    Help,
}

/// Where a key is, as this host sees it.
enum Home<'a> {
    /// It has its home here, or nowhere.
    Free,
    /// It has its home at another host, which has not loaded it now.
    Away,
    /// These hosts have it loaded, or load it.
    Kept(Vec<&'a Neighbour>),
}

impl Neighbours {
    /// Takes what a look has found.
    pub(crate) fn looked(&mut self, hosts: Vec<Neighbour>, intents: HashMap<Key, Intent>) {
        let before = std::mem::replace(&mut self.intents, intents);
        // The look may be older than the last word of this host.
        for (base, intent) in &mut self.intents {
            if let Some(known) = before.get(base).filter(|known| known.number > intent.number) {
                *intent = known.clone();
            }
        }
        self.hosts = hosts;
        self.refused.clear();
    }

    /// Whether there is any other host that takes jobs.
    pub(crate) fn are_there(&self) -> bool {
        !self.hosts.is_empty()
    }

    /// Of all runners that jobs wait for, those that this host does not leave to others. `here` are the runners that have
    /// the turn or are loaded here, and `goes_on` tells whether the one that has the turn has work.
    pub(crate) fn keep<'a>(
        &self,
        waiting: impl Iterator<Item = &'a Key>,
        here: impl Iterator<Item = &'a Key>,
        goes_on: bool,
        estimates: &Estimates<Key>,
    ) -> HashSet<Key> {
        let here: HashSet<Key> = here.map(contexts::base).collect();
        let waiting: HashSet<&Key> = waiting.collect();
        let rank = |runner: &Key| self.rank(runner, &here, &estimates.measured(runner));
        let ranks: Vec<_> = waiting.into_iter().filter_map(|runner| Some((runner, rank(runner)?))).collect();
        let best = if goes_on { Some(Rank::Own) } else { ranks.iter().map(|(_, rank)| *rank).min() };
        ranks
            .into_iter()
            .filter(|(_, rank)| Some(*rank) == best)
            .map(|(runner, _)| Key::clone(runner))
            .collect()
    }

    /// How near a runner is to this host. `None` if this host leaves it to others.
    fn rank(&self, runner: &Key, here: &HashSet<Key>, own: &Measured) -> Option<Rank> {
        let base = contexts::base(runner);
        if here.contains(&base) {
            return Some(Rank::Own);
        }
        if self.refused.contains(&base) {
            return None;
        }
        match self.home(&base) {
            Home::Free => Some(Rank::Own),
            Home::Away => Some(Rank::Away),
            Home::Kept(by) => worth_a_load(&by, runner, &base, own).map(|_jobs| Rank::Help),
        }
    }

    /// What this host must say before it loads this runner. `None` if it may load it now.
    /// `load_keys` are those that wait for its model, context aside.
    pub(crate) fn word<'a>(
        &self,
        runner: &Key,
        mut here: impl Iterator<Item = &'a Key>,
        own: &Measured,
        load_keys: impl Iterator<Item = &'a Key>,
    ) -> Option<Word> {
        let base = contexts::base(runner);
        let is_ours = self.granted.as_ref() == Some(&base) || here.any(|here| contexts::base(here) == base);
        if is_ours || !self.are_there() {
            return None;
        }
        let at_least = match self.home(&base) {
            Home::Free | Home::Away => 0,
            // Nobody chooses a runner that is not worth a load.
            Home::Kept(by) => worth_a_load(&by, runner, &base, own).unwrap_or(MAX_COUNTED),
        };
        let seen = self.intents.get(&base).map_or(0, |intent| intent.number);
        Some(Word { base, seen, load_keys: load_keys.cloned().collect(), at_least })
    }

    /// Postgres has this host's word, under this number, or has refused it.
    pub(crate) fn answered(&mut self, word: Word, host: &str, number: Option<i64>) {
        let Some(number) = number else {
            self.refused.insert(word.base);
            return;
        };
        let intent = Intent { host: host.to_owned(), number, is_new: true };
        self.intents.insert(Key::clone(&word.base), intent);
        self.granted = Some(word.base);
    }

    /// A claim for this runner was answered. For its next load this host must say so again, also where the claim brought
    /// nothing: by then the model may have its home at another host.
    pub(crate) fn claimed(&mut self, runner: &Key) {
        let base = contexts::base(runner);
        self.granted.take_if(|granted| *granted == base);
    }

    fn home(&self, base: &Key) -> Home<'_> {
        let intent = self.intents.get(base);
        let has_it = |host: &&Neighbour| host.models.contains(base.model());
        let is_home = |host: &Neighbour| intent.is_some_and(|intent| intent.host == host.id);
        let is_new = intent.is_some_and(|intent| intent.is_new);
        let keeps = |host: &&Neighbour| {
            host.loaded.iter().any(|runner| contexts::base(runner) == *base) || (is_new && is_home(host))
        };
        let kept: Vec<_> = self.hosts.iter().filter(has_it).filter(keeps).collect();
        if !kept.is_empty() {
            Home::Kept(kept)
        } else if self.hosts.iter().filter(has_it).any(is_home) {
            Home::Away
        } else {
            Home::Free
        }
    }
}

/// How many jobs must wait for this runner, so that the hosts that keep it need longer for them than the load here takes, and a
/// run here takes longer than theirs. So a slow host helps only where its job ends before they would come to it. `None`
/// while the runs or the load have not been measured.
fn worth_a_load(kept_by: &[&Neighbour], runner: &Key, base: &Key, own: &Measured) -> Option<u32> {
    let measured = kept_by.iter().flat_map(|host| &host.measured);
    let theirs: Vec<&Measured> =
        measured.filter(|(key, _)| key == runner || contexts::base(key) == *base).map(|(_, it)| it).collect();
    let their_load = theirs.iter().map(|it| it.load).max().unwrap_or_default();
    let load = if own.load.is_zero() { their_load } else { own.load };
    let run = theirs.iter().filter_map(|it| it.usual_run).max_by(f64::total_cmp).or(own.usual_run)?;
    let slots: u32 = kept_by.iter().map(|host| host.slots.max(1)).sum();
    let lost_here = load.as_secs_f64() + own.usual_run.map_or(0.0, |own_run| (own_run - run).max(0.0));
    let jobs = lost_here * f64::from(slots) / run.max(f64::MIN_POSITIVE);
    (!load.is_zero()).then(|| (jobs.min(f64::from(MAX_COUNTED)) as u32).saturating_add(1).min(MAX_COUNTED))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::scheduling::samples::key;

    #[test]
    fn a_slow_host_helps_only_where_its_runs_are_worth_the_time_too() {
        let runner = key("a:latest");
        let measured = |run: Option<f64>| Measured {
            load: Duration::from_secs(10),
            usual_run: run,
            ..Measured::default()
        };
        let fast = Neighbour {
            id: "fast".to_owned(),
            slots: 1,
            models: [runner.model().clone()].into(),
            loaded: vec![Key::clone(&runner)],
            measured: vec![(Key::clone(&runner), measured(Some(1.0)))],
        };
        let jobs = |run| worth_a_load(&[&fast], &runner, &runner, &measured(run));
        assert_eq!([None, Some(0.5), Some(1.0), Some(60.0)].map(jobs), [11, 11, 11, 70].map(Some));
    }
}
