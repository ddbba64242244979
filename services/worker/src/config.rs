//! The worker's settings. They are read once, at the start. A wrong one is refused with one line that says how to
//! mend it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use foreman_ollama::OllamaHost;
use foreman_runtime::config::{SecretKeys, form};
use foreman_runtime::settings::{shared, worker};
use foreman_runtime::{ConfigError, Env};
use foreman_webhook::{Allow, Nameservers, Policy, RetrySchedule, SigningSecret};
use gethostname::gethostname;
use tokio::net::TcpListener;

use crate::membership::host_id::HostId;

/// One of the tasks that a worker can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    /// Claims jobs and runs them on Ollama.
    Run,
    /// Moves rows from the outbox to the history, and makes webhook deliveries of them.
    Relay,
    /// Sends webhooks.
    Dispatch,
    /// Rescues, promotes and expires jobs, and makes and drops partitions.
    Janitor,
}

impl Role {
    const WORDS: [(&'static str, Self); 4] = [
        ("run", Self::Run),
        ("relay", Self::Relay),
        ("dispatch", Self::Dispatch),
        ("janitor", Self::Janitor),
    ];

    /// The word in `FOREMAN_WORKER_ROLES` and in the worker's row.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Relay => "relay",
            Self::Dispatch => "dispatch",
            Self::Janitor => "janitor",
        }
    }
}

#[derive(Debug)]
pub(crate) struct Config {
    pub database: shared::Database,
    pub ops_addr: SocketAddr,
    pub stream: Stream,
    pub secret_keys: Option<SecretKeys>,
    pub roles: BTreeSet<Role>,
    pub host: Host,
    /// Other workers take this one for dead after this time without a renewal.
    pub lease_ttl: Duration,
    pub limits: Limits,
    pub turns: Turns,
    pub webhooks: Webhooks,
    pub job_ttl: Duration,
    pub usage_ttl: Duration,
}

/// Where apis reach this worker.
#[derive(Debug)]
pub(crate) struct Stream {
    pub addr: SocketAddr,
    /// The URL for apis. `None` for the address itself.
    pub advertise: Option<String>,
}

/// The Ollama that this worker runs jobs on.
#[derive(Debug)]
pub(crate) struct Host {
    pub ollama: OllamaHost,
    pub id: HostId,
    /// The most requests in flight on this host.
    pub slots: usize,
}

/// The limits of one job.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    /// Attempts for a job whose submitter named no number.
    pub max_attempts: i16,
    /// The longest wait for the first token.
    pub load_timeout: Duration,
    /// The longest wait between two tokens.
    pub idle_timeout: Duration,
    pub run_timeout: Duration,
    /// The largest result, in bytes.
    pub max_result: usize,
}

/// How models take turns on the GPU.
#[derive(Debug, Clone)]
pub(crate) struct Turns {
    /// Quanta are made shorter where a client would wait longer than this for its turn.
    pub max_model_wait: Duration,
    /// The share of GPU time, between 0 and 1, that loading may take while several models have work.
    pub load_share: f64,
    /// Whether jobs may run with a longer context than they ask for, so that fewer loads are needed.
    pub context_fit: bool,
    /// The longest context that is loaded for several jobs.
    pub context_max: Option<i64>,
    /// How many models Ollama may hold at once.
    pub models_together: usize,
}

#[derive(Debug)]
pub(crate) struct Webhooks {
    pub schedule: RetrySchedule,
    pub timeout: Duration,
    /// Which receivers may be called.
    pub policy: Policy,
    /// Signs the webhooks of clients that have no secret of their own.
    pub secret: Option<SigningSecret>,
    /// Artifacts up to this many bytes are sent inside the webhook.
    pub inline_limit: u64,
    pub public_url: Option<String>,
}

