//! Outcomes that came too late: their lease or claim was another's by then, and they were stopped.

use foreman_runtime::metrics::Metric;

/// Counted by the runner for jobs and by the dispatcher for webhooks.
pub(crate) const STALE_WRITES: Metric = Metric::counter(
    "foreman_stale_writes_total",
    "Outcomes that were stopped because the job or webhook belonged to another by then.",
);

pub(crate) const METRICS: &[Metric] = &[STALE_WRITES];
