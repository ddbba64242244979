//! What a turn measures, and how many turns are summarised. The summary gives medians and ratios, because a single
//! rate says little on a machine that also does other work.

use std::fmt::{self, Display, Write as _};
use std::time::Duration;

use crate::programs::Programs;

/// A scenario in which Foreman competes with a baseline.
pub(crate) trait Scenario {
    fn name(&self) -> &'static str;
    /// The ratio to the baseline that we aim for.
    fn aim(&self) -> f64;
    async fn baseline(&self) -> anyhow::Result<Sample>;
    async fn foreman(&self, programs: &Programs) -> anyhow::Result<Sample>;
}

/// One turn of one contender.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    /// Units per second.
    pub(crate) rate: f64,
    /// What one unit cost the contender's own process, if that is known.
    pub(crate) own_cpu: Option<Duration>,
    /// What one unit cost Postgres.
    pub(crate) postgres_cpu: Option<Duration>,
    /// Median and 99th percentile, if each unit is waited for.
    pub(crate) latency: Option<(Duration, Duration)>,
}

impl Sample {
    pub(crate) fn of(units: usize, took: Duration) -> Self {
        Self { rate: units as f64 / took.as_secs_f64(), own_cpu: None, postgres_cpu: None, latency: None }
    }
}

impl Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.0}/s", self.rate)?;
        for (whose, cpu) in [("own", self.own_cpu), ("Postgres", self.postgres_cpu)] {
            if let Some(cpu) = cpu {
                write!(f, ", {whose} CPU {} µs each", cpu.as_micros())?;
            }
        }
        if let Some((median, slow)) = self.latency {
            write!(f, ", p50 {}, p99 {}", millis(median), millis(slow))?;
        }
        Ok(())
    }
}

/// A line of the table: one contender in one scenario.
#[derive(Debug)]
pub(crate) struct Row {
    scenario: &'static str,
    aim: f64,
    contender: String,
    baseline: Sample,
    ours: Sample,
    /// The smallest and the largest ratio of a turn to the turn of the baseline right before it.
    spread: (f64, f64),
}

impl Row {
    pub(crate) fn new(
        scenario: &'static str,
        aim: f64,
        contender: String,
        baseline: &[Sample],
        ours: &[Sample],
    ) -> Self {
        let ratios = || ours.iter().zip(baseline).map(|(ours, baseline)| ours.rate / baseline.rate);
        let spread = (ratios().fold(f64::INFINITY, f64::min), ratios().fold(0.0, f64::max));
        Self { scenario, aim, contender, baseline: middle(baseline), ours: middle(ours), spread }
    }
}

/// The median of each figure on its own.
fn middle(samples: &[Sample]) -> Sample {
    let duration = |of: fn(&Sample) -> Option<Duration>| median(samples.iter().filter_map(of).collect());
    Sample {
        rate: median(samples.iter().map(|sample| sample.rate).collect()).unwrap_or_default(),
        own_cpu: duration(|sample| sample.own_cpu),
        postgres_cpu: duration(|sample| sample.postgres_cpu),
        latency: duration(|sample| Some(sample.latency?.0)).zip(duration(|sample| Some(sample.latency?.1))),
    }
}

/// The lower one of the two middle values, if there are two.
pub(crate) fn median<T: PartialOrd + Copy>(mut values: Vec<T>) -> Option<T> {
    values.sort_by(|a, b| a.partial_cmp(b).expect("what is measured is a number"));
    values.get(values.len().checked_sub(1)? / 2).copied()
}

pub(crate) fn table(rows: &[Row]) -> String {
    let mut table = String::from(
        "\n| scenario | contender | baseline/s | Foreman/s | ratio | aim | ratios of single turns | p50, p99 | CPU of one: api or worker, Postgres |\n\
         |---|---|---:|---:|---:|---:|---|---|---|\n",
    );
    for row in rows {
        let (ours, baseline) = (&row.ours, &row.baseline);
        let latency = ours
            .latency
            .map_or_else(String::new, |(median, slow)| format!("{}, {}", millis(median), millis(slow)));
        let cpu = |cpu: Option<Duration>| cpu.map_or("?".into(), |cpu| format!("{} µs", cpu.as_micros()));
        writeln!(
            table,
            "| {} | {} | {:.0} | {:.0} | **{:.2}** | {} | {:.2}–{:.2} | {latency} | {}, {} |",
            row.scenario,
            row.contender,
            baseline.rate,
            ours.rate,
            ours.rate / baseline.rate,
            row.aim,
            row.spread.0,
            row.spread.1,
            cpu(ours.own_cpu),
            cpu(ours.postgres_cpu),
        )
        .expect("a string takes everything");
    }
    table
}

/// Median and 99th percentile, as text.
pub(crate) fn median_and_slow(mut figures: Vec<Duration>) -> String {
    let [median, slow] = [0.5, 0.99].map(|part| quantile(&mut figures, part));
    format!("{}, {}", millis(median), millis(slow))
}

/// The figure that this part of all figures does not exceed.
pub(crate) fn quantile(figures: &mut [Duration], part: f64) -> Duration {
    figures.sort_unstable();
    figures[((figures.len() - 1) as f64 * part).ceil() as usize]
}

pub(crate) fn millis(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1_000.0)
}