impl Config {
    pub(crate) fn read(env: &Env) -> Result<Self, ConfigError> {
        let ollama: OllamaHost = env.read(&worker::OLLAMA_HOST, OllamaHost::parse)?;
        let id = env.read_optional(&worker::HOST_ID, HostId::parse)?;
        let secret_keys = shared::secret_keys(env)?;
        Ok(Self {
            database: shared::Database::read(env)?,
            ops_addr: env.read(&worker::OPS_ADDR, form::socket_addr)?,
            stream: Stream::read(env, secret_keys.is_some())?,
            secret_keys,
            roles: env.read(&worker::ROLES, form::list(form::choice(&Role::WORDS)))?.into_iter().collect(),
            host: Host {
                id: id.unwrap_or_else(|| HostId::of(&ollama)),
                ollama,
                slots: env.read(&worker::SLOTS, form::integer(1..=1_024))?,
            },
            lease_ttl: env.read(&worker::LEASE_TTL, form::duration(MIN_TTL..=MAX_TTL))?,
            limits: Limits::read(env)?,
            turns: Turns {
                max_model_wait: env.read(&worker::MAX_MODEL_WAIT, form::duration(SECOND..=DAY))?,
                load_share: env.read(&worker::LOAD_SHARE, form::percent)?,
                context_fit: env.read(&worker::CONTEXT_FIT, form::choice(&[("on", true), ("off", false)]))?,
                context_max: env
                    .read_optional(&worker::CONTEXT_MAX, form::integer(1..=i64::from(i32::MAX)))?,
                models_together: env.read(&worker::MODELS_TOGETHER, form::integer(1..=64))?,
            },
            webhooks: Webhooks::read(env)?,
            job_ttl: shared::job_ttl(env)?,
            usage_ttl: env.read(&worker::USAGE_TTL, form::duration(DAY..=DAY * 3_660))?,
        })
    }
}

impl Stream {
    fn read(env: &Env, has_key: bool) -> Result<Self, ConfigError> {
        let addr: SocketAddr = env.read(&worker::STREAM_ADDR, form::socket_addr)?;
        let advertise = env.read_optional(&worker::ADVERTISE, url)?;
        if !addr.ip().to_canonical().is_loopback() && !has_key {
            return Err(ConfigError::refused(
                &worker::STREAM_ADDR,
                format!(
                    "everybody who reaches {addr} could read answers; listen on loopback, or set FOREMAN_SECRET_KEY, \
                     the same for api and worker"
                ),
            ));
        }
        Ok(Self { addr, advertise })
    }

    /// Listens, and says under which URL apis can call. "Every address of this machine" is one to listen on, not one to call:
    /// apis then call the machine by its name, which for a container is the name that its network knows.
    pub(crate) fn listen(&self) -> anyhow::Result<(TcpListener, String)> {
        let listener = foreman_runtime::http::listen(self.addr, &worker::STREAM_ADDR)?;
        let address = listener.local_addr()?;
        let url = match &self.advertise {
            Some(url) => url.clone(),
            None if address.ip().is_unspecified() => {
                format!("http://{}:{}", gethostname().to_string_lossy(), address.port())
            }
            None => format!("http://{address}"),
        };
        Ok((listener, url))
    }
}

/// A URL without a path.
fn url(text: &str) -> Result<String, String> {
    let mend = || "expected a URL such as http://worker-1:9466".to_owned();
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://")).ok_or_else(mend)?;
    let is_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | ':' | '[' | ']' | '_');
    let rest = rest.trim_end_matches('/');
    if rest.is_empty() || !rest.chars().all(is_host) {
        Err(mend())
    } else {
        Ok(text.trim_end_matches('/').to_owned())
    }
}

impl Limits {
    fn read(env: &Env) -> Result<Self, ConfigError> {
        Ok(Self {
            max_attempts: env.read(&worker::MAX_ATTEMPTS, form::integer(1..=20))?,
            load_timeout: env.read(&worker::LOAD_TIMEOUT, form::duration(SECOND..=DAY))?,
            idle_timeout: env.read(&worker::IDLE_TIMEOUT, form::duration(SECOND..=DAY))?,
            run_timeout: env.read(&worker::RUN_TIMEOUT, form::duration(SECOND..=DAY))?,
            max_result: usize::try_from(
                env.read(&worker::MAX_RESULT, form::byte_size(1 << 10..=MAX_MAX_RESULT))?,
            )
            .unwrap_or(usize::MAX),
        })
    }
}

