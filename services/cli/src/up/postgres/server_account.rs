//! The account that Postgres runs as where `foreman up` is root: Postgres itself refuses to be.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;

use anyhow::{Context as _, bail};
use nix::unistd::{Gid, Uid, User, geteuid};

use crate::up::home::name_of;

/// The one that Debian's packages make, then what nearly every machine has.
const PREFERRED: [&str; 3] = ["postgres", "foreman", "nobody"];

pub(crate) struct ServerAccount(User);

impl ServerAccount {
    /// None where `foreman up` is an ordinary user, and Postgres is simply run by the same.
    pub(crate) fn choose(data: &Path) -> anyhow::Result<Option<Self>> {
        if !geteuid().is_root() {
            return Ok(None);
        }
        // Data that is already there belongs to the account that made it.
        if let Ok(data) = fs::metadata(data)
            && let Some(user) = User::from_uid(Uid::from_raw(data.uid()))?
            && !user.uid.is_root()
        {
            return Ok(Some(Self(user)));
        }
        for name in PREFERRED {
            if let Some(user) = User::from_name(name)?
                && !user.uid.is_root()
            {
                return Ok(Some(Self(user)));
            }
        }
        bail!("Postgres must not run as root; add an account for it (useradd --system postgres)")
    }

    pub(crate) fn name(&self) -> &str {
        &self.0.name
    }

    pub(crate) fn uid(&self) -> Uid {
        self.0.uid
    }

    pub(crate) fn gid(&self) -> Gid {
        self.0.gid
    }

    pub(super) fn own(&self, directory: &Path) -> anyhow::Result<()> {
        chown(directory, Some(self.uid().as_raw()), Some(self.gid().as_raw()))
            .with_context(|| format!("{} cannot be given to {}", directory.display(), self.name()))
    }

    /// Every directory on the way must let the account through.
    pub(super) fn check_reach(&self, directory: &Path) -> anyhow::Result<()> {
        for parent in directory.ancestors().skip(1) {
            let parent_is = fs::metadata(parent)?;
            let mode = parent_is.permissions().mode();
            let passes = mode & 0o001 != 0
                || (parent_is.uid() == self.uid().as_raw() && mode & 0o100 != 0)
                || (parent_is.gid() == self.gid().as_raw() && mode & 0o010 != 0);
            if !passes {
                bail!(
                    "{}, which runs Postgres, cannot enter {} of {}; set FOREMAN_HOME to a directory elsewhere",
                    self.name(),
                    parent.display(),
                    name_of(Uid::from_raw(parent_is.uid()))
                );
            }
        }
        Ok(())
    }
}
