//! Tries the frame of a service on a real process, with real signals: which lines it writes, and how it ends.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails best where it is")]

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, Output, Stdio};

/// Cargo builds the examples of a package with its tests, into a directory beside theirs.
fn probe() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.ancestors().nth(2).unwrap().join("examples/probe");
    assert!(path.exists(), "{} is missing; run `cargo build -p foreman-runtime --examples`", path.display());
    path
}

fn command(variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(probe());
    command.env_clear().envs(variables.iter().copied());
    command
}

fn run(variables: &[(&str, &str)], arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command(variables).args(arguments).output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

/// A probe that runs. The test reads its log line by line, and so knows how far the probe is.
struct Running {
    child: Child,
    log: BufReader<ChildStderr>,
}

impl Running {
    fn start(mode: &str, grace: &str) -> Self {
        let mut command = command(&[("PROBE_MODE", mode), ("FOREMAN_SHUTDOWN_GRACE", grace)]);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        Self { child, log }
    }

    fn wait_for(&mut self, text: &str) {
        let mut line = String::new();
        loop {
            line.clear();
            assert_ne!(self.log.read_line(&mut line).unwrap(), 0, "the log ended before {text:?}");
            if line.contains(text) {
                return;
            }
        }
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    fn end(mut self) -> (Option<i32>, String) {
        let mut rest = String::new();
        self.log.read_to_string(&mut rest).unwrap();
        let status = self.child.wait().unwrap();
        assert_eq!(status.signal(), None);
        (status.code(), rest)
    }
}

#[test]
fn help_lists_every_setting_with_its_default_and_version_is_one_line() {
    let (status, text, _) = run(&[], &["--help"]);
    assert_eq!(status, Some(0));
    for part in [
        "Usage: probe",
        "DATABASE_URL\n",
        "default: required",
        "FOREMAN_DB_POOL\n",
        "default: 16",
        "PROBE_MODE",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    assert_eq!(run(&[], &["--version"]), (Some(0), "probe 1.2.3\n".to_owned(), String::new()));
}

#[test]
fn a_wrong_argument_or_setting_ends_in_one_line_and_status_2() {
    let (status, _, told) = run(&[], &["--port=80"]);
    assert_eq!(status, Some(2));
    assert_eq!(
        told,
        "probe: \"--port=80\" is not known; settings are environment variables, see probe --help\n"
    );

    let (status, _, told) = run(&[("PROBE_MODE", "dance")], &[]);
    assert_eq!(status, Some(2));
    assert_eq!(
        told,
        "probe: PROBE_MODE is \"dance\": expected obedient or stubborn or panics or fails or waits\n"
    );

    let (status, _, told) = run(&[("FOREMAN_LOG", "inof")], &[]);
    assert_eq!((status, told.lines().count()), (Some(2), 1), "{told}");
}

#[test]
fn a_start_that_fails_is_told_in_one_line_and_status_1() {
    let (status, _, told) = run(&[("PROBE_MODE", "fails"), ("FOREMAN_LOG", "off")], &[]);
    assert_eq!((status, told.as_str()), (Some(1), "probe: the database is not there\n"));
}

#[test]
fn a_misspelt_variable_is_warned_of() {
    let (_, _, log) = run(&[("PROBE_MODE", "fails"), ("FOREMAN_DB_POL", "1")], &[]);
    assert!(log.contains("FOREMAN_DB_POL is set but unknown; FOREMAN_DB_POOL was perhaps meant"), "{log}");
}

#[test]
fn sigterm_and_sigint_end_a_service_cleanly_even_while_it_starts() {
    for (mode, reached, signal) in
        [("obedient", "started", "-TERM"), ("obedient", "started", "-INT"), ("waits", "waiting", "-TERM")]
    {
        let mut probe = Running::start(mode, "25s");
        probe.wait_for(reached);
        probe.signal(signal);
        let (status, log) = probe.end();
        assert_eq!(status, Some(0), "{log}");
        assert!(log.contains("probe has stopped"), "{log}");
    }
}

#[test]
fn a_second_signal_ends_it_now_with_the_status_of_the_signal() {
    for (signal, expected) in [("-TERM", 143), ("-INT", 130)] {
        let mut probe = Running::start("stubborn", "1h");
        probe.wait_for("started");
        probe.signal("-TERM");
        probe.wait_for("stopping");
        probe.signal(signal);
        let (status, log) = probe.end();
        assert_eq!(status, Some(expected), "{log}");
    }
}

#[test]
fn a_task_that_would_not_end_is_named_and_dropped_when_the_grace_ends() {
    let mut probe = Running::start("stubborn", "1s");
    probe.wait_for("started");
    probe.signal("-TERM");
    let (status, log) = probe.end();
    assert_eq!(status, Some(1), "{log}");
    assert!(log.contains("tasks would not end within the grace"), "{log}");
    assert!(log.contains(r#""running":"stubborn""#), "{log}");
}

#[test]
fn a_panic_in_a_task_ends_the_process_and_every_line_of_its_log_is_json() {
    let (status, log) = Running::start("panics", "25s").end();
    assert_eq!(status, Some(1), "{log}");
    assert!(log.contains("a thread panicked: as told"), "{log}");
    assert!(log.contains(r#""task":"panics""#), "{log}");
    for line in log.lines() {
        assert!(serde_json::from_str::<serde_json::Value>(line).is_ok(), "{line}");
    }
}
