//! The metrics of the role `run`. The label `model` has the name from `/api/tags`, and must never have the text that
//! a client wrote: clients could make up names without end.

use foreman_runtime::metrics::Metric;

pub(crate) const JOB_WAIT: Metric =
    Metric::histogram("foreman_job_wait_seconds", "From the time a job could run to its first loading.");
pub(crate) const JOB_LOAD: Metric =
    Metric::histogram("foreman_job_load_seconds", "How long a job waited for its model to load, by model.");
pub(crate) const JOB_RUN: Metric =
    Metric::histogram("foreman_job_run_seconds", "How long Ollama took for a job's own request, by model.");
pub(crate) const TOKENS: Metric = Metric::labelled_counter(
    "foreman_tokens_total",
    "Tokens read and made, by model and kind (prompt, completion).",
);
pub(crate) const MODEL_SWITCHES: Metric = Metric::counter(
    "foreman_model_switches_total",
    "Loads of another model, or of the same with other options, than the one before.",
);
pub(crate) const LOADS: Metric = Metric::counter(
    "foreman_loads_total",
    "Loads of a model; with another context or other options it is another load.",
);
pub(crate) const FIRST_COME_LOADS: Metric = Metric::counter(
    "foreman_first_come_loads_total",
    "Loads that the same jobs would have needed one after the other, in the order in which they could run.",
);
pub(crate) const GPU_IDLE: Metric =
    Metric::counter("foreman_gpu_idle_seconds_total", "Seconds in which nothing ran while work waited.");
pub(crate) const CONTEXT_FITTED: Metric = Metric::counter(
    "foreman_context_fitted_total",
    "Attempts that ran with another context than their job asks for, never a shorter one: that of the runner.",
);

pub(crate) const ETA_ERROR: Metric = Metric::ratio(
    "foreman_eta_error_ratio",
    "How far from the truth the first `eta` of a job was: its error as a part of the wait that was left.",
);

pub(crate) const METRICS: &[Metric] = &[
    JOB_WAIT,
    JOB_LOAD,
    JOB_RUN,
    TOKENS,
    MODEL_SWITCHES,
    LOADS,
    FIRST_COME_LOADS,
    GPU_IDLE,
    CONTEXT_FITTED,
    ETA_ERROR,
];
