//! Real processes: started with an environment of their own, stopped with real signals. If the test fails, their logs
//! are shown. No process outlives its test.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus},
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use nix::sys::signal::kill;
pub use nix::{sys::signal::Signal, unistd::Pid};

use crate::{binaries, eventually, last_will::LastWill};

/// How many lines of a log are shown when a test fails.
const LINES_SHOWN: usize = 60;

/// One program of this workspace, running or ended.
#[derive(Debug)]
pub struct Process {
    binary: String,
    arguments: Vec<String>,
    settings: Vec<(String, String)>,
    log: PathBuf,
    running: Option<(Child, LastWill)>,
}

impl Process {
    /// Starts `binary`, a program of this workspace or the path of any other program. Its environment has only these
    /// settings and our `PATH`.
    pub fn start(binary: &str, arguments: &[&str], settings: &[(&str, &str)]) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = Path::new(binary).file_name().expect("a program has a name").display();
        let mut process = Self {
            binary: binary.to_owned(),
            arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
            settings: settings.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect(),
            log: env::temp_dir().join(format!("foreman-tests-{}-{number}-{name}.log", std::process::id())),
            running: None,
        };
        process.start_again();
        process
    }

    /// Starts the program again with the same arguments and settings. The log continues.
    pub fn start_again(&mut self) {
        assert!(self.running.is_none(), "{} still runs", self.binary);
        let log =
            fs::File::options().create(true).append(true).open(&self.log).expect("a log can be written");
        let child = Command::new(binaries::binary(&self.binary))
            .args(&self.arguments)
            .env_clear()
            .envs(env::var_os("PATH").map(|path| ("PATH", path)))
            .envs(self.settings.iter().map(|(name, value)| (name, value)))
            .stdout(log.try_clone().expect("a file handle can be cloned"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{} cannot be started: {error}", self.binary));
        let will = LastWill::write(&format!("kill -KILL {}", child.id()));
        self.running = Some((child, will));
    }

    pub fn id(&self) -> Pid {
        let (child, _) = self.running.as_ref().expect("the process runs");
        Pid::from_raw(child.id().try_into().expect("a process id is a small number"))
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.id(), signal)
            .unwrap_or_else(|error| panic!("{signal} cannot be sent to {}: {error}", self.binary));
    }

    /// Kills the process with SIGKILL, and returns when it is gone.
    pub async fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        self.ended().await;
    }

    /// Asks the process to stop with SIGTERM, and returns when it has ended. Panics if it failed.
    pub async fn terminate(&mut self) {
        self.signal(Signal::SIGTERM);
        let status = self.ended().await;
        assert!(status.success(), "{} was told to stop and ended with {status}", self.binary);
    }

    /// Waits for the end of the process.
    pub async fn ended(&mut self) -> ExitStatus {
        let what = format!("the end of {}", self.binary);
        eventually(&what, async || self.has_ended().ok_or("it still runs")).await
    }

    /// The exit status, or `None` while the process runs.
    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        let status = self.running.as_mut()?.0.try_wait().expect("the process is our child")?;
        let (_reaped, will) = self.running.take()?;
        // Another process may soon get the same number.
        will.revoke();
        Some(status)
    }

    /// Everything that the program has written since its first start.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).expect("the log can be read")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some((mut child, will)) = self.running.take() {
            drop(will);
            let _killed = child.wait();
        }
        if thread::panicking() {
            show(&self.binary, &self.log());
        }
        let _removed = fs::remove_file(&self.log);
    }
}

#[expect(clippy::print_stderr, reason = "the test harness shows what a failing test has written there")]
fn show(binary: &str, log: &str) {
    let lines: Vec<&str> = log.lines().collect();
    let end = &lines[lines.len().saturating_sub(LINES_SHOWN)..];
    eprintln!("--- {binary}, last of {} lines:\n{}\n---", lines.len(), end.join("\n"));
}
