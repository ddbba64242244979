//! A PgBouncer of the test's own, as docs/operations.md says to set it up.

use std::{fs, path::Path};

use foreman_tests::{Db, Process, free_port};
use nix::unistd::geteuid;

/// How many connections to Postgres all clients of the pooler share.
pub(super) const SERVERS: i64 = 4;

/// Running; it ends with the value.
#[derive(Debug)]
pub(crate) struct PgBouncer {
    _process: Process,
    _home: tempfile::TempDir,
    port: u16,
}

impl PgBouncer {
    /// Starts one before the cluster of `db`, for any of its databases.
    pub(crate) fn start(db: &Db) -> Self {
        let home = tempfile::tempdir().unwrap();
        let port = free_port();
        let postgres = url::Url::parse(db.url()).unwrap().port().unwrap();
        let settings = format!(
            "[databases]\n\
             * = host=127.0.0.1 port={postgres} user=foreman\n\
             [pgbouncer]\n\
             listen_addr = 127.0.0.1\n\
             listen_port = {port}\n\
             unix_socket_dir =\n\
             auth_type = any\n\
             pool_mode = transaction\n\
             default_pool_size = {SERVERS}\n\
             max_client_conn = 100\n"
        );
        let file = home.path().join("pgbouncer.ini");
        fs::write(&file, settings).unwrap();
        // It refuses to run as root.
        let user: &[&str] = if geteuid().is_root() { &["-u", "postgres"] } else { &[] };
        let file = file.to_str().unwrap();
        let process = Process::start(program(), &[user, &[file]].concat(), &[]);
        Self { _process: process, _home: home, port }
    }

    /// The URL of `db` through it.
    pub(crate) fn url(&self, db: &Db) -> String {
        format!("postgres://foreman@127.0.0.1:{}/{}", self.port, db.name())
    }
}

/// Debian's place is not in everybody's PATH.
fn program() -> &'static str {
    let places = ["/usr/sbin/pgbouncer", "/usr/local/bin/pgbouncer", "/opt/homebrew/bin/pgbouncer"];
    let found = places.into_iter().find(|place| Path::new(place).exists());
    found.expect("this test needs PgBouncer: apt-get install pgbouncer")
}
