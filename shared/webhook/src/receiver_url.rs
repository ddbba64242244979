//! A URL to which webhooks may be sent, as far as its text can tell.
//!
//! The scheme, the host and the port of such a URL can be called. The guard decides whether the addresses of the host may
//! be called: here for an address in the URL, and at every connection for a name.

use std::fmt;
use std::net::IpAddr;

use url::{Host, Url};

use crate::guard::{Allow, Refused};

/// A longer URL is a mistake, and would be stored with every job.
pub const MAX_BYTES: usize = 2_048;

/// RFC 1035, 2.3.4: a longer name cannot be looked up.
const MAX_NAME_BYTES: usize = 253;

/// A URL in one normal form: scheme and host in lower case, IDN as punycode, IP addresses in their usual form, no default
/// port and no fragment.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ReceiverUrl(Url);

/// Each error is one sentence for the client, and says how to mend the URL.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum UrlError {
    #[error("the webhook URL is longer than {MAX_BYTES} bytes; use a shorter one")]
    TooLong,
    #[error("the webhook URL contains a control character; remove it or percent-encode it")]
    ControlCharacter,
    #[error("the webhook URL must begin with http:// or https:// and name a host")]
    NotHttp,
    #[error("the webhook URL carries a user name or password; remove it and verify the signature instead")]
    UserInfo,
    #[error("the host of the webhook URL is not valid; use a host name or an IP address")]
    InvalidHost,
    #[error("the port of the webhook URL must be between 1 and 65535")]
    InvalidPort,
    #[error(
        "webhooks go to https only here; use an https:// URL, or ask the operator about FOREMAN_WEBHOOK_REQUIRE_HTTPS"
    )]
    NotHttps,
    #[error(transparent)]
    Refused(#[from] Refused),
}

impl UrlError {
    /// The `code` of the problem. It never changes.
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooLong => "webhook_url_too_long",
            Self::ControlCharacter | Self::NotHttp | Self::InvalidHost | Self::InvalidPort => {
                "webhook_url_invalid"
            }
            Self::UserInfo => "webhook_url_user_info",
            Self::NotHttps => "webhook_url_not_https",
            Self::Refused(_) => "webhook_address_refused",
        }
    }
}

/// The host of a URL: an address, or a name that must be looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    Address(IpAddr),
    Name(&'a str),
}

impl ReceiverUrl {
    /// Checks everything except the address: `check_literal` and the guard check that.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        if text.len() > MAX_BYTES {
            return Err(UrlError::TooLong);
        }
        // The parser below silently removes some of these.
        if text.chars().any(char::is_control) {
            return Err(UrlError::ControlCharacter);
        }
        let authority = authority(text).ok_or(UrlError::NotHttp)?;
        // Look at the text, because the parser drops an empty user name.
        if authority.contains('@') {
            return Err(UrlError::UserInfo);
        }
        let mut url = Url::parse(text).map_err(|error| match error {
            url::ParseError::InvalidPort => UrlError::InvalidPort,
            _ => UrlError::InvalidHost,
        })?;
        if url.port() == Some(0) {
            return Err(UrlError::InvalidPort);
        }
        // A fragment is never sent.
        url.set_fragment(None);
        let name_bytes = match url.host() {
            Some(Host::Domain(name)) => name.trim_end_matches('.').len(),
            Some(Host::Ipv4(_) | Host::Ipv6(_)) => 1,
            None => 0,
        };
        if name_bytes == 0 || name_bytes > MAX_NAME_BYTES {
            return Err(UrlError::InvalidHost);
        }
        // Punycode and percent-encoding can make the URL longer than the text.
        if url.as_str().len() > MAX_BYTES {
            return Err(UrlError::TooLong);
        }
        Ok(Self(url))
    }

    /// Refuses an address in the URL, in any spelling, and `localhost`, unless the operator allows them.
    pub fn check_literal(&self, allow: &Allow) -> Result<(), Refused> {
        match self.target() {
            Target::Address(address) => allow.check(address),
            Target::Name(name) if is_localhost(name) => allow.check_localhost(),
            Target::Name(_) => Ok(()),
        }
    }

    pub fn target(&self) -> Target<'_> {
        match self.0.host() {
            Some(Host::Ipv4(address)) => Target::Address(IpAddr::V4(address)),
            Some(Host::Ipv6(address)) => Target::Address(IpAddr::V6(address)),
            Some(Host::Domain(name)) => Target::Name(name),
            None => unreachable!("parse refuses a URL without a host"),
        }
    }

    pub(crate) fn is_https(&self) -> bool {
        self.0.scheme() == "https"
    }

    pub fn port(&self) -> u16 {
        self.0.port_or_known_default().expect("http and https have default ports")
    }

    /// `https://host[:port]`. All URLs with one origin share a lane.
    pub fn origin(&self) -> String {
        self.0.origin().ascii_serialization()
    }

    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    pub fn as_url(&self) -> &Url {
        &self.0
    }
}

impl fmt::Display for ReceiverUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Shows only the origin, because paths and queries contain tokens of receivers.
impl fmt::Debug for ReceiverUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReceiverUrl({})", self.origin())
    }
}

/// The text between `http(s)://` and the path. The URL standard also accepts `http:/host` and `http:\\host`. Nobody writes
/// those on purpose, so they are refused.
fn authority(text: &str) -> Option<&str> {
    let (scheme, rest) = text.split_once("://")?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return None;
    }
    let end = rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len());
    (end > 0).then(|| &rest[..end])
}

/// RFC 6761, 6.3: these names are loopback, even if a resolver says something else.
fn is_localhost(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    name == "localhost" || name.ends_with(".localhost")
}

#[cfg(test)]
mod tests;
