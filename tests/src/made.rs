//! The tools of others that tests run, which `deploy/test` installs. Must never install anything itself.

use std::env;
use std::path::PathBuf;

/// A path in the target directory, or the path in this variable.
pub fn made(path: &str, variable: &str) -> PathBuf {
    let in_target = || {
        // target/<profile>/deps/<test>
        Some(env::current_exe().ok()?.ancestors().nth(3)?.join(path))
    };
    let made =
        env::var_os(variable).map(PathBuf::from).or_else(in_target).expect("a test is a file in target");
    assert!(made.exists(), "{} is missing: run `deploy/test` once, which installs it", made.display());
    made
}
