//! CPU time and memory of other processes, from `/proc`. CPU time tells what a unit costs, even if the machine is busy with other
//! work.

use std::fs;
use std::time::Duration;

use anyhow::Context as _;
use foreman_tests::{Db, Pid};

/// The unit of times in `/proc`, whatever tick the kernel uses (proc(5); `sysconf(_SC_CLK_TCK)` on every Linux).
const TICK: Duration = Duration::from_millis(10);

/// The content of one line of `/proc/PID/stat`.
struct Stat {
    parent: i32,
    /// CPU time of all threads of the process.
    own: Duration,
    /// CPU time of those children that have ended and that the process has waited for.
    of_the_ended: Duration,
}

/// The CPU time of a process since its start.
pub(crate) fn of(process: Pid) -> Duration {
    Stat::read(process.as_raw()).expect("the process runs").own
}

/// The most memory that a process has used so far, in bytes.
pub(crate) fn memory_of(process: Pid) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("it has no memory")?;
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kilobytes << 10)
}

/// The CPU time of Postgres since its start: of the postmaster and of all its children, including ended ones.
pub(crate) async fn of_postgres(db: &Db) -> Duration {
    let backend = db.value("SELECT pg_backend_pid()").await;
    let postmaster = Stat::read(backend).expect("the backend that answered runs").parent;
    let processes = fs::read_dir("/proc").expect("Linux has /proc").flatten();
    let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let stats = ids.filter_map(|id| Some((id, Stat::read(id)?)));
    let ours = stats.filter(|(id, stat)| *id == postmaster || stat.parent == postmaster);
    ours.map(|(_, stat)| stat.own + stat.of_the_ended).sum()
}

impl Stat {
    /// `None` if the process does not exist any more.
    fn read(id: i32) -> Option<Self> {
        let line = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        // The name before this point stands in parentheses and may contain any character.
        let (_, fields) = line.rsplit_once(')')?;
        let fields: Vec<i64> =
            fields.split_whitespace().skip(1).map(|field| field.parse().unwrap_or_default()).collect();
        let ticks = |field: usize| Some(TICK * u32::try_from(*fields.get(field)?).ok()?);
        Some(Self {
            parent: i32::try_from(*fields.first()?).ok()?,
            own: ticks(10)? + ticks(11)?,
            of_the_ended: ticks(12)? + ticks(13)?,
        })
    }
}
