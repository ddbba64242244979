//! Which values settings accept, and what each refusal says. The refusal is all that an operator sees.

use std::fs;
use std::time::Duration;

use super::*;
use crate::settings;

const POOL: Setting = Setting::with_default("FOREMAN_DB_POOL", "16", "connections");
const URL: Setting = Setting::required("DATABASE_URL", "Postgres, as postgres://…").secret();
const ID: Setting = Setting::optional("FOREMAN_HOST_ID", "the URL", "which host");

fn read<T, E: std::fmt::Display>(value: &str, form: impl FnOnce(&str) -> Result<T, E>) -> Result<T, String> {
    Env::from_pairs([("FOREMAN_HOST_ID", value)]).read(&ID, form).map_err(|error| error.to_string())
}

#[test]
fn a_value_is_the_variables_else_the_default_else_nothing() {
    let env = Env::from_pairs([("FOREMAN_HOST_ID", "gpu-1")]);
    assert_eq!(env.read(&ID, form::text).unwrap(), "gpu-1");
    assert_eq!(env.read(&POOL, form::integer(1..=64)).unwrap(), 16);
    assert_eq!(Env::from_pairs([]).read_optional(&ID, form::text).unwrap(), None);
}

#[test]
fn a_variable_set_to_nothing_counts_as_not_set() {
    let env = Env::from_pairs([("FOREMAN_DB_POOL", ""), ("FOREMAN_HOST_ID", "")]);
    assert_eq!(env.read(&POOL, form::integer(1..=64)).unwrap(), 16);
    assert_eq!(env.read_optional(&ID, form::text).unwrap(), None);
}

#[test]
fn a_missing_value_is_told_with_what_to_set() {
    assert_eq!(
        Env::from_pairs([]).read(&URL, form::text).unwrap_err().to_string(),
        "DATABASE_URL is not set; set it (or DATABASE_URL_FILE to a file that holds it) to: \
         Postgres, as postgres://…"
    );
}

#[test]
fn a_wrong_value_is_told_in_one_line_with_the_value_and_what_was_expected() {
    let error =
        Env::from_pairs([("FOREMAN_DB_POOL", "many\nmore")]).read(&POOL, form::integer(1..=64)).unwrap_err();
    assert_eq!(error.to_string(), r#"FOREMAN_DB_POOL is "many\nmore": expected a whole number from 1 to 64"#);
    let long = "9".repeat(1_000);
    let error =
        Env::from_pairs([("FOREMAN_DB_POOL", long.as_str())]).read(&POOL, form::integer(1..=64)).unwrap_err();
    assert!(error.to_string().len() < 200);
}

#[test]
fn a_secret_is_never_shown_in_an_error() {
    let env = Env::from_pairs([("DATABASE_URL", "mysql://user:hunter2@db/")]);
    assert_eq!(
        env.read(&URL, form::database_url).unwrap_err().to_string(),
        "DATABASE_URL: expected a URL such as postgres://user:password@host:5432/database"
    );
    assert!(settings::ALL.iter().copied().flatten().all(|setting| {
        let holds_one = ["SECRET", "API_KEY", "DATABASE"].iter().any(|word| setting.name.contains(word));
        setting.is_secret == holds_one
    }));
}

#[test]
fn a_rule_between_settings_is_refused_under_the_name_of_one() {
    let error = ConfigError::refused(&POOL, "too few for\nthe roles; use 4");
    assert_eq!(error.to_string(), "FOREMAN_DB_POOL: too few for the roles; use 4");
}

#[test]
fn a_file_holds_the_value_but_for_one_line_break() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("value");
    for (content, value) in [("a", "a"), ("a\n", "a"), ("a\r\n", "a"), ("a\n\n", "a\n"), (" a ", " a ")] {
        fs::write(&path, content).unwrap();
        let env = Env::from_pairs([("FOREMAN_HOST_ID_FILE", path.to_str().unwrap())]);
        assert_eq!(env.read(&ID, form::text).unwrap(), value, "{content:?}");
    }
    fs::write(&path, "\n").unwrap();
    let env = Env::from_pairs([("FOREMAN_HOST_ID_FILE", path.to_str().unwrap())]);
    assert!(matches!(env.read(&ID, form::text), Err(ConfigError::EmptyFile { .. })));
}

#[test]
fn a_file_that_cannot_be_read_and_a_value_set_twice_are_told() {
    let env = Env::from_pairs([("FOREMAN_HOST_ID_FILE", "/no/such/file")]);
    assert_eq!(
        env.read(&ID, form::text).unwrap_err().to_string(),
        "FOREMAN_HOST_ID_FILE: \"/no/such/file\" cannot be read (No such file or directory (os error 2)); \
         mend the path or its permissions"
    );
    let env = Env::from_pairs([("FOREMAN_HOST_ID_FILE", "/f"), ("FOREMAN_HOST_ID", "a")]);
    assert_eq!(
        env.read(&ID, form::text).unwrap_err().to_string(),
        "FOREMAN_HOST_ID and FOREMAN_HOST_ID_FILE are both set; keep one of them"
    );
    let env = Env::from_pairs([("FOREMAN_HOST_ID_FILE", "/no/such/file"), ("FOREMAN_HOST_ID", "")]);
    assert!(matches!(env.read(&ID, form::text), Err(ConfigError::File { .. })));
}

