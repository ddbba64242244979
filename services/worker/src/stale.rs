//! The count of outcomes that came too late. By then another process had the lease or claim, so Postgres refused them.

use foreman_runtime::metrics::Metric;

/// The runner counts those of jobs, and the dispatcher those of webhooks.
pub(crate) const STALE_WRITES: Metric = Metric::counter(
    "foreman_stale_writes_total",
    "Outcomes that were stopped because the job or webhook belonged to another by then.",
);

pub(crate) const METRICS: &[Metric] = &[STALE_WRITES];
