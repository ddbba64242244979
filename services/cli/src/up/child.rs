//! A process that `foreman up` keeps alive: started below a tether, started again when it dies, stopped on request.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::environment::Environment;
use super::home::Home;
use crate::tether::{LAST, NEXT, Shown};

const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A child that lived for this long was started well, so its next restart comes quickly again.
const STEADY: Duration = Duration::from_secs(60);

/// The exit code of our services for wrong settings: no restart will help.
const MISCONFIGURED: i32 = 2;

/// What to run, and how to end it.
pub(super) struct Spec {
    pub(super) name: &'static str,
    pub(super) command: Vec<OsString>,
    pub(super) environment: Environment,
    /// UID:GID, where it is not ours.
    pub(super) owner: Option<String>,
    pub(super) shown: Shown,
    pub(super) ending: Ending,
}

/// The signals that end a program, the most polite first.
#[derive(Clone, Copy)]
pub(super) struct Ending {
    signals: &'static str,
    /// How many of them an orderly stop takes at once.
    steps: usize,
    patience: Duration,
}

impl Ending {
    /// A service of ours gets its grace.
    pub(super) fn service(grace: Duration) -> Self {
        Self { signals: "SIGTERM,SIGKILL", steps: 1, patience: grace + Duration::from_secs(5) }
    }

    /// Waits for its clients, throws them out, leaves the rest to crash recovery. Where everything stops at once
    /// because `up` was killed, waiting for its clients lets the services hand their work back.
    pub(super) fn postgres(grace: Duration) -> Self {
        Self { signals: "SIGTERM,SIGINT,SIGQUIT", steps: 2, patience: grace + Duration::from_secs(5) }
    }
}

/// The death of a child that nobody asked for.
pub(super) struct Death {
    pub(super) name: &'static str,
    pub(super) how: String,
    /// None where it will not be started again.
    pub(super) again_in: Option<Duration>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wish {
    Run,
    Stop,
    StopNow,
}

pub(super) struct Child {
    name: &'static str,
    wish: watch::Sender<Wish>,
    kept: JoinHandle<()>,
}

impl Child {
    pub(super) fn keep(spec: Spec, home: &Home, deaths: mpsc::UnboundedSender<Death>) -> io::Result<Self> {
        let tether = Tether {
            foreman: std::env::current_exe()?,
            lock: home.lock_of(spec.name),
            log: home.log_of(spec.name),
            spec,
        };
        let (wish, wishes) = watch::channel(Wish::Run);
        Ok(Self { name: tether.spec.name, wish, kept: tokio::spawn(tether.keep(wishes, deaths)) })
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// Asks it to stop, and waits until it has.
    pub(super) async fn stop(&mut self) {
        self.wish.send_replace(Wish::Stop);
        self.ended().await;
    }

    pub(super) fn stop_now(&self) {
        self.wish.send_replace(Wish::StopNow);
    }

    pub(super) async fn ended(&mut self) {
        if !self.kept.is_finished() {
            // It neither panics nor is aborted.
            let _ended = (&mut self.kept).await;
        }
    }
}

struct Tether {
    foreman: PathBuf,
    lock: PathBuf,
    log: PathBuf,
    spec: Spec,
}

impl Tether {
    async fn keep(self, mut wishes: watch::Receiver<Wish>, deaths: mpsc::UnboundedSender<Death>) {
        let mut pause = FIRST_PAUSE;
        while *wishes.borrow_and_update() == Wish::Run {
            let began = Instant::now();
            let ended = self.run_once(&mut wishes).await;
            if *wishes.borrow() != Wish::Run {
                break;
            }
            if began.elapsed() > STEADY {
                pause = FIRST_PAUSE;
            }
            let for_good = matches!(&ended, Ok(status) if status.code() == Some(MISCONFIGURED));
            let death = Death {
                name: self.spec.name,
                how: ended.map_or_else(|error| format!("could not be run: {error}"), how),
                again_in: (!for_good).then_some(pause),
            };
            // Whoever listened is stopping everything.
            let _nobody_listens = deaths.send(death);
            if for_good {
                break;
            }
            tokio::select! {
                () = sleep(pause) => {}
                _ = wishes.changed() => {}
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// From start to end.
    async fn run_once(&self, wishes: &mut watch::Receiver<Wish>) -> io::Result<ExitStatus> {
        let mut child = self.command().spawn()?;
        let group = child.id().map(|pid| Pid::from_raw(pid.cast_signed()));
        let mut pipe = child.stdin.take();
        let status = loop {
            tokio::select! {
                status = child.wait() => break status?,
                Ok(()) = wishes.changed() => {
                    let steps = match *wishes.borrow_and_update() {
                        Wish::Run => vec![],
                        Wish::Stop => vec![NEXT; self.spec.ending.steps],
                        Wish::StopNow => vec![LAST],
                    };
                    if let Some(pipe) = &mut pipe {
                        // An error means that it has ended, which `wait` is about to say.
                        let _ended = pipe.write_all(&steps).await;
                    }
                }
            }
        };
        if let (Some(_), Some(group)) = (status.signal(), group) {
            // The tether was killed, not its child: nothing holds that any more, so it must not live on.
            let _already_gone = killpg(group, Signal::SIGKILL);
        }
        Ok(status)
    }

    fn command(&self) -> Command {
        let spec = &self.spec;
        let mut command = std::process::Command::new(&self.foreman);
        command.arg("tether").args(["--name", spec.name, "--signals", spec.ending.signals]);
        command.arg("--lock").arg(&self.lock).arg("--log").arg(&self.log);
        command.arg("--patience").arg(spec.ending.patience.as_secs().to_string());
        command.arg("--show").arg(match spec.shown {
            Shown::All => "all",
            Shown::Warnings => "warnings",
            Shown::Nothing => "nothing",
        });
        if let Some(owner) = &spec.owner {
            command.args(["--owner", owner]);
        }
        command.arg("--").args(&spec.command);
        spec.environment.apply(&mut command);
        // Ctrl-C goes to every process of the terminal's group: a group of its own, or Postgres would stop first.
        command.stdin(Stdio::piped()).process_group(0);
        command.into()
    }
}

/// A tether ends as its child does, and says 128 + n for a child that signal n ended.
fn how(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) if code > 128 => format!("was ended by signal {}", code - 128),
        (Some(code), _) => format!("ended with status {code}"),
        (None, Some(signal)) => format!("lost its tether to signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}
