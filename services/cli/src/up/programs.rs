//! The programs that `foreman up` starts: those beside `foreman` itself, so that all are of one build.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use super::{API, Kind, SIM, WORKER};

pub(super) struct Programs(PathBuf);

impl Programs {
    pub(super) fn beside_us(kind: Kind) -> anyhow::Result<Self> {
        let ours = env::current_exe().context("where this program lies cannot be found out")?;
        let programs = Self(ours.parent().unwrap_or(Path::new("/")).to_owned());
        let needed: &[_] = if kind == Kind::Demo { &[API, WORKER, SIM] } else { &[API, WORKER] };
        for name in needed {
            if !programs.path(name).is_file() {
                bail!(
                    "{name} is not beside {} in {}; build all of them (cargo build --release --workspace) \
                     and keep them together",
                    ours.file_name().unwrap_or_default().to_string_lossy(),
                    programs.0.display()
                );
            }
        }
        Ok(programs)
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}
