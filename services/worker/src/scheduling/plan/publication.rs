//! What others are told of the plan, and what a plan takes over from the holder before it. Pure.

use std::time::Duration;

use foreman_store::{ClientId, HostPlan, MeasuredContext, MeasuredRunner};
use tokio::time::Instant;

use super::Plan;
use crate::scheduling::contexts::Lengths;
use crate::scheduling::estimates::Measured;
use crate::scheduling::key::{self, Key};

/// Publish the measures of at most this many runners: clients can make up load keys without end.
const MAX_PUBLISHED: usize = 256;

impl Plan {
    /// What others are told of the plan. `held` gives client and runner of each held job.
    pub(crate) fn publication(&self, held: impl Iterator<Item = (ClientId, Key)>, now: Instant) -> HostPlan {
        let runners = self.estimates.all().take(MAX_PUBLISHED);
        let contexts = self.work.contexts.all().take(MAX_PUBLISHED);
        let turn = self.rotation.turn();
        HostPlan {
            turn: turn.map(|runner| runner.as_str().to_owned()),
            loaded: self.resident.iter().map(|runner| runner.as_str().to_owned()).collect(),
            longest_wait_ms: u64::try_from(self.longest_wait().as_millis()).ok(),
            runners: runners.map(|(runner, measured)| published_runner(runner, measured)).collect(),
            contexts: contexts.map(|(base, lengths)| published_context(base, lengths)).collect(),
            turns: self.turns(held, now),
        }
    }

    /// Takes what the holder before this one has published.
    pub(crate) fn remember(&mut self, plan: &HostPlan) {
        for runner in &plan.runners {
            if let Some(key) = key::read(&runner.load_key) {
                self.estimates.remember(key, measured(runner));
            }
        }
        for MeasuredContext { load_key, automatic, longest } in &plan.contexts {
            if let Some(base) = key::read(load_key) {
                self.work.contexts.remember(base, Lengths { automatic: *automatic, longest: *longest });
            }
        }
        if let Some(turn) = plan.turn.as_deref().filter(|_| plan.turn_is_loaded()).and_then(key::read) {
            self.rotation.remember(turn);
        }
    }
}

pub(crate) fn measured(runner: &MeasuredRunner) -> Measured {
    let duration = |seconds| Duration::try_from_secs_f64(seconds).unwrap_or_default();
    Measured {
        load: duration(runner.load),
        longest_run: duration(runner.longest_run),
        usual_run: runner.usual_run,
        usual_gpu_seconds: runner.gpu_seconds,
    }
}

fn published_runner(runner: &Key, measured: &Measured) -> MeasuredRunner {
    MeasuredRunner {
        load_key: runner.as_str().to_owned(),
        load: measured.load.as_secs_f64(),
        longest_run: measured.longest_run.as_secs_f64(),
        usual_run: measured.usual_run,
        gpu_seconds: measured.usual_gpu_seconds,
    }
}

fn published_context(base: &Key, lengths: &Lengths) -> MeasuredContext {
    let Lengths { automatic, longest } = *lengths;
    MeasuredContext { load_key: base.as_str().to_owned(), automatic, longest }
}
