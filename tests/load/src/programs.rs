//! The services as they run in production. A command of its own builds them for release, so that no feature of the
//! tests changes them.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use foreman_tests::built_for_release;

const NAMES: [&str; 2] = ["foreman-api", "foreman-worker"];

/// A directory with the services of one build.
#[derive(Debug)]
pub(crate) struct Programs {
    dir: PathBuf,
    name: String,
}

impl Programs {
    /// Builds the current sources.
    pub(crate) fn of_this_tree() -> Self {
        Self { dir: built_for_release(&NAMES), name: "this tree".to_owned() }
    }

    /// Takes another build.
    pub(crate) fn in_dir(dir: &Path) -> anyhow::Result<Self> {
        let dir = dir.canonicalize().with_context(|| dir.display().to_string())?;
        for name in NAMES {
            ensure!(dir.join(name).exists(), "{} has no {name}", dir.display());
        }
        let name = dir.display().to_string();
        Ok(Self { dir, name })
    }

    /// The path of one program.
    pub(crate) fn path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }
}

impl fmt::Display for Programs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}
