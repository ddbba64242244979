//! The exit codes of `foreman`, which scripts rely on. `foreman --help` lists them.

use std::process::ExitCode;

use foreman_runtime::ConfigError;

use crate::terminal::PrintError;

pub(crate) const FAILED: u8 = 1;
/// The same code as clap uses, and as our services use for a wrong setting.
const MISUSED: u8 = 2;

/// What became of the job, for `submit --wait` and `watch`.
pub(crate) const JOB_FAILED: u8 = 3;
pub(crate) const JOB_CANCELLED: u8 = 4;
pub(crate) const JOB_EXPIRED: u8 = 5;

/// Some lines of a file, or some of several ids, were refused.
pub(crate) const SOME_REFUSED: u8 = 6;

/// `doctor` found trouble.
pub(crate) const TROUBLE: u8 = 7;

/// The codes that a shell gives a program which SIGINT or SIGPIPE ended.
pub(crate) const INTERRUPTED: u8 = 130;
const READER_GONE: u8 = 141;

pub(crate) const HELP: &str = "\
Exit codes:
    0  done
    1  it failed, and standard error says why
    2  wrong arguments or settings
    3  the job failed        (submit --wait, submit --listen, watch)
    4  it was cancelled
    5  it expired
    6  some were refused, the others went well  (submit --file, cancel, retry)
    7  something is wrong with the installation  (doctor)
  130  interrupted with Ctrl-C  (submit --file: the same command goes on from there)
  141  standard output was closed early, as by `| head`";

/// The exit code for an error that is not worth a message, because nobody reads the output any more.
pub(crate) fn quietly(error: &anyhow::Error) -> Option<ExitCode> {
    let gone = matches!(error.downcast_ref(), Some(PrintError::ReaderGone));
    gone.then(|| READER_GONE.into())
}

pub(crate) fn of_error(error: &anyhow::Error) -> ExitCode {
    ExitCode::from(if error.is::<ConfigError>() { MISUSED } else { FAILED })
}
