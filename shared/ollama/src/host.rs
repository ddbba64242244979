//! `OLLAMA_HOST`, read as Ollama's own programs read it.
//!
//! Must never guess. Where Ollama would warn and go on, for a port that is no number for instance, we refuse: a
//! worker that does not start is better than one that silently talks to the wrong host.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use url::{Host, Url};

const DEFAULT_PORT: u16 = 11434;
const LOCAL: &str = "127.0.0.1";

/// The address of one Ollama.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OllamaHost(Url);

/// Why a value of `OLLAMA_HOST` cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    #[error("{0:?} is neither http nor https: write it as http://HOST:PORT")]
    Scheme(String),
    #[error("{0:?} is not a port: write a number from 1 to 65535, as in 127.0.0.1:11434")]
    Port(String),
    #[error("{0:?} is not the name or address of a host: write it as HOST, HOST:PORT or http://HOST:PORT")]
    Host(String),
}

impl OllamaHost {
    /// Parses a host in any form that Ollama accepts: `host`, `host:port`, `:port`, `[v6]:port`, a URL, or nothing.
    pub fn parse(value: &str) -> Result<Self, HostError> {
        let value = value.trim().trim_matches(['"', '\'']).trim();
        let (scheme, rest, default_port) = match value.split_once("://") {
            // Ollama's own programs make this one exception, for their cloud.
            None if value == "ollama.com" => ("https", value, 443),
            None => ("http", value, DEFAULT_PORT),
            Some((scheme, rest)) => match scheme.to_ascii_lowercase().as_str() {
                "http" => ("http", rest, 80),
                "https" => ("https", rest, 443),
                _ => return Err(HostError::Scheme(scheme.to_owned())),
            },
        };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        if authority.contains(['@', '?', '#', '\\', '%']) || path.contains(['?', '#']) {
            return Err(HostError::Host(value.to_owned()));
        }
        let (host, port) = split_port(authority, default_port)?;
        let host = dialable(host);
        let url = format!("{scheme}://{host}:{port}/{}", path.trim_matches('/'));
        let mut url = Url::parse(&url).map_err(|_| HostError::Host(value.to_owned()))?;
        if !url.path().ends_with('/') {
            // Without the slash, joining a route would replace the last segment of a prefix.
            let path = format!("{}/", url.path());
            url.set_path(&path);
        }
        Ok(Self(url))
    }

    /// The base URL of every route, with a slash at its end.
    pub fn url(&self) -> &Url {
        &self.0
    }

    pub fn port(&self) -> u16 {
        // Both schemes that `parse` accepts have a default port.
        self.0.port_or_known_default().unwrap_or(DEFAULT_PORT)
    }

    /// Whether this Ollama is on the same machine, by a name that always means the same machine.
    pub fn is_loopback(&self) -> bool {
        match self.0.host() {
            Some(Host::Ipv4(ip)) => ip.is_loopback(),
            Some(Host::Ipv6(ip)) => {
                ip.is_loopback() || ip.to_ipv4_mapped().is_some_and(|ip| ip.is_loopback())
            }
            Some(Host::Domain(name)) => {
                let name = name.trim_end_matches('.');
                name == "localhost" || name.ends_with(".localhost")
            }
            None => false,
        }
    }

    /// The URL of a route of this Ollama, after the prefix if there is one.
    pub(crate) fn join(&self, path: &str) -> Url {
        let mut url = self.0.clone();
        url.set_path(&format!("{}{path}", self.0.path().trim_end_matches('/')));
        url
    }
}

fn split_port(authority: &str, default: u16) -> Result<(&str, u16), HostError> {
    let (host, port) = if authority.parse::<Ipv6Addr>().is_ok() {
        (authority, None)
    } else if let Some(rest) = authority.strip_prefix('[') {
        let (host, after) = rest.split_once(']').ok_or_else(|| HostError::Host(authority.to_owned()))?;
        match after {
            "" => (host, None),
            _ => (host, Some(after.strip_prefix(':').ok_or_else(|| HostError::Host(authority.to_owned()))?)),
        }
    } else {
        match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        }
    };
    match port {
        None => Ok((host, default)),
        // `host:` and `:` use the default port, as in a URL.
        Some("") => Ok((host, default)),
        Some(port) => match port.parse::<u16>() {
            Ok(number) if number > 0 && port.bytes().all(|b| b.is_ascii_digit()) => Ok((host, number)),
            _ => Err(HostError::Port(port.to_owned())),
        },
    }
}

