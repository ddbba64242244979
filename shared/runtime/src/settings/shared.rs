//! Settings that several processes read, and the functions that read them.

use std::fmt;
use std::time::Duration;

use crate::config::{ConfigError, Env, SecretKey, SecretKeys, Setting, form};

pub const DATABASE_URL: Setting =
    Setting::required("DATABASE_URL", "Postgres, as postgres://user:password@host:5432/database").secret();
pub const DATABASE_DIRECT_URL: Setting = Setting::optional(
    "DATABASE_DIRECT_URL",
    "DATABASE_URL",
    "Postgres past any pooler, for migrate and LISTEN",
)
.secret();
pub const DB_POOL: Setting = Setting::with_default(
    "FOREMAN_DB_POOL",
    "16",
    "connections to Postgres in the pool of this process; beside the pool an api holds 4, a worker 11",
);
pub const PGBOUNCER: Setting = Setting::with_default(
    "FOREMAN_PGBOUNCER",
    "no",
    "yes if Postgres is behind PgBouncer: every statement is unnamed, inside BEGIN…COMMIT, and slower",
);
pub const LOG: Setting =
    Setting::with_default("FOREMAN_LOG", "info", "log filter, such as info or info,foreman_store=debug");
pub const LOG_FORMAT: Setting =
    Setting::optional("FOREMAN_LOG_FORMAT", "text on a terminal, else json", "text or json");
pub const SECRET_KEY: Setting = Setting::optional(
    "FOREMAN_SECRET_KEY",
    "none: no secret can be stored, internal calls on loopback only",
    "base64 of 32 bytes that encrypts stored secrets and authenticates api and worker to each other",
)
.secret();
pub const PREVIOUS_SECRET_KEY: Setting = Setting::optional(
    "FOREMAN_PREVIOUS_SECRET_KEY",
    "none",
    "the FOREMAN_SECRET_KEY of before, good beside the new one until `foreman secrets rotate` has run",
)
.secret();
pub const SHUTDOWN_GRACE: Setting = Setting::with_default(
    "FOREMAN_SHUTDOWN_GRACE",
    "25s",
    "time from SIGTERM to the end; running work may use all but the last 3s of it",
);
pub const JOB_TTL: Setting =
    Setting::with_default("FOREMAN_JOB_TTL", "7d", "how long finished jobs, artifacts and events are kept");
pub const ARTIFACT_INLINE_LIMIT: Setting = Setting::with_default(
    "FOREMAN_ARTIFACT_INLINE_LIMIT",
    "256KiB",
    "webhooks and answers contain artifacts up to this size, and the URLs of larger ones",
);
pub const WEBHOOK_SECRET: Setting = Setting::optional(
    "FOREMAN_WEBHOOK_SECRET",
    "none",
    "signs per-job webhooks of clients without a secret of their own, as with FOREMAN_AUTH=off",
)
.secret();
pub const WEBHOOK_ALLOW: Setting = Setting::optional(
    "FOREMAN_WEBHOOK_ALLOW",
    "none",
    "receivers allowed beside public addresses: loopback, private, CIDRs; metadata addresses never",
);
pub const WEBHOOK_REQUIRE_HTTPS: Setting = Setting::with_default(
    "FOREMAN_WEBHOOK_REQUIRE_HTTPS",
    "no",
    "yes to send webhooks to https:// URLs only",
);
pub const WEBHOOK_NAMESERVERS: Setting = Setting::optional(
    "FOREMAN_WEBHOOK_NAMESERVERS",
    "those of /etc/resolv.conf",
    "nameservers for the names of receivers, such as 9.9.9.9,10.0.0.2:5353; /etc/hosts comes first",
);

/// The worker reads it too, because it writes the URLs of artifacts into webhooks.
pub const PUBLIC_URL: Setting = Setting::optional(
    "FOREMAN_PUBLIC_URL",
    "none: relative",
    "base of absolute URLs in answers and webhooks, such as https://jobs.example.org",
);

/// The settings that every process of Foreman reads.
pub const PROCESS: &[Setting] = &[
    DATABASE_URL,
    DATABASE_DIRECT_URL,
    DB_POOL,
    PGBOUNCER,
    LOG,
    LOG_FORMAT,
    SECRET_KEY,
    PREVIOUS_SECRET_KEY,
    SHUTDOWN_GRACE,
];

/// The settings that api and worker read beside [`PROCESS`].
pub const JOBS: &[Setting] = &[
    JOB_TTL,
    ARTIFACT_INLINE_LIMIT,
    PUBLIC_URL,
    WEBHOOK_SECRET,
    WEBHOOK_ALLOW,
    WEBHOOK_REQUIRE_HTTPS,
    WEBHOOK_NAMESERVERS,
];

/// How to reach Postgres.
#[derive(Clone)]
pub struct Database {
    pub url: String,
    /// Leads to Postgres past any pooler.
    pub direct_url: String,
    pub pool: u32,
    pub pgbouncer: bool,
}

impl Database {
    pub fn read(env: &Env) -> Result<Self, ConfigError> {
        let url = env.read(&DATABASE_URL, form::database_url)?;
        Ok(Self {
            direct_url: env
                .read_optional(&DATABASE_DIRECT_URL, form::database_url)?
                .unwrap_or_else(|| url.clone()),
            url,
            // With one connection, a task that holds it could wait for another task that needs one.
            pool: env.read(&DB_POOL, form::integer(2..=1_000))?,
            pgbouncer: env.read(&PGBOUNCER, form::yes_no)?,
        })
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database")
            .field("pool", &self.pool)
            .field("pgbouncer", &self.pgbouncer)
            .finish_non_exhaustive()
    }
}

pub fn secret_keys(env: &Env) -> Result<Option<SecretKeys>, ConfigError> {
    let current = env.read_optional(&SECRET_KEY, SecretKey::parse)?;
    let previous = previous_secret_key(env)?;
    match current {
        Some(current) => Ok(Some(SecretKeys { current, previous })),
        None if previous.is_some() => Err(ConfigError::refused(
            &PREVIOUS_SECRET_KEY,
            "it is set, but FOREMAN_SECRET_KEY is not; set that to the new key",
        )),
        None => Ok(None),
    }
}

pub fn previous_secret_key(env: &Env) -> Result<Option<SecretKey>, ConfigError> {
    env.read_optional(&PREVIOUS_SECRET_KEY, SecretKey::parse)
}

pub fn job_ttl(env: &Env) -> Result<Duration, ConfigError> {
    const HOUR: Duration = Duration::from_secs(3_600);
    env.read(&JOB_TTL, form::duration(HOUR..=HOUR * 24 * 366))
}

/// Bytes.
pub fn artifact_inline_limit(env: &Env) -> Result<u64, ConfigError> {
    env.read(&ARTIFACT_INLINE_LIMIT, form::byte_size(0..=16 << 20))
}

pub fn shutdown_grace(env: &Env) -> Result<Duration, ConfigError> {
    env.read(&SHUTDOWN_GRACE, form::duration(Duration::from_secs(1)..=Duration::from_secs(3_600)))
}
