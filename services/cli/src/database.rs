//! The database of the commands that need no api: the one that `DATABASE_URL` names, or that of `foreman up`.

use anyhow::Context as _;
use foreman_runtime::config::SecretKey;
use foreman_runtime::settings::shared::{self, Database};
use foreman_runtime::{ConfigError, Env};
use foreman_store::{ConnectOptions, Seal, Store};

use crate::up::environment::is_set;
use crate::up::{home, postgres};

/// A store that connects when it is first used.
pub(crate) fn open(env: &Env) -> anyhow::Result<Store> {
    let Database { url, direct_url, pool, pgbouncer } = Database::read(env)?;
    connect(&url, Some(&direct_url), pool, pgbouncer)
}

/// The store, and the key that seals secrets in it. Where DATABASE_URL is not set and `foreman up` runs on this machine,
/// these are its own, so that its user has nothing to look up.
pub(crate) fn open_with_key(env: &Env) -> anyhow::Result<(Store, Option<Seal>)> {
    let mut key = shared::secret_key(env)?;
    if !is_set(&shared::DATABASE_URL)
        && let Some(home) = home::running(env)?
    {
        if key.is_none() {
            key = Some(home::secrets_of(&home).read_key()?);
        }
        let url = postgres::url(&home::postgres_of(&home));
        return Ok((connect(&url, None, 2, false)?, key.as_ref().map(seal)));
    }
    Ok((open(env)?, key.as_ref().map(seal)))
}

/// For commands that store a secret.
pub(crate) fn needs_key(seal: Option<Seal>) -> Result<Seal, ConfigError> {
    seal.ok_or_else(|| {
        ConfigError::refused(
            &shared::SECRET_KEY,
            "it is not set, and without it no secret can be stored; set it to base64 of 32 bytes \
             (head -c 32 /dev/urandom | base64), the same here, for the api and for the worker",
        )
    })
}

fn seal(key: &SecretKey) -> Seal {
    Seal::new(key.bytes())
}

fn connect(url: &str, direct: Option<&str>, pool: u32, pgbouncer: bool) -> anyhow::Result<Store> {
    let options = ConnectOptions::new(url, direct, pool, pgbouncer).context(
        "DATABASE_URL is no URL of a Postgres; write it as postgres://user:password@host:5432/database",
    )?;
    Ok(Store::new(options))
}
