//! What docker-compose.yml says must be what the programs understand: nobody else reads it before it is started.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use foreman_runtime::settings;

/// Read by the compose file and the scripts beside it, and by no program.
const OF_COMPOSE: [&str; 3] = ["FOREMAN_PORT", "FOREMAN_PROMETHEUS_PORT", "FOREMAN_SECRETS"];

fn file(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)).unwrap()
}

#[test]
fn every_setting_in_the_compose_file_is_one_that_a_program_reads() {
    let known: BTreeSet<_> = settings::ALL.iter().copied().flatten().map(|setting| setting.name).collect();
    let compose = file("docker-compose.yml");
    let names = compose.split(|c: char| !(c.is_ascii_uppercase() || c == '_'));
    let named: BTreeSet<_> = names.filter(|name| name.starts_with("FOREMAN_")).collect();
    assert!(named.contains("FOREMAN_HOST_ID"), "{named:?}");
    for name in named {
        let setting = name.strip_suffix("_FILE").unwrap_or(name);
        assert!(known.contains(setting) || OF_COMPOSE.contains(&name), "{name} is no setting");
    }
}

#[test]
fn the_image_is_built_with_the_toolchain_of_this_repository() {
    let toolchain = file("rust-toolchain.toml");
    let (_, rest) = toolchain.split_once("channel = \"").unwrap();
    let (version, _) = rest.split_once('"').unwrap();
    assert!(file("deploy/Dockerfile").contains(&format!("\nFROM rust:{version}-")), "not {version}");
}
