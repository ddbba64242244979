//! The secrets that `foreman up` makes once and keeps. They travel to the services as the names of files, never in
//! an environment that others can read.

use std::fmt::Display;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use foreman_runtime::config::SecretKey;
use foreman_webhook::SigningSecret;

pub(crate) struct Secrets {
    pub(crate) key: PathBuf,
    pub(crate) webhook: PathBuf,
}

impl Secrets {
    /// Where they are, made or not.
    pub(crate) fn within(directory: &Path) -> Self {
        Self { key: directory.join("secret-key"), webhook: directory.join("webhook-secret") }
    }

    pub(crate) fn read_key(&self) -> anyhow::Result<SecretKey> {
        read(&self.key, SecretKey::parse)
    }

    pub(crate) fn read_webhook(&self) -> anyhow::Result<SigningSecret> {
        read(&self.webhook, SigningSecret::parse)
    }

    pub(crate) fn make_once(&self) -> anyhow::Result<()> {
        make_once(&self.key, || STANDARD.encode(rand::random::<[u8; 32]>()))?;
        make_once(&self.webhook, || SigningSecret::generate().expose().to_owned())
    }
}

fn read<T, E: Display>(path: &Path, parse: impl FnOnce(&str) -> Result<T, E>) -> anyhow::Result<T> {
    let text = fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
    parse(text.trim_end()).map_err(|problem| anyhow!("{}: {problem}", path.display()))
}

fn make_once(path: &Path, make: impl FnOnce() -> String) -> anyhow::Result<()> {
    if path.exists() {
        return Ok(());
    }
    // Whole or not at all: half a key would be refused at every later start.
    let draft = path.with_extension("new");
    write(&draft, &make())
        .and_then(|()| fs::rename(&draft, path))
        .with_context(|| format!("{} cannot be written", path.display()))
}

fn write(path: &Path, secret: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    writeln!(file, "{secret}")?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn secrets_are_made_once_for_their_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let secrets = Secrets::within(dir.path());
        secrets.make_once().unwrap();
        let (key, webhook) = (secrets.read_key().unwrap(), secrets.read_webhook().unwrap());
        for path in [&secrets.key, &secrets.webhook] {
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        secrets.make_once().unwrap();
        assert_eq!(secrets.read_key().unwrap(), key);
        assert_eq!(secrets.read_webhook().unwrap(), webhook);
    }
}
