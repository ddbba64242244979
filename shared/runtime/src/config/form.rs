//! Parsers for the values of settings. Each error says which form was expected, with an example.

use std::fmt::{self, Display};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use bytesize::ByteSize;

/// Any text.
pub fn text(value: &str) -> Result<String, String> {
    Ok(value.to_owned())
}

pub fn yes_no(value: &str) -> Result<bool, String> {
    choice(&[("yes", true), ("no", false)])(value)
}

/// One of a few words.
pub fn choice<T: Copy>(words: &[(&'static str, T)]) -> impl Fn(&str) -> Result<T, String> {
    move |value| {
        words.iter().find(|(word, _)| *word == value).map(|(_, meaning)| *meaning).ok_or_else(|| {
            let words: Vec<_> = words.iter().map(|(word, _)| *word).collect();
            format!("expected {}", words.join(" or "))
        })
    }
}

/// A list separated by commas. Spaces around an entry are ignored. An empty entry is refused.
pub fn list<T, E: Display>(entry: impl Fn(&str) -> Result<T, E>) -> impl Fn(&str) -> Result<Vec<T>, String> {
    move |value| {
        value
            .split(',')
            .map(|part| match part.trim() {
                "" => Err("expected entries separated by commas, but one of them is empty".to_owned()),
                part => entry(part).map_err(|problem| problem.to_string()),
            })
            .collect()
    }
}

/// A whole number.
pub fn integer<T>(range: RangeInclusive<T>) -> impl Fn(&str) -> Result<T, String>
where
    T: FromStr + PartialOrd + Display,
{
    move |value| {
        value
            .parse()
            .ok()
            .filter(|number| range.contains(number))
            .ok_or_else(|| format!("expected a whole number from {} to {}", range.start(), range.end()))
    }
}

/// `20s`, `10m`, `1h 30m`, `7d`.
pub fn duration(range: RangeInclusive<Duration>) -> impl Fn(&str) -> Result<Duration, String> {
    move |value| {
        humantime::parse_duration(value).ok().filter(|duration| range.contains(duration)).ok_or_else(|| {
            let (least, most) = range.clone().into_inner();
            format!(
                "expected a duration such as 20s, 10m or 7d, from {} to {}",
                humantime::format_duration(least),
                humantime::format_duration(most)
            )
        })
    }
}

/// `256KiB`, `32MiB`, or plain bytes.
pub fn byte_size(range: RangeInclusive<u64>) -> impl Fn(&str) -> Result<u64, String> {
    move |value| {
        value.parse().ok().map(|size: ByteSize| size.as_u64()).filter(|size| range.contains(size)).ok_or_else(
            || {
                let (least, most) = range.clone().into_inner();
                format!(
                    "expected a size such as 256KiB or 32MiB, from {} to {}",
                    ByteSize(least),
                    ByteSize(most)
                )
            },
        )
    }
}

/// `10%`, returned as a fraction. 0% and 100% are refused, because no setting makes sense with either. The sign is needed,
/// because 0.1 could mean a tenth or a thousandth.
pub fn percent(value: &str) -> Result<f64, String> {
    value
        .strip_suffix('%')
        .and_then(|number| number.trim_end().parse::<f64>().ok())
        .filter(|percent| *percent > 0.0 && *percent < 100.0)
        .map(|percent| percent / 100.0)
        .ok_or_else(|| "write 10% for a tenth; more than 0% and less than 100%".to_owned())
}

pub fn socket_addr(value: &str) -> Result<SocketAddr, String> {
    value.parse().map_err(|_| {
        "expected an IP address and a port, such as 127.0.0.1:8080, 0.0.0.0:8080 or [::1]:8080".to_owned()
    })
}

/// `postgres://user:password@host:port/database`. This checks the scheme only; the store checks the rest when it
/// connects.
pub fn database_url(value: &str) -> Result<String, String> {
    if value.starts_with("postgres://") || value.starts_with("postgresql://") {
        Ok(value.to_owned())
    } else {
        Err("expected a URL such as postgres://user:password@host:5432/database".to_owned())
    }
}

/// The key that encrypts stored secrets, and with which api and worker prove to each other who they are.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretKey([u8; 32]);

impl SecretKey {
    pub fn parse(value: &str) -> Result<Self, String> {
        let bytes = STANDARD.decode(value).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or_else(|| {
            "expected base64 of 32 bytes; make one with `head -c 32 /dev/urandom | base64`".to_owned()
        })
    }

    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// The key of an installation and, while it is being replaced, the one before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretKeys {
    pub current: SecretKey,
    pub previous: Option<SecretKey>,
}

impl SecretKeys {
    pub fn previous_bytes(&self) -> Option<&[u8; 32]> {
        self.previous.as_ref().map(SecretKey::bytes)
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(hidden)")
    }
}
