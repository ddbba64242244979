//! A Postgres of the tests' own in a temporary directory. It ends when the test process ends, whatever ends the
//! process.

use std::{
    env, fs,
    os::unix::fs::chown,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use foreman_store::{ConnectOptions, Store};
use nix::unistd::{User, geteuid};
use sqlx::{Connection, PgConnection};
use tokio::sync::OnceCell;

use crate::{eventually, free_port, last_will::LastWill};

/// The migrated database that new databases are copied from.
pub(crate) const TEMPLATE: &str = "foreman_template";

/// A running Postgres. Its superuser is `foreman`, without a password.
#[derive(Debug)]
pub struct Cluster {
    // Dropped first, because it ends Postgres and removes the directory.
    _will: LastWill,
    programs: PathBuf,
    dir: PathBuf,
    owner: Option<Owner>,
    port: u16,
    settings: &'static [&'static str],
    postgres: Mutex<Child>,
}

/// The user that runs Postgres if the tests run as root, because Postgres refuses to run as root.
#[derive(Debug, Clone, Copy)]
struct Owner {
    user: u32,
    group: u32,
}

impl Cluster {
    /// The cluster that all tests of this process share.
    ///
    /// Runs without fsync: no test outlives the machine, and the writes of a process survive its SIGKILL.
    pub async fn shared() -> &'static Self {
        static SHARED: OnceCell<Cluster> = OnceCell::const_new();
        SHARED.get_or_init(|| Self::start(&["fsync=off"])).await
    }

    /// A cluster of the caller's own with default durability, for tests that kill it.
    pub async fn durable() -> Self {
        Self::start(&[]).await
    }

    /// The same, with settings for Postgres.
    pub async fn durable_with(settings: &'static [&'static str]) -> Self {
        Self::start(settings).await
    }

    async fn start(settings: &'static [&'static str]) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir = env::temp_dir().join(format!("foreman-tests-{}-{number}", std::process::id()));
        fs::create_dir(&dir).expect("a temporary directory can be made");
        let owner = Owner::if_root();
        if let Some(owner) = owner {
            chown(&dir, Some(owner.user), Some(owner.group)).expect("root may give a directory away");
        }
        let (programs, port) = (programs(), free_port());
        let will = LastWill::write(&end_of(&dir));
        let made = command(&programs, "initdb", &dir, owner)
            .args([
                "--pgdata=data",
                "--username=foreman",
                "--auth=trust",
                "--encoding=UTF8",
                "--no-locale",
                "--no-sync",
            ])
            .status();
        assert!(made.is_ok_and(|status| status.success()), "initdb failed, see {}/log", dir.display());
        fs::write(dir.join("look"), look(&programs, &dir, owner, port))
            .expect("our directory can be written");
        let postgres = Mutex::new(postgres(&programs, &dir, owner, port, settings));
        let cluster = Self { _will: will, programs, dir, owner, port, settings, postgres };
        cluster.answers().await;
        cluster.make_template().await;
        cluster
    }

    /// The URL of one of its databases.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://foreman@127.0.0.1:{}/{database}", self.port)
    }

    /// A connection of the superuser, outside the database of any test.
    pub(crate) async fn admin(&self) -> Result<PgConnection, sqlx::Error> {
        PgConnection::connect(&self.url("postgres")).await
    }

    /// Kills the postmaster with SIGKILL. Its children notice and end by themselves.
    pub fn kill(&self) {
        let mut postgres = self.postgres.lock().unwrap_or_else(PoisonError::into_inner);
        postgres.kill().expect("Postgres is our child");
        postgres.wait().expect("Postgres is our child");
    }

    /// Starts Postgres again after a kill, and returns when it has recovered.
    pub async fn start_again(&self) {
        eventually("a Postgres that answers after its kill", async || {
            {
                let mut postgres = self.postgres.lock().unwrap_or_else(PoisonError::into_inner);
                // A new postmaster refuses to start while children of the killed one still live.
                if postgres.try_wait().expect("Postgres is our child").is_some() {
                    *postgres =
                        self::postgres(&self.programs, &self.dir, self.owner, self.port, self.settings);
                }
            }
            self.admin().await
        })
        .await;
    }

    /// The directory of the cluster.
    pub(crate) fn home(&self) -> &Path {
        &self.dir
    }

    async fn answers(&self) {
        eventually("a new Postgres that answers", async || self.admin().await).await;
    }

    async fn make_template(&self) {
        let mut admin = self.admin().await.expect("Postgres answers");
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!("CREATE DATABASE {TEMPLATE}")))
            .execute(&mut admin)
            .await
            .expect("a new cluster takes a database");
        let options = ConnectOptions::new(&self.url(TEMPLATE), None, 2, false).expect("our URL is one");
        let store = Store::new(options);
        store.migrate().await.expect("the migrations can be applied");
        store.close().await;
    }
}

