//! What a second host gains: two Ollamas with a worker each behind one queue, beside one of them alone, and beside the same
//! requests sent to the two Ollamas in turn, as a balancer does. And what happens when one of the two is killed.
//!
//! Everything is counted from what the Ollamas have seen. A job that is lost, or that has run twice while both hosts
//! lived, is an error and no figure.

mod house;
mod survived;

use std::fmt::Write as _;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use foreman_tests::Cluster;
use rand::RngExt as _;

use crate::Scale;
use crate::measure::median;
use crate::mixed::{CLIENTS, Planned, between_arrivals, ollama, seeded, send_straight};
use crate::programs::Programs;
use house::{House, Seen, each_ran_once};
use survived::Survived;

/// A twenty-fifth of real loads, which take 5 to 20 s. Hosts look at each other once a second, however short the times are,
/// so with a hundredth those looks would count for much more than they do.
const LOADS: [u64; 4] = [200, 400, 600, 800];
/// A twenty-fifth of real runs, which take 0.2 to 5 s.
const RUNS: RangeInclusive<u64> = 8..=200;
/// How many seconds a run takes on average.
const USUAL_RUN: f64 = 0.104;
/// Between two jobs of the Poisson stream, on average. It has nine tenths of what two hosts could run without loads.
const BETWEEN_JOBS: f64 = USUAL_RUN / 2.0 / 0.9;

/// The model of the backlogs of one model.
const ONE_MODEL: usize = 2;
/// Together they take about half as long as a load of that model.
const FEW: usize = 3;

/// The makespan of two hosts as a part of that of one host.
const AIM: f64 = 0.6;

/// The backlog of two hosts of which one is killed is so many times as long: the lease of the killed host must end in it.
const LONGER: usize = 3;

pub(crate) struct Hosts<'a> {
    cluster: &'a Cluster,
    jobs: usize,
    lease_ttl: &'static str,
}

impl<'a> Hosts<'a> {
    pub(crate) fn new(cluster: &'a Cluster, scale: &Scale) -> Self {
        Self { cluster, jobs: scale.hosts, lease_ttl: scale.lease_ttl }
    }

    pub(crate) async fn measure(&self, contenders: &[Programs], repeats: u8) -> anyhow::Result<String> {
        let tables = [
            self.affinity(contenders, repeats).await.context("four models")?,
            self.spill_over(contenders, repeats).await.context("one model")?,
            self.survival(contenders, repeats).await.context("one host is killed")?,
        ];
        Ok(tables.concat())
    }

    /// Work of four models.
    async fn affinity(&self, contenders: &[Programs], repeats: u8) -> anyhow::Result<String> {
        let mut table = String::from(
            "\n| four models | | loads | models loaded on both hosts | makespan | of one host | of in turn |\n\
             |---|---|---:|---:|---:|---:|---:|\n",
        );
        for (name, workload) in [("all at once", backlog(self.jobs)), ("Poisson", poisson(self.jobs))] {
            let (mut in_turn, mut ours) = (Vec::new(), vec![[Vec::new(), Vec::new()]; contenders.len()]);
            for _ in 0..repeats {
                in_turn.push(in_turn_at_two(&workload).await.context("straight")?);
                for (programs, seen) in contenders.iter().zip(&mut ours) {
                    for (hosts, seen) in [1, 2].into_iter().zip(seen) {
                        let mut house = House::start(self, programs, hosts).await?;
                        let ran = house.run(&workload).await;
                        seen.push(ran.with_context(|| format!("{programs}, {hosts} hosts"))?);
                    }
                }
            }
            let mut line = |whose: &str, seen: &[Seen], one: &[Seen]| {
                writeln!(
                    table,
                    "| {name} | {whose} | {} | {} | {} | {} | {} |",
                    middle(seen, |seen| seen.loads),
                    middle(seen, |seen| seen.on_both),
                    seconds(middle(seen, |seen| seen.makespan)),
                    ratio(&makespans(seen), &makespans(one)),
                    ratio(&makespans(seen), &makespans(&in_turn)),
                )
            };
            for (programs, [one, two]) in contenders.iter().zip(&ours) {
                line("straight at two, in turn", &in_turn, one)?;
                line(&format!("{programs}, one host"), one, one)?;
                line(&format!("{programs}, two hosts"), two, one)?;
            }
        }
        writeln!(
            table,
            "\nAims: 4 loads where all jobs come at once, and {AIM} of the makespan of one host."
        )?;
        Ok(table)
    }