/// An address to connect to. "Every address of this machine" (`0.0.0.0`, `::`) is an address to listen on; here it
/// means this machine.
fn dialable(host: &str) -> String {
    match host.parse::<IpAddr>() {
        _ if host.is_empty() => LOCAL.to_owned(),
        Ok(IpAddr::V4(ip)) if ip.is_unspecified() => LOCAL.to_owned(),
        Ok(IpAddr::V6(ip)) if ip.is_unspecified() => "[::1]".to_owned(),
        Ok(IpAddr::V6(ip)) => format!("[{ip}]"),
        _ => host.to_owned(),
    }
}

impl fmt::Display for OllamaHost {
    /// The URL without its last slash, as people write it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str().trim_end_matches('/'))
    }
}

impl FromStr for OllamaHost {
    type Err = HostError;

    fn from_str(value: &str) -> Result<Self, Self::Err> {
        Self::parse(value)
    }
}

impl Default for OllamaHost {
    fn default() -> Self {
        Self::parse("").unwrap_or_else(|_| unreachable!("the empty value is the default host"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_ollama_host_gives_its_url() {
        for (value, url) in [
            ("", "http://127.0.0.1:11434/"),
            ("  ", "http://127.0.0.1:11434/"),
            ("\"\"", "http://127.0.0.1:11434/"),
            ("1.2.3.4", "http://1.2.3.4:11434/"),
            ("1.2.3.4:5678", "http://1.2.3.4:5678/"),
            (":5678", "http://127.0.0.1:5678/"),
            (":", "http://127.0.0.1:11434/"),
            ("example.com", "http://example.com:11434/"),
            ("example.com:5678/", "http://example.com:5678/"),
            ("http://1.2.3.4", "http://1.2.3.4/"),
            ("http://1.2.3.4:5678/", "http://1.2.3.4:5678/"),
            ("https://1.2.3.4", "https://1.2.3.4/"),
            ("HTTPS://example.com:8443", "https://example.com:8443/"),
            ("https://example.com/ollama", "https://example.com/ollama/"),
            ("example.com/a/b//", "http://example.com:11434/a/b/"),
            ("::1", "http://[::1]:11434/"),
            ("[::1]", "http://[::1]:11434/"),
            ("[::1]:5678", "http://[::1]:5678/"),
            ("http://[::1]", "http://[::1]/"),
            ("0.0.0.0", "http://127.0.0.1:11434/"),
            ("0.0.0.0:5678", "http://127.0.0.1:5678/"),
            ("[::]:5678", "http://[::1]:5678/"),
            ("'localhost:5678'", "http://localhost:5678/"),
            ("ollama.com", "https://ollama.com/"),
        ] {
            assert_eq!(OllamaHost::parse(value).unwrap().url().as_str(), url, "{value:?}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for value in [
            "ftp://x",
            "x:port",
            "x:0",
            "x:65536",
            "x:+80",
            "a b",
            "http://u:p@x",
            "x?y",
            "x/?y",
            "[::1",
            "[::1]x",
            "1:2:3",
            "http://",
            "//",
        ] {
            match (value, OllamaHost::parse(value)) {
                // An empty host means the default host, as for Ollama.
                ("http://" | "//", parsed) => assert!(parsed.unwrap().is_loopback()),
                (_, parsed) => assert!(parsed.is_err(), "{value:?} became {parsed:?}"),
            }
        }
    }

    #[test]
    fn loopback_is_known_in_every_form() {
        for (value, loopback) in [
            ("", true),
            ("localhost", true),
            ("127.9.9.9", true),
            ("::1", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("0.0.0.0", true),
            ("LOCALHOST:1", true),
            ("a.localhost", true),
            ("10.0.0.1", false),
            ("localhost.evil.com", false),
        ] {
            assert_eq!(OllamaHost::parse(value).unwrap().is_loopback(), loopback, "{value}");
        }
    }

    #[test]
    fn routes_are_joined_behind_a_prefix() {
        assert_eq!(
            OllamaHost::parse("https://x/ollama").unwrap().join("/api/chat").as_str(),
            "https://x/ollama/api/chat"
        );
        assert_eq!(OllamaHost::parse("x:1").unwrap().to_string(), "http://x:1");
    }
}
