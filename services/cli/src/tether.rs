//! One child of `foreman up`, tied to it: when `up` ends, in whatever way, the child is asked to stop.
//!
//! `up` cannot clean up after a `kill -9`, and Postgres would not notice. So each child runs below a small process
//! that holds the other end of a pipe from `up`. It must never end before its child, and never fail for want of a
//! terminal or of a reader.

mod journal;

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use crate::up::lock;
use journal::Journal;
pub(crate) use journal::Shown;

/// The requests that `up` writes into the pipe. The end of the pipe counts as one `NEXT`.
pub(crate) const NEXT: u8 = b'n';
pub(crate) const LAST: u8 = b'l';

/// For the processes of an earlier child that are still ending, such as the backends of a killed Postgres.
const LOCK_WITHIN: Duration = Duration::from_secs(10);

/// How long to read the child's last lines after its end. A grandchild may keep the pipe open for ever.
const LAST_WORDS_WITHIN: Duration = Duration::from_millis(500);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What its lines are prefixed with.
    #[arg(long)]
    pub(crate) name: String,
    /// Held for as long as the child lives, and holds its process id.
    #[arg(long)]
    pub(crate) lock: PathBuf,
    /// Everything it says.
    #[arg(long)]
    pub(crate) log: PathBuf,
    /// Which of it is shown as well.
    #[arg(long, value_enum)]
    pub(crate) show: Shown,
    /// Signals that ask it to stop, the most polite first.
    #[arg(long, value_delimiter = ',')]
    pub(crate) signals: Vec<Signal>,
    /// Seconds between one signal and the next.
    #[arg(long)]
    pub(crate) patience: u64,
    /// UID:GID to run it as.
    #[arg(long)]
    pub(crate) owner: Option<String>,
    /// The program and its arguments.
    #[arg(last = true, required = true)]
    pub(crate) command: Vec<OsString>,
}

/// Runs the child to its end, and never returns.
pub(crate) async fn run(args: Args) -> anyhow::Result<std::convert::Infallible> {
    // A terminal, or a service manager, may send these to every process it knows. `up` decides what they mean.
    let mut ignored = Vec::new();
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        ignored.push(signal(kind)?);
    }
    let requests = pipe::Receiver::from_owned_fd(io::stdin().as_fd().try_clone_to_owned()?)
        .context("`foreman tether` belongs to `foreman up`; run that")?;
    let status = hold(&args, requests).await?;
    // Exit at once and do not return: flushing or dropping could wait for a reader that is gone.
    std::process::exit(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default()))
}

async fn hold(args: &Args, requests: pipe::Receiver) -> anyhow::Result<ExitStatus> {
    let journal = Journal::open(&args.log, &args.name, args.show)?;
    let mut lock = lock::take_within(&args.lock, LOCK_WITHIN).await?;
    // The id of an earlier child must not be read while this one holds the lock.
    lock.set_len(0)?;
    let (program, arguments) = args.command.split_first().context("no program was named")?;
    let mut command = Command::new(program);
    command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
    // The child inherits the lock as its standard input, so that it is free again only when the child is gone,
    // even where the child outlives us.
    command.stdin(lock.try_clone()?);
    if let Some((uid, gid)) = args.owner.as_deref().and_then(|owner| owner.split_once(':')) {
        command.uid(uid.parse()?).gid(gid.parse()?);
    }
    let mut child =
        command.spawn().with_context(|| format!("{} cannot be started", program.to_string_lossy()))?;
    writeln!(lock, "{}", child.id().unwrap_or_default())?;
    let mut said = JoinSet::new();
    if let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) {
        said.spawn(journal.clone().keep(stdout));
        said.spawn(journal.keep(stderr));
    }
    let mut steps = Steps::new(args, requests);
    loop {
        tokio::select! {
            status = child.wait() => {
                let _last_words = timeout(LAST_WORDS_WITHIN, said.join_all()).await;
                return Ok(status?);
            }
            signal = steps.next() => if let Some(pid) = child.id() {
                // An error means that the child has ended, which `wait` is about to say.
                let _ended = kill(Pid::from_raw(pid.cast_signed()), signal);
            }
        }
    }
}

/// The signals on the way to the child's end: each on request, or when patience with the one before is over.
struct Steps<'a> {
    signals: &'a [Signal],
    patience: Duration,
    taken: usize,
    due: Option<Instant>,
    requests: Option<pipe::Receiver>,
}

impl<'a> Steps<'a> {
    fn new(args: &'a Args, requests: pipe::Receiver) -> Self {
        let patience = Duration::from_secs(args.patience);
        Self { signals: &args.signals, patience, taken: 0, due: None, requests: Some(requests) }
    }

    /// The next signal to send, when it is time.
    async fn next(&mut self) -> Signal {
        loop {
            let request = tokio::select! {
                request = read(&mut self.requests) => request,
                () = at(self.due) => Some(NEXT),
            };
            match request {
                Some(LAST) => self.taken = self.taken.max(self.signals.len().saturating_sub(1)),
                // The end of the pipe asks for the first step alone; patience does the rest.
                None if self.taken > 0 => continue,
                _ => {}
            }
            let signal = self.signals.get(self.taken).or(self.signals.last());
            self.taken += 1;
            self.due = Some(Instant::now() + self.patience);
            if let Some(signal) = signal {
                return *signal;
            }
        }
    }
}

/// One request; None once, at the end of the pipe.
async fn read(requests: &mut Option<pipe::Receiver>) -> Option<u8> {
    match requests {
        Some(pipe) => match pipe.read_u8().await {
            Ok(request) => Some(request),
            Err(_) => {
                *requests = None;
                None
            }
        },
        None => std::future::pending().await,
    }
}

async fn at(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}
