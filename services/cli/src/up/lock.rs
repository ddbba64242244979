//! Locks that tell which processes live. The kernel frees a lock when its holder ends, in whatever way. Never believe the
//! process id in a file unless the lock on that file is held.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::unistd::Pid;
use tokio::time::{Instant, sleep};

/// Waiting for a lock without polling would need a thread that blocks.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// The file, locked; or None and the process id in it, if there is one, while another process holds it.
pub(crate) fn try_take(path: &Path) -> io::Result<Result<File, Option<Pid>>> {
    let mut file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(Ok(file)),
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            file.read_to_string(&mut text)?;
            Ok(Err(text.trim().parse().ok().filter(|pid| *pid > 1).map(Pid::from_raw)))
        }
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Whether a process holds it now.
pub(crate) fn is_held(path: &Path) -> bool {
    // A file that is not there, or not for us to read, is held by nobody that we could do something with.
    File::open(path).is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

/// The file, locked as soon as it is free.
pub(crate) async fn take_within(path: &Path, time: Duration) -> anyhow::Result<File> {
    let deadline = Instant::now() + time;
    loop {
        match try_take(path).with_context(|| format!("{} cannot be locked", path.display()))? {
            Ok(file) => return Ok(file),
            Err(_) if Instant::now() < deadline => sleep(LOOK_AGAIN).await,
            Err(holder) => bail!(
                "{} is still held by {}; end that process",
                path.display(),
                holder.map_or("a process that cannot be named".to_owned(), |pid| format!("process {pid}"))
            ),
        }
    }
}
