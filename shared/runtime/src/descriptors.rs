//! File descriptors: each connection is one, and a process gets 1,024 of them unless it asks for more.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Descriptors that are not for clients of one listener: connections to Postgres, the other listener, and those that were
/// told to close and are about to.
const OTHERS: u64 = 256;

/// Asks the system for as many as it may give. The limit that it sets by default is for programs that use `select`.
pub(crate) fn raise() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}

/// How many connections a listener may have that wants so many.
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
    // Where there are very few, half of them must do for the others.
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
