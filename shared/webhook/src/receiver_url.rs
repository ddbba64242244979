//! A URL that webhooks may be sent to, as far as its text alone can tell.
//!
//! What this type lets through has a scheme, a host and a port that can be called; whether the addresses behind
//! the host may be called is the guard's decision, here for literals and at every dial for names.

use std::fmt;
use std::net::IpAddr;

use url::{Host, Url};

use crate::guard::{Allow, Refused};

/// Longer URLs are a mistake, and would be stored with every job.
pub const MAX_BYTES: usize = 2_048;

/// RFC 1035, 2.3.4: no longer name can be looked up.
const MAX_NAME_BYTES: usize = 253;

/// Written in one way: scheme and host in lower case, IDN as punycode, IP addresses in their usual form, without
/// default port and fragment.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ReceiverUrl(Url);

/// One sentence for the client each, with the mend in it.
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
    #[error(transparent)]
    Refused(#[from] Refused),
}

impl UrlError {
    /// Stable, for the `code` of a problem.
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooLong => "webhook_url_too_long",
            Self::ControlCharacter | Self::NotHttp | Self::InvalidHost | Self::InvalidPort => {
                "webhook_url_invalid"
            }
            Self::UserInfo => "webhook_url_user_info",
            Self::Refused(_) => "webhook_address_refused",
        }
    }
}

/// Whom to call: an address that needs no lookup, or a name that does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    Address(IpAddr),
    Name(&'a str),
}

impl ReceiverUrl {
    /// Everything but the address: `check_literal` and the guard judge that.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        if text.len() > MAX_BYTES {
            return Err(UrlError::TooLong);
        }
        // The parser below would silently drop some of these.
        if text.chars().any(char::is_control) {
            return Err(UrlError::ControlCharacter);
        }
        let authority = authority(text).ok_or(UrlError::NotHttp)?;
        // Looked for in the text, because the parser forgets an empty user name.
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
        // It would never be sent.
        url.set_fragment(None);
        let name_bytes = match url.host() {
            Some(Host::Domain(name)) => name.trim_end_matches('.').len(),
            Some(Host::Ipv4(_) | Host::Ipv6(_)) => 1,
            None => 0,
        };
        if name_bytes == 0 || name_bytes > MAX_NAME_BYTES {
            return Err(UrlError::InvalidHost);
        }
        // Punycode and percent-encoding make it longer than what came.
        if url.as_str().len() > MAX_BYTES {
            return Err(UrlError::TooLong);
        }
        Ok(Self(url))
    }

    /// Refuses an address written in the URL, in any spelling, and `localhost`, unless they are allowed.
    ///
    /// The sender must call this before every dial too: HTTP clients do not ask their resolver about literals.
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

    pub fn port(&self) -> u16 {
        self.0.port_or_known_default().expect("http and https have default ports")
    }

    /// `https://host[:port]`, the lane of all URLs of one receiver.
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

/// Paths and queries carry receivers' tokens, so only the origin is shown.
impl fmt::Debug for ReceiverUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReceiverUrl({})", self.origin())
    }
}

/// What stands between `http(s)://` and the path. The URL standard also reads `http:/host` and `http:\\host`;
/// nobody means those, so they are refused.
fn authority(text: &str) -> Option<&str> {
    let (scheme, rest) = text.split_once("://")?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return None;
    }
    let end = rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len());
    (end > 0).then(|| &rest[..end])
}

/// RFC 6761, 6.3: these names are loopback whatever a resolver says.
fn is_localhost(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    name == "localhost" || name.ends_with(".localhost")
}

#[cfg(test)]
mod tests;
