//! The programs under test, built once a test process: `cargo test` alone builds only what it tests, and a stale
//! binary tested is worse than none.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
};

/// The directory with the fresh binaries.
static FRESH: LazyLock<PathBuf> = LazyLock::new(build);

/// Where the binary `name` of this workspace lies, built from the sources as they are now.
pub(crate) fn binary(name: &str) -> PathBuf {
    FRESH.join(name)
}

fn build() -> PathBuf {
    // target/<profile>/deps/<test>
    let test = env::current_exe().expect("a test knows its path");
    let profile_dir = test.ancestors().nth(2).expect("a test lies in target/<profile>/deps").to_path_buf();
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args(["build", "--quiet", "--workspace", "--bins", "--target-dir"])
        .arg(profile_dir.parent().expect("a profile lies in the target directory"))
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    if profile_dir.ends_with("release") {
        cargo.arg("--release");
    }
    // What cargo told this test about its own package would make build scripts run again.
    for (name, _) in env::vars_os() {
        if name
            .to_str()
            .is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_"))
        {
            cargo.env_remove(name);
        }
    }
    let built = cargo.status().expect("cargo can be started");
    assert!(built.success(), "the binaries do not build: run `cargo build --workspace --bins`");
    profile_dir
}
