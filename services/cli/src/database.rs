//! The database of the commands that need no api: the one that `DATABASE_URL` names, or that of `foreman up`.

use std::path::Path;

use anyhow::Context as _;
use foreman_runtime::config::SecretKeys;
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
    if !is_set(&shared::DATABASE_URL)
        && let Some(home) = home::running(env)?
    {
        let keys = keys_of_up(env, &home)?;
        let url = postgres::url(&home::postgres_of(&home));
        return Ok((connect(&url, None, 2, false)?, Some(seal(&keys))));
    }
    Ok((open(env)?, shared::secret_keys(env)?.as_ref().map(seal)))
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

/// The keys of the `foreman up` with this home: its own, if the environment names none.
pub(crate) fn keys_of_up(env: &Env, home: &Path) -> anyhow::Result<SecretKeys> {
    if is_set(&shared::SECRET_KEY)
        && let Some(keys) = shared::secret_keys(env)?
    {
        return Ok(keys);
    }
    let previous = shared::previous_secret_key(env)?;
    Ok(SecretKeys { current: home::secrets_of(home).read_key()?, previous })
}

pub(crate) fn seal(keys: &SecretKeys) -> Seal {
    Seal::new(keys.current.bytes()).and_previous(keys.previous_bytes())
}

fn connect(url: &str, direct: Option<&str>, pool: u32, pgbouncer: bool) -> anyhow::Result<Store> {
    let options = ConnectOptions::new(url, direct, pool, pgbouncer).context(
        "DATABASE_URL is no URL of a Postgres; write it as postgres://user:password@host:5432/database",
    )?;
    Ok(Store::new(options))
}
