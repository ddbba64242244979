//! The private Postgres of `foreman up`: found on the machine, made once, reached through a socket alone.
//!
//! Who may connect is decided by the kernel: the server asks it for the account at the other end of the socket
//! (`peer`), and takes the one that runs `foreman up`. So there is no password to keep and no port to guard.

mod installation;
mod server_account;

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::unistd::{User, geteuid};
use url::Url;

use super::home::Home;
use super::lock;
pub(crate) use server_account::ServerAccount;

/// The role and the database. Nobody else shares the server, so its owner may do everything there.
const NAME: &str = "foreman";
/// Only in the name of the socket.
const PORT: u16 = 5432;
/// A socket's path is limited by the kernel (`sun_path`), with its final zero.
const LONGEST_SOCKET: usize = 107;

/// It takes seconds.
const INITDB_WITHIN: Duration = Duration::from_secs(60);

pub(crate) struct Postgres {
    programs: PathBuf,
    account: Option<ServerAccount>,
    /// Data and socket.
    directory: PathBuf,
    hba: PathBuf,
    ident: PathBuf,
}

impl Postgres {
    /// Finds a Postgres, and makes its cluster where there is none yet.
    pub(crate) async fn prepare(home: &Home) -> anyhow::Result<Self> {
        let directory = home.postgres();
        let socket = socket(&directory);
        if socket.as_os_str().len() > LONGEST_SOCKET {
            bail!(
                "{} is too long a path for a socket; set FOREMAN_HOME to one of at most {} bytes",
                home.path().display(),
                LONGEST_SOCKET - (socket.as_os_str().len() - home.path().as_os_str().len())
            );
        }
        let data = directory.join("data");
        let account = ServerAccount::choose(&data)?;
        let postgres = Self {
            programs: installation::find(&data)?,
            account,
            directory,
            hba: home.path().join("postgres.hba"),
            ident: home.path().join("postgres.ident"),
        };
        postgres.make_directory()?;
        postgres.write_access()?;
        if !data.exists() {
            // An `initdb` whose `foreman up` was killed goes on, and must not find its files gone.
            let lock = lock::take_within(&home.lock_of("initdb"), INITDB_WITHIN).await?;
            postgres.make_cluster(&data, lock)?;
        }
        Ok(postgres)
    }

    pub(crate) fn url(&self) -> String {
        url(&self.directory)
    }

    pub(crate) fn account(&self) -> Option<&ServerAccount> {
        self.account.as_ref()
    }

    /// The server's command line.
    pub(crate) fn command(&self) -> Vec<OsString> {
        let mut command = vec![self.programs.join("postgres").into()];
        command.push("-D".into());
        command.push(self.directory.join("data").into());
        for (name, value) in [
            ("listen_addresses", "".into()),
            ("unix_socket_directories", self.directory.clone().into_os_string()),
            ("port", PORT.to_string().into()),
            ("hba_file", self.hba.clone().into_os_string()),
            ("ident_file", self.ident.clone().into_os_string()),
            ("logging_collector", "off".into()),
            ("log_destination", "stderr".into()),
        ] {
            let mut setting: OsString = format!("{name}=").into();
            setting.push::<OsString>(value);
            command.extend(["-c".into(), setting]);
        }
        command
    }

    fn make_directory(&self) -> anyhow::Result<()> {
        fs::create_dir_all(&self.directory)?;
        fs::set_permissions(&self.directory, fs::Permissions::from_mode(0o700))?;
        if let Some(account) = &self.account {
            account.own(&self.directory)?;
            account.check_reach(&self.directory)?;
        }
        Ok(())
    }

    /// At every start: the directory may have been copied, or Postgres be run by another account now.
    fn write_access(&self) -> anyhow::Result<()> {
        let us = User::from_uid(geteuid())?
            .with_context(|| format!("user {} has no name; add it to /etc/passwd", geteuid()))?
            .name;
        let note = "# Written by `foreman up` at every start.\n";
        let mut ident = format!("{note}{NAME} \"{us}\" {NAME}\n");
        if let Some(account) = &self.account {
            ident.push_str(&format!("{NAME} \"{}\" {NAME}\n", account.name()));
        }
        for (path, text) in
            [(&self.hba, format!("{note}local all {NAME} peer map={NAME}\n")), (&self.ident, ident)]
        {
            fs::write(path, text)
                .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o644)))
                .with_context(|| format!("{} cannot be written", path.display()))?;
        }
        Ok(())
    }

    /// Under another name first, so that a half-made cluster is never taken for one.
    fn make_cluster(&self, data: &Path, lock: File) -> anyhow::Result<()> {
        let draft = self.directory.join("data.new");
        if draft.exists() {
            fs::remove_dir_all(&draft)?;
        }
        let mut initdb = self.program("initdb");
        initdb.args(["--username", NAME, "--auth", "reject", "--encoding", "UTF8", "--locale", "C"]);
        run(initdb.arg("--pgdata").arg(&draft).stdin(lock))?;
        // In the same step, while the server is not one yet: no client program is needed for it.
        let mut server = self.program("postgres");
        server.arg("--single").arg("-D").arg(&draft).args(["-c", "exit_on_error=on", "template1"]);
        let (statements, mut pipe) = std::io::pipe()?;
        writeln!(pipe, "CREATE DATABASE {NAME};")?;
        drop(pipe);
        run(server.stdin(statements))?;
        fs::rename(&draft, data)?;
        Ok(())
    }

    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.programs.join(name));
        // Not what the user's environment says about some other Postgres.
        command.env_clear().envs(environment()).current_dir(&self.directory);
        if let Some(account) = &self.account {
            command.uid(account.uid().as_raw()).gid(account.gid().as_raw());
        }
        command
    }
}

/// Where the socket in `directory` leads.
pub(crate) fn url(directory: &Path) -> String {
    let mut url = Url::parse(&format!("postgres://{NAME}@localhost:{PORT}/{NAME}")).expect("a valid URL");
    url.query_pairs_mut().append_pair("host", &directory.to_string_lossy());
    url.into()
}

fn socket(directory: &Path) -> PathBuf {
    directory.join(format!(".s.PGSQL.{PORT}"))
}

/// What the programs of Postgres are given to read.
pub(crate) fn environment() -> impl Iterator<Item = (&'static str, OsString)> {
    ["PATH", "TZ"].into_iter().filter_map(|name| Some((name, std::env::var_os(name)?)))
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("{name} cannot be run"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said: Vec<_> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        bail!("{name} failed ({}): {}", output.status, said.join("; "));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_carries_any_directory() {
        assert_eq!(
            url(Path::new("/home/a b/ü&")),
            "postgres://foreman@localhost:5432/foreman?host=%2Fhome%2Fa+b%2F%C3%BC%26"
        );
    }
}
