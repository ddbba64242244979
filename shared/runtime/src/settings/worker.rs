//! Settings of the worker.

use crate::config::Setting;

pub const OLLAMA_HOST: Setting = Setting::with_default(
    "OLLAMA_HOST",
    "http://127.0.0.1:11434",
    "the Ollama that runs the jobs, in any form that Ollama itself reads",
);
pub const HOST_ID: Setting = Setting::optional(
    "FOREMAN_HOST_ID",
    "the URL; for loopback, machine name and port",
    "which Ollama host this is; workers of the same host share its slots",
);
pub const OPS_ADDR: Setting = Setting::with_default(
    "FOREMAN_WORKER_OPS_ADDR",
    "127.0.0.1:9465",
    "address of /metrics, /healthz and /readyz; no client data",
);
pub const STREAM_ADDR: Setting = Setting::with_default(
    "FOREMAN_WORKER_STREAM_ADDR",
    "127.0.0.1:9466",
    "address at which apis read answers; only on loopback without FOREMAN_SECRET_KEY",
);
pub const ADVERTISE: Setting = Setting::optional(
    "FOREMAN_WORKER_ADVERTISE",
    "FOREMAN_WORKER_STREAM_ADDR; for 0.0.0.0 the machine's name",
    "URL at which apis reach FOREMAN_WORKER_STREAM_ADDR",
);
pub const SLOTS: Setting = Setting::with_default(
    "FOREMAN_WORKER_SLOTS",
    "1",
    "requests to run at the same time; the same number as OLLAMA_NUM_PARALLEL",
);
pub const ROLES: Setting =
    Setting::with_default("FOREMAN_WORKER_ROLES", "run,relay,dispatch,janitor", "the roles of this worker");
pub const MAX_ATTEMPTS: Setting = Setting::with_default(
    "FOREMAN_MAX_ATTEMPTS",
    "3",
    "failures after which a job fails, unless the job itself names a number",
);
pub const LEASE_TTL: Setting = Setting::with_default(
    "FOREMAN_LEASE_TTL",
    "20s",
    "a worker that is silent for this long counts as dead; at least 2s",
);
pub const LOAD_TIMEOUT: Setting =
    Setting::with_default("FOREMAN_LOAD_TIMEOUT", "10m", "longest wait for the first token");
pub const IDLE_TIMEOUT: Setting =
    Setting::with_default("FOREMAN_IDLE_TIMEOUT", "5m", "longest wait between two tokens");
pub const RUN_TIMEOUT: Setting =
    Setting::with_default("FOREMAN_RUN_TIMEOUT", "1h", "longest run; a job that needs more fails");
pub const MAX_RESULT: Setting =
    Setting::with_default("FOREMAN_MAX_RESULT", "64MiB", "largest result; a job that makes more fails");
pub const MAX_MODEL_WAIT: Setting = Setting::with_default(
    "FOREMAN_MAX_MODEL_WAIT",
    "10m",
    "longest time that a client should wait for its turn; where one user waits alone, a model",
);
pub const LOAD_SHARE: Setting = Setting::with_default(
    "FOREMAN_LOAD_SHARE",
    "10%",
    "share of GPU time that loading may take while several models have work",
);
pub const CONTEXT_FIT: Setting = Setting::with_default(
    "FOREMAN_CONTEXT_FIT",
    "on",
    "whether jobs may run with a longer context than they ask for, so that fewer loads are needed (on, or off: each \
     `num_ctx` goes to Ollama as it came)",
);
pub const CONTEXT_MAX: Setting = Setting::optional(
    "FOREMAN_CONTEXT_MAX",
    "no limit",
    "the longest context that is loaded for several jobs; a job that asks for more gets a load of its own",
);
pub const MODELS_TOGETHER: Setting = Setting::with_default(
    "FOREMAN_MODELS_TOGETHER",
    "1",
    "how many models this Ollama may hold at once; as its own OLLAMA_MAX_LOADED_MODELS",
);
pub const USAGE_TTL: Setting =
    Setting::with_default("FOREMAN_USAGE_TTL", "395d", "how long the hourly sums of what was used are kept");
pub const WEBHOOK_RETRY_SCHEDULE: Setting = Setting::with_default(
    "FOREMAN_WEBHOOK_RETRY_SCHEDULE",
    "5s,5m,30m,2h,5h,10h,14h,20h,24h",
    "waits before attempt 2, 3, … of a webhook",
);
pub const WEBHOOK_TIMEOUT: Setting = Setting::with_default(
    "FOREMAN_WEBHOOK_TIMEOUT",
    "15s",
    "time for a receiver to answer; each attempt gets up to a fifth more, by chance",
);

pub const ALL: &[Setting] = &[
    OLLAMA_HOST,
    HOST_ID,
    OPS_ADDR,
    STREAM_ADDR,
    ADVERTISE,
    SLOTS,
    ROLES,
    MAX_ATTEMPTS,
    LEASE_TTL,
    LOAD_TIMEOUT,
    IDLE_TIMEOUT,
    RUN_TIMEOUT,
    MAX_RESULT,
    MAX_MODEL_WAIT,
    LOAD_SHARE,
    CONTEXT_FIT,
    CONTEXT_MAX,
    MODELS_TOGETHER,
    USAGE_TTL,
    WEBHOOK_RETRY_SCHEDULE,
    WEBHOOK_TIMEOUT,
];
