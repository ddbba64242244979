//! Which installation is examined: the one that the environment describes or, where DATABASE_URL is not set, the
//! `foreman up` of this machine.

use std::path::{Path, PathBuf};

use anyhow::{anyhow, bail};
use foreman_runtime::config::{SecretKeys, form};
use foreman_runtime::settings::{api, cli, shared, worker};
use foreman_runtime::{ConfigError, Env};
use foreman_webhook::SigningSecret;

use super::finding::Finding;
use crate::database::keys_of_up;
use crate::up::environment::is_set;
use crate::up::{addresses, home, postgres};

pub(super) struct Installation {
    pub(super) env: Env,
    origin: Origin,
}

/// Where the installation was found.
enum Origin {
    /// DATABASE_URL is set.
    Environment,
    /// The home of a running `foreman up`.
    Up(PathBuf),
    /// The home of a `foreman up` that does not run now.
    Stopped(PathBuf),
    Nowhere,
}

/// How the database is reached, as the services are told.
pub(super) struct Database {
    pub(super) url: String,
    pub(super) direct_url: Option<String>,
    pub(super) pool: u32,
    pub(super) pgbouncer: bool,
}

impl Origin {
    fn of_up(env: &Env) -> Self {
        // Some users can have no home, as in a container.
        let Ok(home) = home::directory(env) else { return Self::Nowhere };
        match home::running(env) {
            Ok(Some(running)) => Self::Up(running),
            _ if home::postgres_of(&home).join("data").exists() => Self::Stopped(home),
            _ => Self::Nowhere,
        }
    }
}

impl Installation {
    pub(super) fn find(env: Env) -> Self {
        let origin = if is_set(&shared::DATABASE_URL) { Origin::Environment } else { Origin::of_up(&env) };
        Self { env, origin }
    }

    pub(super) fn where_from(&self) -> Finding {
        match &self.origin {
            Origin::Environment => Finding::ok("Settings come from the environment; DATABASE_URL is set."),
            Origin::Up(home) => Finding::ok(format!(
                "DATABASE_URL is not set; looking at the `foreman up` that runs in {}.",
                home.display()
            )),
            Origin::Stopped(home) => Finding::trouble(
                format!("DATABASE_URL is not set, and the `foreman up` of {} does not run.", home.display()),
                "foreman up  (or set DATABASE_URL to the database you mean)",
            ),
            Origin::Nowhere => Finding::trouble(
                "DATABASE_URL is not set, and no `foreman up` was ever run here as this user.",
                "foreman up  (or export DATABASE_URL=postgres://user:password@host:5432/database, as the services have it)",
            ),
        }
    }

    /// Whether there is anything to look at.
    pub(super) fn is_there(&self) -> bool {
        matches!(self.origin, Origin::Environment | Origin::Up(_))
    }

    /// The directory of `foreman up`, which holds everything.
    pub(super) fn home(&self) -> Option<&Path> {
        match &self.origin {
            Origin::Up(home) => Some(home),
            Origin::Environment | Origin::Stopped(_) | Origin::Nowhere => None,
        }
    }

    pub(super) fn database(&self) -> Result<Database, ConfigError> {
        if let Origin::Up(home) = &self.origin {
            let url = postgres::url(&home::postgres_of(home));
            let pool = self.env.read(&shared::DB_POOL, form::integer(2..=1_000))?;
            return Ok(Database { url, direct_url: None, pool, pgbouncer: false });
        }
        let read = shared::Database::read(&self.env)?;
        let direct_url = is_set(&shared::DATABASE_DIRECT_URL).then_some(read.direct_url);
        Ok(Database { url: read.url, direct_url, pool: read.pool, pgbouncer: read.pgbouncer })
    }

    pub(super) fn secret_keys(&self) -> anyhow::Result<Option<SecretKeys>> {
        match &self.origin {
            Origin::Up(home) => Ok(Some(keys_of_up(&self.env, home)?)),
            _ => Ok(shared::secret_keys(&self.env)?),
        }
    }

    pub(super) fn webhook_secret(&self) -> anyhow::Result<Option<SigningSecret>> {
        match (self.env.read_optional(&shared::WEBHOOK_SECRET, SigningSecret::parse)?, &self.origin) {
            (None, Origin::Up(home)) => Ok(Some(home::secrets_of(home).read_webhook()?)),
            (set, _) => Ok(set),
        }
    }

    /// Whether callers need no key.
    pub(super) fn is_open(&self) -> Result<bool, ConfigError> {
        if !is_set(&api::AUTH) && matches!(self.origin, Origin::Up(_)) {
            return Ok(true);
        }
        self.env.read(&api::AUTH, form::choice(&[("required", false), ("off", true)]))
    }

    /// The api's URL, and whether FOREMAN_URL is set.
    pub(super) fn api_url(&self) -> anyhow::Result<(url::Url, bool)> {
        let text = match self.env.read(&cli::URL, form::text)? {
            _ if !is_set(&cli::URL) => format!("http://{}", self.dialled_api()?),
            text => text,
        };
        let url = url::Url::parse(&text).map_err(|error| anyhow!("FOREMAN_URL is {text:?}: {error}"))?;
        if !matches!(url.scheme(), "http" | "https") {
            bail!("FOREMAN_URL is {text:?}; write it as http://127.0.0.1:8080");
        }
        Ok((url, is_set(&cli::URL)))
    }

    pub(super) fn unknown_settings(&self) -> impl Iterator<Item = Finding> {
        let known = [shared::PROCESS, shared::JOBS, api::ALL, worker::ALL, cli::ALL];
        let unknown = self.env.unknown(&known).into_iter();
        unknown.map(|line| Finding::note(format!("{line}."), "rename or unset it, here and for the services"))
    }

    fn dialled_api(&self) -> Result<std::net::SocketAddr, ConfigError> {
        Ok(addresses::dialled(self.env.read(&api::ADDR, form::socket_addr)?))
    }
}

/// Whether this process is in a Docker container, where loopback is the container itself and not the machine.
pub(super) fn is_in_container() -> bool {
    Path::new("/.dockerenv").exists()
}
