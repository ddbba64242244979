//! The world's Ollama: it loads models and runs the attempts that the decider begins.

use std::time::Duration;

use foreman_ollama::{Context, FailureKind, RunningModel};
use foreman_store::{Completion, LeaseNo};
use tokio::time::Instant;

use super::{Happening, InFlight, World};
use crate::runner::attempt::{Attempt, Finished};
use crate::runner::decider::{Event, Loading};
use crate::runner::fate::{Abort, Ending, Failed, Look, reason};
use crate::runner::job::Leave;
use crate::runner::signal::Signal;
use crate::scheduling::key::Key;

impl World {
    pub(super) fn begin(&mut self, attempt: &Attempt, loading: Loading) {
        let has_spell = self.spell.is_some() && attempt.spell.goes_on();
        let may = has_spell && self.holds_host && self.host_is_up && !self.is_stopping;
        assert!(may, "an attempt begins without the right to");
        let is_wanted_gone =
            self.decider.host.unloads.models(Instant::now()).any(|one| one == attempt.runner.model());
        let has_begun = attempt.leave == Leave::Begun && !self.unloads(attempt.runner.model());
        assert!(!is_wanted_gone || has_begun, "an attempt begins while its model is to be unloaded");
        let key = Key::clone(&attempt.runner);
        let is_on_gpu = !key.model().is_cloud();
        let load = match loading {
            Loading::NotNeeded => {
                assert!(!is_on_gpu || self.resident.contains(&key), "its model is not loaded");
                None
            }
            Loading::UnderWay => Some(self.loads.last().expect("a load is under way").0),
            Loading::New { unload } => {
                assert!(is_on_gpu, "what runs in the cloud needs no load");
                assert!(self.unload.is_none(), "a load beside an unload");
                assert!(self.on_gpu().all(|other| *other == key), "a load beside requests in flight");
                Some(self.load(Key::clone(&key), &unload))
            }
        };
        let job = self.job(attempt.lease.job_id);
        assert!(!self.jobs[job].given_out, "a job runs again after its caller has got a part of its answer");
        let (abort, spell) = (attempt.abort.clone(), attempt.spell.clone());
        let sends_ahead = load.is_none() && attempt.leave != Leave::Ask;
        let has_begun = attempt.leave == Leave::Begun;
        let one = InFlight { job, key, abort, spell, load, has_begun, sends_ahead, is_answered: false };
        let before = self.in_flight.insert(attempt.lease.no, one);
        assert!(before.is_none(), "a lease has two attempts");
        self.after(1, Happening::AttemptBegins(attempt.lease.no));
    }

    pub(super) fn load(&mut self, key: Key, unload: &[Key]) -> usize {
        self.number += 1;
        let number = self.number;
        let (long, fails) = self.script.loads[number % self.script.loads.len()];
        let fails = fails && !self.is_calm();
        self.resident.retain(|other| other.model() != key.model() && !unload.contains(other));
        let excess = (self.resident.len() + 1).saturating_sub(self.script.holds);
        self.resident.drain(..excess);
        self.loads.push((number, key));
        self.at(self.now() + long, Happening::LoadEnds { number, fails });
        number
    }

    pub(super) fn load_ends(&mut self, number: usize, fails: bool) {
        let Some(nth) = self.loads.iter().position(|load| load.0 == number) else { return };
        let (_, key) = self.loads.remove(nth);
        if fails {
            self.signal(Signal::LoadFailed { key });
        } else {
            self.resident.push(Key::clone(&key));
            let listed = self.resident.iter().map(listed).collect();
            let context = match key.context() {
                Context::Length(length) => length,
                Context::Automatic | Context::Any => 4_096,
            };
            self.signal(Signal::Loaded { key, took: Duration::from_secs(1), context: Some(context), listed });
        }
        let waiting: Vec<LeaseNo> =
            self.in_flight.iter().filter(|(_, one)| one.load == Some(number)).map(|(no, _)| *no).collect();
        for no in waiting {
            if fails {
                self.end(no, failed(FailureKind::MayPass, Look::NothingNew));
            } else if let Some(one) = self.in_flight.get_mut(&no) {
                one.load = None;
                if one.has_begun {
                    self.run_job(no);
                }
            }
        }
    }

    pub(super) fn run_job(&mut self, no: LeaseNo) {
        let long = self.jobs[self.in_flight[&no].job].plan.run;
        self.at(self.now() + long, Happening::AttemptEnds(no));
    }

    pub(super) fn attempt_ends(&mut self, no: LeaseNo) {
        let Some(one) = self.in_flight.get_mut(&no) else { return };
        let job = &mut self.jobs[one.job];
        if job.failures < job.plan.failures {
            job.failures += 1;
            let kind =
                if job.plan.host_is_to_blame { FailureKind::Unreachable } else { FailureKind::MayPass };
            self.end(no, failed(kind, Look::NothingNew));
        } else if one.is_answered {
            self.end(no, done());
        } else {
            one.is_answered = true;
            self.signal(Signal::Answered(no));
            // It waits for Postgres, or for the last bytes.
            self.after(self.number as u64 % 3, Happening::AttemptEnds(no));
        }
    }

    pub(super) fn end(&mut self, no: LeaseNo, ending: Ending) {
        let one = self.in_flight.remove(&no).expect("an attempt ends once");
        let job = &mut self.jobs[one.job];
        job.given_out = job.plan.speaks && (one.has_begun || one.sends_ahead) && one.load.is_none();
        let (ran, given_out) = (Some(Duration::from_millis(50)), job.given_out);
        self.tell(Event::Ended(no, Finished { ending, ran, given_out }));
    }

    /// Ends each attempt that the decider has stopped, or whose spell has ended.
    pub(super) fn abort_attempts(&mut self) {
        let why = |one: &InFlight| one.abort.borrow().or((!one.spell.goes_on()).then_some(Abort::Fenced));
        let aborted: Vec<_> = self.in_flight.iter().filter_map(|(no, one)| Some((*no, why(one)?))).collect();
        aborted.into_iter().for_each(|(no, abort)| self.end(no, Ending::Aborted(abort)));
    }

    pub(super) fn on_gpu(&self) -> impl Iterator<Item = &Key> {
        self.in_flight.values().map(|one| &one.key).filter(|key| !key.model().is_cloud())
    }
}

fn listed(key: &Key) -> RunningModel {
    let name = key.model().as_str();
    serde_json::from_value(serde_json::json!({"name": name, "digest": name})).expect("it has a name")
}

pub(super) fn failed(kind: FailureKind, look: Look) -> Ending {
    Ending::Failed(Failed { kind, look, reason: reason("x", "x") })
}

fn done() -> Ending {
    Ending::Done(Completion {
        completion: b"{}".to_vec(),
        content_type: "application/json".to_owned(),
        prompt_tokens: None,
        completion_tokens: None,
    })
}
