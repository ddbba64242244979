//! The gateway of the compose stack before apis on loopback: the same file, but for where things are.

use std::{fs, path::Path};

use foreman_tests::{Process, Signal, eventually, free_port, http};
use nix::unistd::geteuid;

/// A running nginx. Its children outlive one that is killed, so it is told to [`end`](Self::end).
#[derive(Debug)]
pub(super) struct Gateway {
    pub(super) url: String,
    port: u16,
    process: Process,
    home: tempfile::TempDir,
}

impl Gateway {
    /// Starts one before these apis, and returns when an answer of theirs comes through it.
    pub(super) async fn before(apis: &[&str]) -> Self {
        let (home, port) = (tempfile::tempdir().unwrap(), free_port());
        let file = home.path().join("nginx.conf");
        fs::write(&file, settings(home.path(), port, apis)).unwrap();
        let process = Process::start(program(), &["-c", file.to_str().unwrap(), "-g", "daemon off;"], &[]);
        let gateway = Self { url: format!("http://127.0.0.1:{port}"), port, process, home };
        eventually("an answer through the gateway", async || {
            let answer = http().get(format!("{}/jobs", gateway.url)).send().await;
            match answer.map(|answer| answer.status().as_u16()) {
                Ok(200) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        gateway
    }

    /// Sends what comes from now on to these apis alone; soon, not at once.
    pub(super) fn send_to(&self, apis: &[&str]) {
        fs::write(self.home.path().join("nginx.conf"), settings(self.home.path(), self.port, apis)).unwrap();
        self.process.signal(Signal::SIGHUP);
    }

    pub(super) async fn end(mut self) {
        self.process.terminate().await;
    }
}

/// The file of the compose stack with the places of this test.
fn settings(home: &Path, port: u16, apis: &[&str]) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/gateway/nginx.conf");
    let mut settings = fs::read_to_string(file).unwrap();
    let servers: String = apis.iter().map(|address| format!("server {address};")).collect();
    for (there, here) in [
        ("/tmp/", format!("{}/", home.display())),
        ("/dev/stdout", home.join("access.log").display().to_string()),
        ("/dev/stderr", "stderr".to_owned()),
        ("resolver 127.0.0.11 valid=1s ipv6=off;", format!("upstream apis {{ {servers} }}")),
        ("listen 8080 ", format!("listen 127.0.0.1:{port} ")),
        ("set $api api:8080;", "set $api apis;".to_owned()),
    ] {
        assert!(settings.contains(there), "the gateway's file has no `{there}` any more");
        settings = settings.replace(there, &here);
    }
    // Its children would be somebody who cannot look into our directory.
    let user = if geteuid().is_root() { "user root;" } else { "" };
    format!("{user}\n{settings}")
}

/// Debian's place is not in everybody's PATH.
fn program() -> &'static str {
    let places = ["/usr/sbin/nginx", "/usr/local/bin/nginx", "/opt/homebrew/bin/nginx"];
    let found = places.into_iter().find(|place| Path::new(place).exists());
    found.expect("this test needs nginx: apt-get install nginx-light")
}
