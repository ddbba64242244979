//! The programs under test, built once per test process: `cargo test` builds only the tests, and a test of an old
//! binary would prove nothing.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
};

/// The directory with the newly built binaries.
static FRESH: LazyLock<PathBuf> = LazyLock::new(build);

/// The path of the binary `name` of this workspace, built from the current sources. A path is returned unchanged.
pub(crate) fn binary(name: &str) -> PathBuf {
    let path = Path::new(name);
    if path.is_absolute() { path.to_path_buf() } else { FRESH.join(name) }
}

/// Builds these packages alone and with production settings. Returns the directory of their binaries.
pub fn built_for_release(packages: &[&str]) -> PathBuf {
    let target_dir = parent(&own_profile_dir());
    let named = packages.iter().flat_map(|package| ["--package", package]);
    cargo_build(named.chain(["--release"]), &target_dir);
    target_dir.join("release")
}

fn build() -> PathBuf {
    let profile_dir = own_profile_dir();
    let release = profile_dir.ends_with("release").then_some("--release");
    cargo_build(["--workspace", "--bins"].into_iter().chain(release), &parent(&profile_dir));
    profile_dir
}

/// A program lies in `target/<profile>`, and a test in its subdirectory `deps`.
fn own_profile_dir() -> PathBuf {
    let own = env::current_exe().expect("a program knows its path");
    let dir = parent(&own);
    if dir.ends_with("deps") { parent(&dir) } else { dir }
}

fn parent(path: &Path) -> PathBuf {
    path.parent().expect("a program lies in target/<profile>").to_path_buf()
}

fn cargo_build<'a>(what: impl Iterator<Item = &'a str>, target_dir: &Path) {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args(["build", "--quiet", "--target-dir"])
        .arg(target_dir)
        .args(what)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    // Cargo's variables about this package would make build scripts run again.
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
}
