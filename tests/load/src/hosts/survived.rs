//! Two hosts, of which one is killed in the middle of a backlog: its worker with SIGKILL, and its Ollama at the same moment.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use chrono::{DateTime, Utc};
use foreman_tests::Signal;

use super::house::{House, Run, runs};
use crate::mixed::{Planned, ended_after, request_in};

/// The one that is killed, of the two.
const KILLED: usize = 0;
const OTHER: usize = 1;

/// The bodies of the jobs that the killed host held.
const HELD: &str = "SELECT j.body FROM job_done d JOIN job j ON j.id = d.job_id WHERE d.rescues > 0";

/// When the first of them was queued again.
const BACK: &str = "
    SELECT min(event.at) FROM (
        SELECT job_id, seq, state, at FROM job_event UNION ALL SELECT job_id, seq, state, at FROM outbox
    ) AS event JOIN job_done d USING (job_id)
    WHERE d.rescues > 0 AND event.state = 'queued' AND event.seq > 1";

/// What became of the backlog.
#[derive(Debug, Clone, Copy)]
pub(super) struct Survived {
    pub(super) makespan: Duration,
    /// Until the kill, and then all runs that were left, one after the other without a load.
    pub(super) least: Duration,
    /// How many jobs the killed host held.
    pub(super) held: usize,
    /// How many jobs the killed host had begun that the other ran again.
    pub(super) ran_twice: usize,
    /// From the kill until the first of the held jobs that had begun was queued again.
    pub(super) back_after: Duration,
    /// From the kill until the other host ran the first of the held jobs.
    pub(super) resumed_after: Duration,
}

impl Survived {
    /// Kills a host when both have done a tenth of the work, and waits for the end of all jobs.
    pub(super) async fn a_kill(mut house: House, workload: &[Planned]) -> anyhow::Result<Self> {
        let (began, tenth) = (Instant::now(), u64::try_from(workload.len() / 10)?);
        house.submit(workload, began).await?;
        house.sims[OTHER].until(|log| log.completed >= tenth).await;
        house.sims[KILLED].until(|log| log.completed >= tenth && log.running() > 0).await;
        let (killed_at, by_the_clock) = (Instant::now(), Utc::now());
        house.workers[KILLED].process.signal(Signal::SIGKILL);
        house.sims[KILLED].go_away().await;
        house.all_are_done().await;
        house.db.every_job_has_one_room().await;

        let runs = runs(&house.sims, began);
        let ran_twice = ran_twice(&runs, workload.len(), killed_at)?;
        let held: Vec<String> = house.db.values(HELD).await;
        let held: BTreeSet<usize> =
            held.iter().filter_map(|body| Some(request_in(body.as_bytes())?.1)).collect();
        let elsewhere = held.iter().flat_map(|number| &runs[number]).filter(|run| run.host == OTHER);
        let resumed_at = elsewhere.map(|run| run.began).min().context("the killed host held no job")?;
        let back_at: Option<DateTime<Utc>> = house.db.value(BACK).await;
        let back_at = back_at.context("no job was queued again")?;
        let was_left = |run: &Run| run.done.is_some_and(|done| done > killed_at);
        let left = runs.iter().filter(|(_, runs)| runs.iter().any(was_left));
        let left: u64 = left.map(|(number, _)| workload[*number].run).sum();
        Ok(Self {
            makespan: ended_after(&house.sims, began),
            least: killed_at - began + Duration::from_millis(left),
            held: held.len(),
            ran_twice,
            back_after: (back_at - by_the_clock).to_std().context("queued again before the kill")?,
            resumed_after: resumed_at.saturating_duration_since(killed_at),
        })
    }
}

/// How many jobs have run twice. It is an error if one has not run to its end, or has run twice while both hosts lived.
fn ran_twice(runs: &BTreeMap<usize, Vec<Run>>, jobs: usize, killed_at: Instant) -> anyhow::Result<usize> {
    let mut ran_twice = 0;
    for number in 0..jobs {
        let runs = runs.get(&number).with_context(|| format!("job {number} has not run"))?;
        ensure!(runs.iter().any(|run| run.done.is_some()), "job {number} has run as {runs:?}");
        match runs[..] {
            [_] => {}
            [first, second] if first.host == KILLED && second.host == OTHER && second.began > killed_at => {
                ran_twice += 1;
            }
            _ => bail!("job {number} has run as {runs:?}, and the kill was at {killed_at:?}"),
        }
    }
    Ok(ran_twice)
}
