//! `FOREMAN_HOME`: the one directory in which `foreman up` keeps everything, and who may enter what in it.
//!
//! ```text
//! secrets/    the user's alone
//! log/        the user's alone
//! run/        the user's alone: locks
//! postgres/   of the account that runs Postgres: data, socket
//! postgres.hba, postgres.ident    the user's, read by Postgres
//! ```
//!
//! Nothing that root writes may lie where another account can put a link in its place.

use std::env;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use foreman_runtime::{Env, config::form, settings};
use nix::unistd::{Uid, User, geteuid};

use super::secrets::Secrets;
use super::{Kind, lock};

const AS_ROOT: &str = "/var/lib/foreman";

pub(crate) struct Home {
    root: PathBuf,
    /// Held while this `foreman up` lives.
    _lock: File,
}

impl Home {
    /// Makes what is missing, and takes the directory for this process alone.
    pub(crate) fn open(env: &Env, kind: Kind) -> anyhow::Result<Self> {
        let mut root = directory(env)?;
        make_root(&root).with_context(|| mend("cannot be made", &root))?;
        if kind == Kind::Demo {
            root.push(DEMO);
            make_root(&root).with_context(|| mend("cannot be made", &root))?;
        }
        let owner = Uid::from_raw(fs::metadata(&root)?.uid());
        if owner != geteuid() {
            bail!("{} belongs to {}; {MEND}", root.display(), name_of(owner));
        }
        for private in ["run", "log", "secrets"] {
            let path = root.join(private);
            make_private(&path).with_context(|| mend("cannot be made", &path))?;
        }
        let path = root.join(UP_LOCK);
        match lock::try_take(&path).with_context(|| mend("cannot be locked", &path))? {
            Ok(mut lock) => {
                lock.set_len(0)?;
                writeln!(lock, "{}", std::process::id())?;
                Ok(Self { root, _lock: lock })
            }
            Err(holder) => bail!(
                "another `foreman up`{} runs in {}; stop it, or set FOREMAN_HOME to a directory of its own",
                holder.map(|pid| format!(" (process {pid})")).unwrap_or_default(),
                root.display()
            ),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.root
    }

    pub(crate) fn postgres(&self) -> PathBuf {
        postgres_of(&self.root)
    }

    pub(crate) fn secrets(&self) -> Secrets {
        secrets_of(&self.root)
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.root.join("log")
    }

    pub(crate) fn log_of(&self, program: &str) -> PathBuf {
        self.logs().join(format!("{program}.log"))
    }

    pub(crate) fn lock_of(&self, program: &str) -> PathBuf {
        self.root.join("run").join(format!("{program}.lock"))
    }
}

/// Held by `foreman up` itself.
const UP_LOCK: &str = "run/up.lock";
/// The home of `foreman demo`, within that of `foreman up`.
const DEMO: &str = "demo";

const MEND: &str = "run as that user, or set FOREMAN_HOME to a directory of yours";

fn mend(what: &str, path: &Path) -> String {
    format!("{} {what}; set FOREMAN_HOME to a directory of yours", path.display())
}

/// Where the home is, made or not.
pub(crate) fn directory(env: &Env) -> anyhow::Result<PathBuf> {
    if let Some(home) = env.read_optional(&settings::cli::HOME, form::text)? {
        return Ok(std::path::absolute(home)?);
    }
    if geteuid().is_root() {
        return Ok(AS_ROOT.into());
    }
    // The XDG specification ignores what is not absolute.
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let data = absolute("XDG_DATA_HOME").or_else(|| {
        let home = absolute("HOME").or_else(|| User::from_uid(geteuid()).ok().flatten().map(|user| user.dir));
        home.map(|home| home.join(".local/share"))
    });
    Ok(data
        .context("neither XDG_DATA_HOME nor HOME is set; set FOREMAN_HOME to a directory of yours")?
        .join("foreman"))
}

/// The home of the `foreman up` or `foreman demo` that runs on this machine as this user.
pub(crate) fn running(env: &Env) -> anyhow::Result<Option<PathBuf>> {
    let up = directory(env)?;
    let demo = up.join(DEMO);
    Ok([up, demo].into_iter().find(|home| lock::is_held(&home.join(UP_LOCK))))
}

/// Where the secrets of a home are.
pub(crate) fn secrets_of(home: &Path) -> Secrets {
    Secrets::within(&home.join("secrets"))
}

/// Where the Postgres of a home is.
pub(crate) fn postgres_of(home: &Path) -> PathBuf {
    home.join("postgres")
}

fn make_root(root: &Path) -> io::Result<()> {
    if let Some(parent) = root.parent() {
        fs::create_dir_all(parent)?;
    }
    // As root, Postgres runs under another account, and must pass through to its own directory.
    let mode = if geteuid().is_root() { 0o711 } else { 0o700 };
    match DirBuilder::new().mode(mode).create(root) {
        // Somebody's directory already: its mode is theirs.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

fn make_private(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::set_permissions(path, Permissions::from_mode(0o700))
        }
        made => made,
    }
}

pub(crate) fn name_of(uid: Uid) -> String {
    match User::from_uid(uid) {
        Ok(Some(user)) => user.name,
        _ => format!("user {uid}"),
    }
}
