//! Settings of the api.

use crate::config::Setting;

pub const ADDR: Setting = Setting::with_default("FOREMAN_API_ADDR", "127.0.0.1:8080", "address clients call");
pub const OPS_ADDR: Setting = Setting::with_default(
    "FOREMAN_API_OPS_ADDR",
    "127.0.0.1:9464",
    "address of /metrics, /healthz and /readyz; no client data",
);
pub const AUTH: Setting = Setting::with_default(
    "FOREMAN_AUTH",
    "required",
    "required, or off: then each source address is a client; off needs a loopback address",
);
pub const AUTH_OFF_ANYWHERE: Setting = Setting::with_default(
    "FOREMAN_AUTH_OFF_ANYWHERE",
    "no",
    "yes lets FOREMAN_AUTH=off listen on addresses that are not loopback",
);
pub const ORIGINS: Setting = Setting::optional(
    "FOREMAN_ORIGINS",
    "none",
    "hosts and origins accepted with FOREMAN_AUTH=off beside loopback, separated by commas",
);
pub const TRUSTED_PROXIES: Setting = Setting::optional(
    "FOREMAN_TRUSTED_PROXIES",
    "none",
    "CIDRs of proxies whose X-Forwarded-For names the client, with FOREMAN_AUTH=off",
);
pub const MAX_BODY: Setting = Setting::with_default("FOREMAN_MAX_BODY", "32MiB", "largest request body");
pub const CLIENT_MAX_QUEUED: Setting = Setting::with_default(
    "FOREMAN_CLIENT_MAX_QUEUED",
    "100000",
    "jobs a client may have queued; more are answered 429; each further api lets a tenth more in at most",
);
pub const CLIENT_MAX_QUEUED_BYTES: Setting = Setting::with_default(
    "FOREMAN_CLIENT_MAX_QUEUED_BYTES",
    "4GiB",
    "bytes of queued request bodies a client may have; more are answered 429; each further api lets a tenth more in at most",
);
pub const CLIENT_MAX_DAILY_BYTES: Setting = Setting::with_default(
    "FOREMAN_CLIENT_MAX_DAILY_BYTES",
    "32GiB",
    "bytes of request bodies a client may store a day (UTC), cancelled jobs included; more are answered 429",
);
pub const CLIENT_MAX_STREAMS: Setting = Setting::with_default(
    "FOREMAN_CLIENT_MAX_STREAMS",
    "200",
    "waiting and streaming requests a client may have open; more are answered 429",
);

pub const ALL: &[Setting] = &[
    ADDR,
    OPS_ADDR,
    AUTH,
    AUTH_OFF_ANYWHERE,
    ORIGINS,
    TRUSTED_PROXIES,
    MAX_BODY,
    CLIENT_MAX_QUEUED,
    CLIENT_MAX_QUEUED_BYTES,
    CLIENT_MAX_DAILY_BYTES,
    CLIENT_MAX_STREAMS,
];
