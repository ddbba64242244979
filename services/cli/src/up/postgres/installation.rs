//! Where the programs of Postgres are, on this machine and of the version that the data wants.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

/// The oldest that Foreman is tested on.
const OLDEST: u32 = 15;

/// The directory of `postgres` and `initdb`: of the version that made `data`, or else the newest.
pub(super) fn find(data: &Path) -> anyhow::Result<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = candidates()
        .into_iter()
        .filter(|dir| dir.join("initdb").is_file() && dir.join("postgres").is_file())
        .filter_map(|dir| Some((version(&dir)?, dir)))
        .collect();
    found.sort_by_key(|(version, _)| *version);
    match fs::read_to_string(data.join("PG_VERSION")) {
        Ok(made_by) => {
            let made_by: u32 = made_by.trim().parse().context("PG_VERSION is no number")?;
            let same = found.into_iter().rfind(|(version, _)| *version == made_by);
            same.map(|(_, dir)| dir).with_context(|| {
                format!(
                    "{} was made by Postgres {made_by}, which is not installed; install it \
                     (apt-get install postgresql-{made_by})",
                    data.display()
                )
            })
        }
        Err(_) => match found.pop() {
            Some((version, dir)) if version >= OLDEST => Ok(dir),
            Some((version, dir)) => bail!(
                "{} holds Postgres {version}; install Postgres {OLDEST} or later, or set DATABASE_URL to one",
                dir.display()
            ),
            None => bail!(
                "Postgres is not installed; install it (apt-get install postgresql), or set DATABASE_URL to one"
            ),
        },
    }
}

fn candidates() -> Vec<PathBuf> {
    // The last of several of one version is taken: a package's own directory before a link to it.
    let mut candidates: Vec<_> = env::var_os("PATH").iter().flat_map(env::split_paths).collect();
    // Debian and Ubuntu; Red Hat's and PostgreSQL's own packages; Homebrew.
    for (parent, prefix, rest) in [
        ("/usr/lib/postgresql", "", "bin"),
        ("/usr", "pgsql-", "bin"),
        ("/opt/homebrew/opt", "postgresql", "bin"),
        ("/usr/local/opt", "postgresql", "bin"),
    ] {
        let entries = fs::read_dir(parent).into_iter().flatten().flatten();
        let named = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix));
        candidates.extend(named.map(|entry| entry.path().join(rest)));
    }
    candidates
}

fn version(dir: &Path) -> Option<u32> {
    let said = Command::new(dir.join("postgres")).arg("--version").output().ok()?;
    major(&String::from_utf8_lossy(&said.stdout))
}

fn major(said: &str) -> Option<u32> {
    let version =
        said.split_whitespace().find(|word| word.starts_with(|first: char| first.is_ascii_digit()))?;
    let digits = version.find(|c: char| !c.is_ascii_digit()).unwrap_or(version.len());
    version[..digits].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_is_read_from_any_build() {
        for (said, version) in [
            ("postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)\n", Some(15)),
            ("postgres (PostgreSQL) 18beta1\n", Some(18)),
            ("postgres (PostgreSQL) 9.6.24\n", Some(9)),
            ("command not found", None),
        ] {
            assert_eq!(major(said), version, "{said}");
        }
    }
}
