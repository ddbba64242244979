//! Settings of the api.

use crate::config::Setting;

pub const ADDR: Setting =
    Setting::with_default("FOREMAN_API_ADDR", "127.0.0.1:8080", "address that clients call");
pub const BOUND: Setting = Setting::optional(
    "FOREMAN_API_BOUND",
    "none",
    "further addresses whose callers are one client without a key, as ADDR=CLIENT, separated by commas; loopback only",
);
pub const OPS_ADDR: Setting = Setting::with_default(
    "FOREMAN_API_OPS_ADDR",
    "127.0.0.1:9464",
    "address of /metrics, /healthz and /readyz; no client data",
);
pub const AUTH: Setting = Setting::with_default(
    "FOREMAN_AUTH",
    "required",
    "required: clients need keys; off: each source address is a client, and the api listens on loopback only",
);
pub const AUTH_OFF_ANYWHERE: Setting = Setting::with_default(
    "FOREMAN_AUTH_OFF_ANYWHERE",
    "no",
    "yes lets FOREMAN_AUTH=off and FOREMAN_API_BOUND listen on addresses that are not loopback",
);
pub const ORIGINS: Setting = Setting::optional(
    "FOREMAN_ORIGINS",
    "none",
    "hosts and origins accepted beside loopback where no key is needed, separated by commas",
);
pub const TRUSTED_PROXIES: Setting = Setting::optional(
    "FOREMAN_TRUSTED_PROXIES",
    "none",
    "CIDRs of proxies whose X-Forwarded-For names the client, with FOREMAN_AUTH=off",
);
pub const EMBED: Setting = Setting::with_default(
    "FOREMAN_EMBED",
    "direct",
    "direct: embeddings go straight to a host that has the model; queued: through the queue, for a GPU that holds one model",
);
pub const MAX_BODY: Setting = Setting::with_default("FOREMAN_MAX_BODY", "32MiB", "largest request body");
pub const CLIENT_MAX_QUEUED: Setting = Setting::with_default(
    "FOREMAN_CLIENT_MAX_QUEUED",
    "100000",
    "queued jobs per client; the api refuses more with 429; each further api may let a tenth more in",
);
pub const CLIENT_MAX_QUEUED_BYTES: Setting = Setting::with_default(
    "FOREMAN_CLIENT_MAX_QUEUED_BYTES",
    "4GiB",
    "bytes of queued request bodies per client; the api refuses more with 429; each further api may let a tenth more in",
);
pub const CLIENT_MAX_DAILY_BYTES: Setting = Setting::with_default(
    "FOREMAN_CLIENT_MAX_DAILY_BYTES",
    "32GiB",
    "bytes of request bodies that a client may store per day (UTC), including cancelled jobs; the api refuses more with 429",
);
pub const CLIENT_MAX_STREAMS: Setting = Setting::with_default(
    "FOREMAN_CLIENT_MAX_STREAMS",
    "200",
    "open waiting and streaming requests per client; the api refuses more with 429",
);

pub const HEARTBEAT: Setting = Setting::with_default(
    "FOREMAN_HEARTBEAT",
    "20s",
    "a stream of /api or /v1 that still waits for its answer shows a sign of life this often",
);
pub const HEARTBEAT_UNSTREAMED: Setting = Setting::with_default(
    "FOREMAN_HEARTBEAT_UNSTREAMED",
    "2m",
    "after this time a call of /api or /v1 without a stream shows the first sign of life; an error afterwards breaks its connection",
);

pub const ALL: &[Setting] = &[
    ADDR,
    BOUND,
    OPS_ADDR,
    AUTH,
    AUTH_OFF_ANYWHERE,
    ORIGINS,
    TRUSTED_PROXIES,
    EMBED,
    MAX_BODY,
    CLIENT_MAX_QUEUED,
    CLIENT_MAX_QUEUED_BYTES,
    CLIENT_MAX_DAILY_BYTES,
    CLIENT_MAX_STREAMS,
    HEARTBEAT,
    HEARTBEAT_UNSTREAMED,
];