    /// Work of one model that one host has loaded: first a few jobs, then many.
    async fn spill_over(&self, contenders: &[Programs], repeats: u8) -> anyhow::Result<String> {
        let mut table = String::from(
            "\n| one model, loaded | jobs | loads | jobs at the second host | makespan | of one host |\n\
             |---|---:|---:|---:|---:|---:|\n",
        );
        let of_one_model = |jobs: usize| -> Vec<Planned> {
            backlog(jobs).into_iter().map(|job| Planned { model: ONE_MODEL, ..job }).collect()
        };
        for programs in contenders {
            let mut seen: [[Vec<Seen>; 2]; 2] = Default::default();
            for _ in 0..repeats {
                for hosts in [1, 2] {
                    let mut house = House::start(self, programs, hosts).await?;
                    // This loads the model, and tells how long loads and runs take.
                    house.run(&of_one_model(1)).await?;
                    for (jobs, seen) in [FEW, self.jobs].into_iter().zip(&mut seen) {
                        let ran = house.run(&of_one_model(jobs)).await;
                        seen[hosts - 1].push(ran.with_context(|| format!("{programs}, {jobs} jobs"))?);
                    }
                }
            }
            for (jobs, [one, two]) in [FEW, self.jobs].into_iter().zip(&seen) {
                for (whose, seen) in [("one host", one), ("two hosts", two)] {
                    writeln!(
                        table,
                        "| {programs}, {whose} | {jobs} | {} | {} | {} | {} |",
                        middle(seen, |seen| seen.loads),
                        middle(seen, |seen| seen.at_second),
                        seconds(middle(seen, |seen| seen.makespan)),
                        ratio(&makespans(seen), &makespans(one)),
                    )?;
                }
            }
        }
        Ok(table)
    }

    /// Two hosts, one of which is killed in the middle of a backlog of four models.
    async fn survival(&self, contenders: &[Programs], repeats: u8) -> anyhow::Result<String> {
        let mut table = String::from(
            "\n| one of two hosts is killed | lease | jobs | held by it, of which ran twice | the first of them back in the queue | running elsewhere | makespan | of the least |\n\
             |---|---:|---:|---:|---:|---:|---:|---:|\n",
        );
        let workload = backlog(self.jobs * LONGER);
        for programs in contenders {
            let mut turns = Vec::new();
            for _ in 0..repeats {
                let house = House::start(self, programs, 2).await?;
                let survived = Survived::a_kill(house, &workload).await;
                turns.push(survived.with_context(|| programs.to_string())?);
            }
            let of = |time: fn(&Survived) -> Duration| turns.iter().map(time).collect::<Vec<_>>();
            writeln!(
                table,
                "| {programs} | {} | {} | {}, {} | {} | {} | {} | {} |",
                self.lease_ttl,
                workload.len(),
                middle(&turns, |seen| seen.held),
                middle(&turns, |seen| seen.ran_twice),
                seconds(middle(&turns, |seen| seen.back_after)),
                seconds(middle(&turns, |seen| seen.resumed_after)),
                seconds(middle(&turns, |seen| seen.makespan)),
                ratio(&of(|seen| seen.makespan), &of(|seen| seen.least)),
            )?;
        }
        Ok(table)
    }
}

/// Jobs of clients and models at random, all at once.
fn backlog(jobs: usize) -> Vec<Planned> {
    drawn(jobs, 0.0)
}

fn poisson(jobs: usize) -> Vec<Planned> {
    drawn(jobs, BETWEEN_JOBS)
}

fn drawn(jobs: usize, between: f64) -> Vec<Planned> {
    let (mut random, mut at) = (seeded(), Duration::ZERO);
    let drawn = (0..jobs).map(|_| {
        at += between_arrivals(&mut random, between);
        Planned {
            at,
            client: random.random_range(0..CLIENTS),
            model: random.random_range(0..LOADS.len()),
            context: None,
            run: random.random_range(RUNS),
        }
    });
    drawn.collect()
}

async fn in_turn_at_two(workload: &[Planned]) -> anyhow::Result<Seen> {
    let sims = [ollama(1, &LOADS).await?, ollama(1, &LOADS).await?];
    let began = Instant::now();
    send_straight(&sims, workload, began).await?;
    each_ran_once(&sims, began, workload.len())?;
    Ok(Seen::of(&sims, began))
}

fn middle<S, T: PartialOrd + Copy + Default>(seen: &[S], figure: impl Fn(&S) -> T) -> T {
    median(seen.iter().map(figure).collect()).unwrap_or_default()
}

/// The ratio of the medians, and the smallest and the largest ratio of single turns.
fn ratio(ours: &[Duration], theirs: &[Duration]) -> String {
    let of = |ours: Duration, theirs: Duration| ours.as_secs_f64() / theirs.as_secs_f64();
    let turns = || ours.iter().zip(theirs).map(|(ours, theirs)| of(*ours, *theirs));
    let (least, most) = (turns().fold(f64::INFINITY, f64::min), turns().fold(0.0, f64::max));
    let [ours, theirs] = [ours, theirs].map(|times| median(times.to_vec()).unwrap_or_default());
    format!("**{:.2}**, {least:.2}–{most:.2}", of(ours, theirs))
}

fn makespans(seen: &[Seen]) -> Vec<Duration> {
    seen.iter().map(|seen| seen.makespan).collect()
}

fn seconds(duration: Duration) -> String {
    format!("{:.2} s", duration.as_secs_f64())
}