#[test]
fn durations_are_read_within_their_bounds() {
    let form = || form::duration(Duration::from_secs(2)..=Duration::from_secs(3_600));
    for (text, seconds) in [("2s", 2), ("1h", 3_600), ("1m 30s", 90), ("90s", 90)] {
        assert_eq!(read(text, form()), Ok(Duration::from_secs(seconds)));
    }
    for text in ["1s", "61m", "20", "soon", "-5s", "1e9s", "99999999999999999999s"] {
        assert_eq!(
            read(text, form()),
            Err(format!(
                "FOREMAN_HOST_ID is {text:?}: expected a duration such as 20s, 10m or 7d, from 2s to 1h"
            ))
        );
    }
}

#[test]
fn sizes_are_read_in_either_unit_within_their_bounds() {
    for (text, bytes) in [("256KiB", 262_144), ("1 MiB", 1 << 20), ("1MB", 1_000_000), ("0", 0), ("512", 512)]
    {
        assert_eq!(read(text, form::byte_size(0..=1 << 20)), Ok(bytes), "{text}");
    }
    for text in ["2MiB", "-1", "1e300", "lots", "1KiBB", "NaN", "1e30GB"] {
        let error = read(text, form::byte_size(0..=1 << 20)).unwrap_err();
        assert!(error.ends_with("expected a size such as 256KiB or 32MiB, from 0 B to 1.0 MiB"), "{error}");
    }
}

#[test]
fn percentages_are_fractions_strictly_between_nothing_and_all() {
    for (text, fraction) in [("10%", 0.1), ("50%", 0.5), ("0.5%", 0.005), ("99.9 %", 0.999)] {
        assert!((read(text, form::percent).unwrap() - fraction).abs() < 1e-9, "{text}");
    }
    for text in ["0%", "100%", "-1%", "NaN%", "inf%", "%", "ten", "0.1", "50"] {
        let error = read(text, form::percent).unwrap_err();
        assert!(error.ends_with("write 10% for a tenth; more than 0% and less than 100%"), "{error}");
    }
}

#[test]
fn words_lists_and_addresses_are_read_exactly() {
    assert_eq!(read("yes", form::yes_no), Ok(true));
    assert_eq!(
        read("true", form::yes_no),
        Err(r#"FOREMAN_HOST_ID is "true": expected yes or no"#.to_owned())
    );
    assert_eq!(read("a, b", form::list(form::text)), Ok(vec!["a".to_owned(), "b".to_owned()]));
    assert!(read("a,,b", form::list(form::text)).is_err());
    assert!(read("1,x", form::list(form::integer(0..=9))).is_err());
    assert_eq!(read("[::1]:80", form::socket_addr), Ok("[::1]:80".parse().unwrap()));
    for text in ["localhost:80", "127.0.0.1", ":80", "127.0.0.1:65536"] {
        assert!(read(text, form::socket_addr).is_err(), "{text}");
    }
}

#[test]
fn a_secret_key_is_exactly_32_bytes_and_hides_itself() {
    let key = read("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", SecretKey::parse).unwrap();
    assert_eq!(key.bytes()[31], 31);
    assert_eq!(format!("{key:?}"), "SecretKey(hidden)");
    for text in ["AAEC", "not base64", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"] {
        assert!(read(text, SecretKey::parse).is_err(), "{text}");
    }
}

#[test]
fn an_unknown_variable_of_ours_is_told_with_the_name_that_was_meant() {
    let env = Env::from_pairs([
        ("FOREMAN_DB_POL", "8"),
        ("FOREMAN_BANANA", "x"),
        ("FOREMAN_DB_POOL", "8"),
        ("FOREMAN_SECRET_KEY_FILE", "/f"),
        ("FOREMAN_LEASE_TTL", "20s"),
        ("FOREMAN_API_SERVICE_HOST", "10.0.0.1"),
        ("FOREMAN_API_PORT_8080_TCP_ADDR", "10.0.0.1"),
        ("PATH", "/bin"),
    ]);
    assert_eq!(
        env.unknown(settings::ALL),
        [
            "FOREMAN_BANANA is set but unknown; it changes nothing",
            "FOREMAN_DB_POL is set but unknown; FOREMAN_DB_POOL was perhaps meant",
        ]
    );
}

#[test]
fn what_help_lists_and_nobody_reads_is_found() {
    let env = Env::from_pairs([]);
    env.read(&POOL, form::text).unwrap();
    assert_eq!(env.unread(&[&[POOL, ID]]), ["FOREMAN_HOST_ID"]);
}

#[test]
fn no_setting_is_declared_twice() {
    let mut names: Vec<_> = settings::ALL.iter().copied().flatten().map(|setting| setting.name).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
}

#[test]
fn the_shared_readers_accept_their_own_defaults() {
    let env = Env::from_pairs([("DATABASE_URL", "postgres://localhost/f")]);
    let database = settings::shared::Database::read(&env).unwrap();
    assert_eq!((database.pool, database.pgbouncer), (16, false));
    assert_eq!(database.direct_url, "postgres://localhost/f");
    assert!(!format!("{database:?}").contains("postgres://"));
    assert_eq!(settings::shared::job_ttl(&env).unwrap(), Duration::from_secs(7 * 86_400));
    assert_eq!(settings::shared::artifact_inline_limit(&env).unwrap(), 256 << 10);
    assert_eq!(settings::shared::secret_keys(&env).unwrap(), None);
    assert_eq!(settings::shared::shutdown_grace(&env).unwrap(), Duration::from_secs(25));
}