impl Webhooks {
    fn read(env: &Env) -> Result<Self, ConfigError> {
        Ok(Self {
            schedule: env.read(&worker::WEBHOOK_RETRY_SCHEDULE, RetrySchedule::parse)?,
            timeout: env.read(&worker::WEBHOOK_TIMEOUT, form::duration(SECOND..=HOUR))?,
            policy: Policy {
                allow: env.read_optional(&shared::WEBHOOK_ALLOW, Allow::parse)?.unwrap_or_default(),
                require_https: env.read(&shared::WEBHOOK_REQUIRE_HTTPS, form::yes_no)?,
                nameservers: env.read_optional(&shared::WEBHOOK_NAMESERVERS, Nameservers::parse)?,
            },
            secret: env.read_optional(&shared::WEBHOOK_SECRET, SigningSecret::parse)?,
            inline_limit: shared::artifact_inline_limit(env)?,
            public_url: env.read_optional(&shared::PUBLIC_URL, form::text)?,
        })
    }
}

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(24 * 3_600);

/// Postgres must answer a renewal within an eighth of the TTL. With a shorter TTL, a busy Postgres would look dead.
const MIN_TTL: Duration = Duration::from_secs(2);
const MAX_TTL: Duration = HOUR;

/// Postgres stores values of up to 1 GiB, and the worker's memory holds several copies of a completion at once.
const MAX_MAX_RESULT: u64 = 512 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PROGRAM;

    #[test]
    fn every_setting_that_help_lists_is_obeyed() {
        let env = Env::from_pairs([("DATABASE_URL", "postgres://x")]);
        let config = Config::read(&env).unwrap();
        assert_eq!(
            env.unread(PROGRAM.settings),
            ["FOREMAN_LOG", "FOREMAN_LOG_FORMAT", "FOREMAN_SHUTDOWN_GRACE"]
        );
        assert_eq!(config.roles, BTreeSet::from([Role::Run, Role::Relay, Role::Dispatch, Role::Janitor]));
    }

    #[test]
    fn a_wrong_value_names_the_variable_and_the_mend() {
        for (name, value) in [
            ("FOREMAN_WORKER_ROLES", "run,walk"),
            ("FOREMAN_WORKER_ROLES", ","),
            ("FOREMAN_WORKER_SLOTS", "0"),
            ("FOREMAN_WORKER_STREAM_ADDR", "0.0.0.0:9466"),
            ("FOREMAN_WORKER_ADVERTISE", "worker-1:9466"),
            ("FOREMAN_WORKER_ADVERTISE", "http://me:hush@x"),
            ("FOREMAN_LEASE_TTL", "1s"),
            ("FOREMAN_WEBHOOK_REQUIRE_HTTPS", "true"),
            ("FOREMAN_WEBHOOK_NAMESERVERS", "dns.example"),
            ("FOREMAN_LOAD_SHARE", "100%"),
            ("FOREMAN_HOST_ID", "two words"),
            ("OLLAMA_HOST", "ftp://x"),
            ("OLLAMA_HOST", "http://me:hush@x"),
        ] {
            let env = Env::from_pairs([("DATABASE_URL", "postgres://x"), (name, value)]);
            let error = Config::read(&env).unwrap_err().to_string();
            assert!(error.starts_with(name), "{error}");
            assert!(!error.contains('\n') && !error.contains("hush"), "{error}");
        }
    }

    #[test]
    fn roles_are_written_as_they_are_read() {
        for (word, role) in Role::WORDS {
            assert_eq!(role.as_str(), word);
        }
    }
}
