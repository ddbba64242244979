//! The disk under `foreman up`. Of a Postgres elsewhere nobody but its own machine knows.

use std::path::Path;

use nix::sys::statvfs::statvfs;

use super::finding::Finding;

/// Postgres stops when its log finds no room; this is what a busy day may write.
const LEAST: u64 = 2 << 30;

pub(super) async fn look(home: &Path) -> anyhow::Result<Finding> {
    let disk = statvfs(home)?;
    Ok(judge(disk.blocks_available() as u64 * disk.fragment_size() as u64, home))
}

fn judge(free: u64, home: &Path) -> Finding {
    let what =
        format!("{:.1} GiB are free on the disk of {}.", free as f64 / (1_u64 << 30) as f64, home.display());
    if free < LEAST {
        Finding::trouble(
            what,
            "make room there, or shorten FOREMAN_JOB_TTL; Postgres stops when none is left",
        )
    } else {
        Finding::ok(what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Level;

    #[test]
    fn a_disk_that_is_nearly_full_is_trouble() {
        let home = Path::new("/var/lib/foreman");
        assert_eq!(judge(LEAST - 1, home).level, Level::Trouble);
        assert_eq!(judge(LEAST, home).level, Level::Ok);
    }
}
