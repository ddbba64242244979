//! The exit codes of `foreman`, which scripts rely on. `foreman --help` lists them.

use std::process::ExitCode;

use foreman_runtime::ConfigError;

/// What became of the job, for `submit --wait` and `watch`.
pub(crate) const JOB_FAILED: u8 = 3;
pub(crate) const JOB_CANCELLED: u8 = 4;
pub(crate) const JOB_EXPIRED: u8 = 5;

const FAILED: u8 = 1;
/// The same as clap's, and as a service's that is misconfigured.
const MISUSED: u8 = 2;

pub(crate) const HELP: &str = "\
Exit codes:
  0  done
  1  it failed, and standard error says why
  2  wrong arguments or settings
  3  the job failed     (submit --wait, watch)
  4  it was cancelled
  5  it expired";

pub(crate) fn of_error(error: &anyhow::Error) -> ExitCode {
    ExitCode::from(if error.is::<ConfigError>() { MISUSED } else { FAILED })
}
