//! Metrics. They are declared as data and kept in memory. Prometheus reads them from the ops server.
//!
//! A label must never contain a text that a client can make up.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use metrics::{counter, describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::time::{MissedTickBehavior, interval};

mod snapshot;

pub use snapshot::Snapshot;

/// Seconds: from a fast HTTP answer to a job that waited for hours. Every histogram of seconds has a name that ends in
/// `_seconds`.
const BUCKETS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0,
    3_600.0, 21_600.0,
];
const HISTOGRAM_SUFFIX: &str = "_seconds";

/// Parts of a whole. Every histogram of ratios has a name that ends in `_ratio`.
const RATIO_BUCKETS: &[f64] = &[0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0];
const RATIO_SUFFIX: &str = "_ratio";

/// Samples of histograms stay in memory until the upkeep counts them into buckets. That must happen even if nobody reads
/// the metrics.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// One metric. Dashboards know it by `name`, and code records it by `name`: `counter!(CLAIMED.name).increment(1)`.
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
    /// A counter without labels. It exists from the start, at 0.
    pub const fn counter(name: &'static str, help: &'static str) -> Self {
        Self { name, kind: Kind::Counter, help }
    }

    pub const fn labelled_counter(name: &'static str, help: &'static str) -> Self {
        Self { name, kind: Kind::LabelledCounter, help }
    }

    pub const fn gauge(name: &'static str, help: &'static str) -> Self {
        Self { name, kind: Kind::Gauge, help }
    }

    /// A histogram of seconds. A name that does not end in `_seconds` does not compile.
    pub const fn histogram(name: &'static str, help: &'static str) -> Self {
        assert!(ends_with(name.as_bytes(), HISTOGRAM_SUFFIX.as_bytes()), "histograms are named *_seconds");
        Self { name, kind: Kind::Histogram, help }
    }

    /// A histogram of ratios. A name that does not end in `_ratio` does not compile.
    pub const fn ratio(name: &'static str, help: &'static str) -> Self {
        assert!(
            ends_with(name.as_bytes(), RATIO_SUFFIX.as_bytes()),
            "histograms of ratios are named *_ratio"
        );
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

/// The recorder of the process.
#[derive(Clone)]
pub struct Metrics {
    recorded: PrometheusHandle,
    published: Arc<Mutex<Snapshot>>,
}

impl Metrics {
    /// Makes the recorder of this process, or finds the existing one. Declares the metrics that it will record.
    pub fn install(declared: &[&[Metric]]) -> Self {
        static RECORDER: OnceLock<Metrics> = OnceLock::new();
        let metrics = RECORDER.get_or_init(|| {
            let builder = PrometheusBuilder::new()
                .set_buckets_for_metric(Matcher::Suffix(HISTOGRAM_SUFFIX.to_owned()), BUCKETS)
                .and_then(|builder| {
                    builder.set_buckets_for_metric(Matcher::Suffix(RATIO_SUFFIX.to_owned()), RATIO_BUCKETS)
                })
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

    /// All metrics in Prometheus' text format.
    pub fn render(&self) -> String {
        let mut text = self.recorded.render();
        self.published.lock().unwrap_or_else(PoisonError::into_inner).render(&mut text);
        text
    }

    /// Shows these gauges from now on, instead of all gauges that were published before.
    pub fn publish(&self, gauges: Snapshot) {
        *self.published.lock().unwrap_or_else(PoisonError::into_inner) = gauges;
    }

    /// Removes every published gauge, because another process publishes them now, or because they may be outdated.
    pub fn withdraw(&self) {
        self.publish(Snapshot::default());
    }

    /// Counts the waiting samples into buckets again and again, for as long as it is polled.
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
        // A second service in the same process declares its own metrics, and those of the first stay.
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
