//! Gauges that are read from the database. They are published together: then a model that is gone leaves no stale series.
//! They are also withdrawn together, by a process that no longer has to export them.
//!
//! A metric that is published here must never be recorded through the `metrics` macros too.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::Metric;

/// The values of all published gauges at one moment.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    families: BTreeMap<&'static str, Family>,
}

#[derive(Debug, Clone)]
struct Family {
    help: &'static str,
    lines: Vec<String>,
}

impl Snapshot {
    /// Adds one series of `metric`.
    pub fn set(&mut self, metric: &Metric, labels: &[(&str, &str)], value: f64) {
        let labels: Vec<_> =
            labels.iter().map(|(name, text)| format!("{name}=\"{}\"", escaped(text))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let family = self
            .families
            .entry(metric.name)
            .or_insert_with(|| Family { help: metric.help, lines: Vec::new() });
        family.lines.push(format!("{}{labels} {value}", metric.name));
    }

    pub(super) fn render(&self, text: &mut String) {
        for (name, Family { help, lines }) in &self.families {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n{}\n", lines.join("\n"));
        }
    }
}

fn escaped(label: &str) -> String {
    label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    const QUEUED: Metric = Metric::gauge("test_snapshot_queued", "Jobs queued.");
    const OLDEST: Metric = Metric::gauge("test_snapshot_oldest_seconds", "Age of the oldest.");

    #[test]
    fn a_snapshot_replaces_the_one_before_and_can_be_withdrawn() {
        let metrics = Metrics::install(&[&[QUEUED, OLDEST]]);
        let mut first = Snapshot::default();
        first.set(&QUEUED, &[("model", "tiny-a")], 3.0);
        first.set(&QUEUED, &[("model", "od\"d\\\n")], 1.0);
        first.set(&OLDEST, &[], 0.25);
        metrics.publish(first);
        let text = metrics.render();
        assert!(
            text.ends_with(
                "# HELP test_snapshot_oldest_seconds Age of the oldest.\n\
                 # TYPE test_snapshot_oldest_seconds gauge\n\
                 test_snapshot_oldest_seconds 0.25\n\n\
                 # HELP test_snapshot_queued Jobs queued.\n\
                 # TYPE test_snapshot_queued gauge\n\
                 test_snapshot_queued{model=\"tiny-a\"} 3\n\
                 test_snapshot_queued{model=\"od\\\"d\\\\\\n\"} 1\n\n"
            ),
            "{text}"
        );

        let mut second = Snapshot::default();
        second.set(&QUEUED, &[("model", "tiny-b")], 2.0);
        metrics.publish(second);
        let text = metrics.render();
        assert!(text.contains("tiny-b") && !text.contains("tiny-a") && !text.contains("oldest"), "{text}");

        metrics.withdraw();
        assert!(!metrics.render().contains("test_snapshot"));
    }
}