impl Owner {
    fn if_root() -> Option<Self> {
        let named = |name| User::from_name(name).expect("the users can be read");
        if !geteuid().is_root() {
            return None;
        }
        let user = named("postgres").or_else(|| named("nobody")).expect("root needs a user for Postgres");
        Some(Self { user: user.uid.as_raw(), group: user.gid.as_raw() })
    }
}

/// The directory of `initdb` and `postgres`: as `pg_config` says, or the newest version in Debian's place.
fn programs() -> PathBuf {
    let asked = Command::new("pg_config").arg("--bindir").output();
    let said = asked.ok().and_then(|output| String::from_utf8(output.stdout).ok());
    let mut debian: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .map(|versions| versions.flatten().map(|version| version.path().join("bin")).collect())
        .unwrap_or_default();
    debian.sort();
    said.map(|said| PathBuf::from(said.trim()))
        .into_iter()
        .chain(debian.into_iter().rev())
        .find(|dir| dir.join("initdb").exists())
        .expect("the tests need the Postgres server programs: apt-get install postgresql")
}

fn command(programs: &Path, name: &str, dir: &Path, owner: Option<Owner>) -> Command {
    let log = fs::File::options()
        .create(true)
        .append(true)
        .open(dir.join("log"))
        .expect("our directory can be written");
    let mut command = Command::new(programs.join(name));
    command
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a file handle can be cloned"))
        .stderr(log);
    if let Some(owner) = owner {
        command.uid(owner.user).gid(owner.group);
    }
    command
}

fn postgres(programs: &Path, dir: &Path, owner: Option<Owner>, port: u16, settings: &[&str]) -> Child {
    let mut command = command(programs, "postgres", dir, owner);
    command.args(["-D", "data", "-k"]).arg(dir).args(["-p", &port.to_string()]);
    for setting in ["listen_addresses=127.0.0.1", "max_connections=400"].iter().chain(settings) {
        command.args(["-c", setting]);
    }
    command.spawn().expect("Postgres can be started")
}

/// Keeps the directory of the cluster when the tests end, and prints how to open one of its databases.
#[expect(clippy::print_stderr, reason = "the test harness shows there what a failing test leaves")]
pub(crate) fn keep(home: &Path, database: &str) {
    fs::write(home.join("keep"), "").expect("our directory can be written");
    eprintln!("--- the database is kept, look into it with: sh {}/look {database}", home.display());
}

/// Ends Postgres at once, and removes the directory unless it is to be kept.
fn end_of(dir: &Path) -> String {
    format!(
        "cd '{}' || exit
         kill -QUIT $(head -n 1 data/postmaster.pid)
         n=0; while [ -e data/postmaster.pid ] && [ $((n += 1)) -lt 100 ]; do sleep 0.1; done
         [ -e keep ] || rm -rf \"$PWD\"",
        dir.display()
    )
}

/// A script that opens `psql` on a database of a kept cluster.
fn look(programs: &Path, dir: &Path, owner: Option<Owner>, port: u16) -> String {
    let (programs, dir) = (programs.display(), dir.display());
    let demote = owner.map_or_else(String::new, |Owner { user, group }| {
        format!("setpriv --reuid {user} --regid {group} --clear-groups ")
    });
    format!(
        "# Opens psql on the database named; starts Postgres for it if the tests are over.
cd '{dir}' || exit
pg_ctl() {{ {demote}'{programs}/pg_ctl' -D data -s -w \"$@\"; }}
if ! pg_ctl status; then
    pg_ctl -l look.log -o '-k {dir} -p {port} -c listen_addresses=' start
    trap 'pg_ctl -m fast stop' EXIT
fi
psql -h '{dir}' -p {port} -U foreman \"$@\"
"
    )
}
