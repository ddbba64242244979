//! File descriptors. Each connection needs one, and a process gets only 1,024 unless it asks for more.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Descriptors kept for other things than the clients of one listener: connections to Postgres, the other listener, and
/// connections that were told to close and have not closed yet.
const OTHERS: u64 = 256;

/// Asks the system for as many descriptors as it may give. Its low default is for programs that use `select`.
pub(crate) fn raise() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}

/// How many connections a listener may have if it wants `wanted`.
pub(crate) fn connections(listener: &'static str, wanted: usize) -> usize {
    let Ok((files, _)) = getrlimit(Resource::RLIMIT_NOFILE) else { return wanted };
    let most = connections_of(files, wanted);
    if most < wanted {
        tracing::warn!(
            listener,
            "clients may have {most} connections instead of {wanted}, because this process may open {files} files; \
             raise the limit (ulimit -n, LimitNOFILE) to allow more"
        );
    }
    most
}

fn connections_of(files: u64, wanted: usize) -> usize {
    // If there are very few descriptors, keep half of them for the other things.
    let free = files - OTHERS.min(files / 2);
    usize::try_from(free).unwrap_or(usize::MAX).min(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_descriptors_for_everything_else() {
        assert_eq!(connections_of(1_048_576, 8_192), 8_192);
        assert_eq!(connections_of(u64::MAX, 8_192), 8_192);
        assert_eq!(connections_of(1_024, 8_192), 768);
        assert_eq!(connections_of(256, 8_192), 128);
        assert_eq!(connections_of(256, 64), 64);
    }
}
