//! Metrics: declared as data, kept in memory, read by Prometheus through the ops server.
//!
//! No label may hold what a client can invent.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use metrics::{counter, describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::time::{MissedTickBehavior, interval};

mod snapshot;

pub use snapshot::Snapshot;

/// From a fast HTTP answer to a job that waited for hours, in seconds. Every histogram counts seconds and has a
/// name that says so.
const BUCKETS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0,
    3_600.0, 21_600.0,
];
const HISTOGRAM_SUFFIX: &str = "_seconds";

/// Samples pile up in memory until they are counted into buckets, scraped or not.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// One metric, with its name as dashboards know it: `counter!(CLAIMED.name).increment(1)`.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    pub name: &'static str,
    kind: Kind,
    help: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    LabelledCounter,
    Gauge,
    Histogram,
}

impl Metric {
    /// Without labels: it exists from the start, at 0.
    pub const fn counter(name: &'static str, help: &'static str) -> Self {
        Self { name, kind: Kind::Counter, help }
    }

    pub const fn labelled_counter(name: &'static str, help: &'static str) -> Self {
        Self { name, kind: Kind::LabelledCounter, help }
    }

    pub const fn gauge(name: &'static str, help: &'static str) -> Self {
        Self { name, kind: Kind::Gauge, help }
    }

    /// Of seconds; the name must end in `_seconds`, or it does not compile.
    pub const fn histogram(name: &'static str, help: &'static str) -> Self {
        assert!(ends_with(name.as_bytes(), HISTOGRAM_SUFFIX.as_bytes()), "histograms are named *_seconds");
        Self { name, kind: Kind::Histogram, help }
    }

    fn describe(&self) {
        match self.kind {
            Kind::Counter => {
                describe_counter!(self.name, self.help);
                counter!(self.name).increment(0);
            }
            Kind::LabelledCounter => describe_counter!(self.name, self.help),
            Kind::Gauge => describe_gauge!(self.name, self.help),
            Kind::Histogram => describe_histogram!(self.name, self.help),
        }
    }
}

/// The process's recorder.
#[derive(Clone)]
pub struct Metrics {
    recorded: PrometheusHandle,
    published: Arc<Mutex<Snapshot>>,
}

impl Metrics {
    /// Makes the recorder of this process, or finds the one that is there, and declares what it will record.
    pub fn install(declared: &[&[Metric]]) -> Self {
        static RECORDER: OnceLock<Metrics> = OnceLock::new();
        let metrics = RECORDER.get_or_init(|| {
            let builder = PrometheusBuilder::new()
                .set_buckets_for_metric(Matcher::Suffix(HISTOGRAM_SUFFIX.to_owned()), BUCKETS)
                .expect("there are buckets");
            let recorder = builder.build_recorder();
            let handle = recorder.handle();
            if metrics::set_global_recorder(recorder).is_err() {
                tracing::error!(
                    "another metrics recorder is installed in this process; /metrics stays empty"
                );
            }
            Self { recorded: handle, published: Arc::default() }
        });
        declared.iter().copied().flatten().for_each(Metric::describe);
        metrics.clone()
    }

    /// In Prometheus' text format.
    pub fn render(&self) -> String {
        let mut text = self.recorded.render();
        self.published.lock().unwrap_or_else(PoisonError::into_inner).render(&mut text);
        text
    }

    /// Shows these gauges from now on, in place of all that were published before.
    pub fn publish(&self, gauges: Snapshot) {
        *self.published.lock().unwrap_or_else(PoisonError::into_inner) = gauges;
    }

    /// Drops every published gauge, because another process shows them now.
    pub fn withdraw(&self) {
        self.publish(Snapshot::default());
    }

    /// Counts what has piled up, for as long as it is polled.
    pub(crate) async fn keep_up(self) {
        let mut tick = interval(UPKEEP_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            self.recorded.run_upkeep();
        }
    }
}

const fn ends_with(text: &[u8], end: &[u8]) -> bool {
    if text.len() < end.len() {
        return false;
    }
    let start = text.len() - end.len();
    let mut index = 0;
    while index < end.len() {
        if text[start + index] != end[index] {
            return false;
        }
        index += 1;
    }
    true
}

#[cfg(test)]
mod tests {
    use metrics::histogram;

    use super::*;

    const PLAIN: Metric = Metric::counter("test_plain_total", "Counts.");
    const LABELLED: Metric = Metric::labelled_counter("test_labelled_total", "Counts by model.");
    const WAITED: Metric = Metric::histogram("test_waited_seconds", "Waits.");

    #[test]
    fn counters_without_labels_exist_from_the_start_and_histograms_have_buckets() {
        let metrics = Metrics::install(&[&[PLAIN, LABELLED], &[WAITED]]);
        assert!(metrics.render().contains("# TYPE test_plain_total counter\ntest_plain_total 0\n"));
        assert!(!metrics.render().contains("test_labelled_total{"));

        counter!(PLAIN.name).increment(2);
        counter!(LABELLED.name, "model" => "tiny-a").increment(1);
        histogram!(WAITED.name).record(0.004);
        // A second service in the same process declares its own, and takes nothing from the first.
        let text = Metrics::install(&[&[PLAIN]]).render();
        for line in [
            "# HELP test_plain_total Counts.",
            "test_plain_total 2",
            "test_labelled_total{model=\"tiny-a\"} 1",
            "# TYPE test_waited_seconds histogram",
            "test_waited_seconds_bucket{le=\"0.0025\"} 0",
            "test_waited_seconds_bucket{le=\"0.005\"} 1",
            "test_waited_seconds_bucket{le=\"21600\"} 1",
            "test_waited_seconds_count 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}
