//! While authentication is off, checks that a request was meant for this api and does not come from a foreign web page.
//!
//! A browser on the same machine or network needs no key then. A foreign page in this browser could send requests to us in two
//! ways. It could point a name of its own at our address (DNS rebinding), which the `Host` header shows. Or it could send
//! requests across sites, which the `Origin` header shows.

use std::net::{IpAddr, Ipv6Addr};

use axum::http::HeaderMap;
use axum::http::header::{HOST, ORIGIN};
use axum::http::uri::{Authority, Uri};

/// The names by which this api is known.
#[derive(Debug)]
pub(crate) struct Site {
    bound: IpAddr,
    names: Vec<SiteName>,
}

/// An entry of `FOREMAN_ORIGINS`: a host, with an optional scheme and an optional port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SiteName {
    scheme: Option<String>,
    host: String,
    port: Option<u16>,
}

impl SiteName {
    /// The scheme, host and port of a URL.
    pub(crate) fn of_url(url: &str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        let authority = rest.split('/').next()?;
        Self::parse(&format!("{scheme}://{authority}")).ok()
    }

    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mend = || {
            format!(
                "expected hosts and origins such as foreman.lan or https://app.example.org; {text:?} is neither"
            )
        };
        let (scheme, rest) = match text.split_once("://") {
            Some((scheme, rest)) if matches!(scheme, "http" | "https") => (Some(scheme.to_owned()), rest),
            Some(_) => return Err(mend()),
            None => (None, text),
        };
        let authority: Authority = rest.trim_end_matches('/').parse().map_err(|_| mend())?;
        if authority.host().is_empty() || authority.as_str().contains('@') {
            return Err(mend());
        }
        Ok(Self { scheme, host: plain(authority.host()), port: authority.port_u16() })
    }
}

/// The header that shows that a request is not for us, or not from a page of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ForeignHeader {
    Host,
    Origin,
}

impl Site {
    pub(crate) fn new(bound: IpAddr, names: Vec<SiteName>) -> Self {
        Self { bound, names }
    }

    /// Refuses a request that was meant for another host, and a request from a foreign page. A request from no page at all
    /// passes.
    pub(crate) fn check(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), ForeignHeader> {
        let mut called = uri.authority().cloned();
        for host in headers.get_all(HOST) {
            let host = host
                .to_str()
                .ok()
                .and_then(|text| text.parse::<Authority>().ok())
                .ok_or(ForeignHeader::Host)?;
            if called.get_or_insert_with(|| host.clone()) != &host {
                return Err(ForeignHeader::Host);
            }
        }
        if called.as_ref().is_some_and(|called| !self.answers_to(called)) {
            return Err(ForeignHeader::Host);
        }
        for origin in headers.get_all(ORIGIN) {
            if !origin.to_str().is_ok_and(|origin| self.is_own_page(origin, called.as_ref())) {
                return Err(ForeignHeader::Origin);
            }
        }
        Ok(())
    }

    fn answers_to(&self, authority: &Authority) -> bool {
        let host = plain(authority.host());
        !has_user(authority)
            && (self.is_local(&host)
                || self.names.iter().any(|name| {
                    name.host == host
                        && (name.port.is_none() || name.port == authority.port_u16() || name.scheme.is_some())
                }))
    }

    /// Whether `origin` is a page on this machine, a page that the operator has named, or a page that this api serves under the
    /// name `called`, by which the request calls it. A page at any other address is foreign, even where we listen on every
    /// address: the server of a page chooses this address.
    fn is_own_page(&self, origin: &str, called: Option<&Authority>) -> bool {
        let Some((scheme @ ("http" | "https"), rest)) = origin.split_once("://") else { return false };
        let Ok(authority) = rest.parse::<Authority>() else { return false };
        let (host, port) = (plain(authority.host()), authority.port_u16());
        let is_called = |called: &Authority| plain(called.host()) == host && called.port_u16() == port;
        !has_user(&authority)
            && (is_loopback(&host)
                || called.is_some_and(is_called)
                || self.names.iter().any(|name| {
                    name.host == host
                        && name.scheme.as_deref().is_none_or(|own| own == scheme)
                        && (name.port.is_none() && name.scheme.is_none() || name.port == port)
                }))
    }

    /// Whether `host` is loopback or an address that we listen on. Where we listen on every address, any address passes:
    /// unlike a name, nobody can point an address at another machine.
    fn is_local(&self, host: &str) -> bool {
        let is_ours = |address: IpAddr| {
            self.bound.is_unspecified() || address.to_canonical() == self.bound.to_canonical()
        };
        is_loopback(host) || host.parse().is_ok_and(is_ours)
    }
}

/// Whether `host` is a loopback address or a name that always means one.
fn is_loopback(host: &str) -> bool {
    match host.parse::<IpAddr>() {
        Ok(address) => address.to_canonical().is_loopback(),
        Err(_) => host == "localhost" || host.ends_with(".localhost"),
    }
}

/// Whether there is a user, as in `evil.example@localhost`. No browser sends one, and parsers differ about which part is the
/// host.
fn has_user(authority: &Authority) -> bool {
    authority.as_str().contains('@')
}

/// A host in the form in which hosts are compared: lower case, without brackets and without a dot at the end.
fn plain(host: &str) -> String {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    match bare {
        Some(v6) if v6.parse::<Ipv6Addr>().is_ok() => v6.to_ascii_lowercase(),
        _ => host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bound: &str, names: &[&str], host: &str, origin: &str) -> Result<(), ForeignHeader> {
        let names = names.iter().map(|name| SiteName::parse(name).unwrap()).collect();
        let mut headers = HeaderMap::new();
        headers.insert(HOST, host.parse().unwrap());
        if !origin.is_empty() {
            headers.insert(ORIGIN, origin.parse().unwrap());
        }
        Site::new(bound.parse().unwrap(), names).check(&Uri::from_static("/jobs"), &headers)
    }

    #[test]
    fn loopback_and_the_bound_address_are_ours() {
        for host in [
            "localhost",
            "LOCALHOST:1",
            "a.localhost",
            "localhost.",
            "127.0.0.1:8080",
            "127.8.8.8",
            "[::1]:8080",
        ] {
            assert_eq!(check("127.0.0.1", &[], host, ""), Ok(()), "{host}");
        }
        assert_eq!(check("10.0.0.5", &[], "10.0.0.5:8080", "http://10.0.0.5:8080"), Ok(()));
        assert_eq!(check("0.0.0.0", &[], "192.168.1.9:8080", "http://localhost:3000"), Ok(()));
    }

    #[test]
    fn foreign_names_and_pages_are_refused() {
        for host in [
            "evil.example",
            "evil.example:8080",
            "localhost.evil.example",
            "10.0.0.5",
            "notlocalhost",
            "a b",
            "evil.example@localhost",
        ] {
            assert_eq!(check("127.0.0.1", &[], host, ""), Err(ForeignHeader::Host), "{host}");
        }
        assert_eq!(check("0.0.0.0", &[], "rebound.example", ""), Err(ForeignHeader::Host));
        for origin in [
            "null",
            "http://evil.example",
            "https://localhost.evil.example",
            "evil",
            "http://10.0.0.5",
            "http://",
            "http://evil.example@localhost",
            "ftp://localhost",
            "moz-extension://localhost",
            "//localhost",
        ] {
            assert_eq!(check("127.0.0.1", &[], "localhost", origin), Err(ForeignHeader::Origin), "{origin}");
        }
    }

    #[test]
    fn listening_everywhere_makes_no_address_of_others_ours() {
        for origin in ["http://6.6.6.6", "https://6.6.6.6:8080", "http://[2001:db8::6]", "http://192.168.1.9"]
        {
            assert_eq!(
                check("0.0.0.0", &[], "192.168.1.9:8080", origin),
                Err(ForeignHeader::Origin),
                "{origin}"
            );
            assert_eq!(check("::", &[], "192.168.1.9:8080", origin), Err(ForeignHeader::Origin), "{origin}");
        }
        // The page has the same address as the api in this request.
        assert_eq!(check("0.0.0.0", &[], "192.168.1.9:8080", "http://192.168.1.9:8080"), Ok(()));
        assert_eq!(check("::", &[], "[2001:db8::9]:8080", "http://[2001:DB8::9]:8080"), Ok(()));
        assert_eq!(
            check("10.0.0.5", &[], "10.0.0.5:8080", "http://10.0.0.5:3000"),
            Err(ForeignHeader::Origin)
        );
    }

    #[test]
    fn an_operator_may_name_hosts_and_origins() {
        let names = ["foreman.lan", "https://app.example.org", "box:8080"];
        for (host, origin) in [
            ("foreman.lan", ""),
            ("Foreman.LAN:9999", "http://foreman.lan:9999"),
            ("box:8080", "https://app.example.org"),
            ("app.example.org", ""),
        ] {
            assert_eq!(check("127.0.0.1", &names, host, origin), Ok(()), "{host} {origin}");
        }
        assert_eq!(check("127.0.0.1", &names, "box:8081", ""), Err(ForeignHeader::Host));
        for origin in ["http://app.example.org", "https://app.example.org:8443", "http://box:1"] {
            assert_eq!(
                check("127.0.0.1", &names, "box:8080", origin),
                Err(ForeignHeader::Origin),
                "{origin}"
            );
        }
    }

    #[test]
    fn a_public_url_names_its_host_and_origin() {
        let name = SiteName::of_url("https://jobs.example.org:8443/base").unwrap();
        let site = Site::new("127.0.0.1".parse().unwrap(), vec![name]);
        let mut headers = HeaderMap::new();
        headers.insert(HOST, "jobs.example.org:8443".parse().unwrap());
        headers.insert(ORIGIN, "https://jobs.example.org:8443".parse().unwrap());
        assert_eq!(site.check(&Uri::from_static("/jobs"), &headers), Ok(()));
    }

    #[test]
    fn a_request_for_another_site_through_us_is_refused() {
        let site = Site::new("127.0.0.1".parse().unwrap(), Vec::new());
        let uri = Uri::from_static("http://evil.example/jobs");
        assert_eq!(site.check(&uri, &HeaderMap::new()), Err(ForeignHeader::Host));
    }

    #[test]
    fn a_request_that_names_two_hosts_is_refused() {
        let site = Site::new("127.0.0.1".parse().unwrap(), Vec::new());
        let mut headers = HeaderMap::new();
        headers.insert(HOST, "localhost:8080".parse().unwrap());
        headers.append(HOST, "127.0.0.1:8080".parse().unwrap());
        assert_eq!(site.check(&Uri::from_static("/jobs"), &headers), Err(ForeignHeader::Host));
    }

    #[test]
    fn entries_that_are_no_names_are_refused() {
        for text in ["http://", "ftp://a", "user@host", "a b", "https://a/path"] {
            assert!(SiteName::parse(text).is_err(), "{text}");
        }
    }
}
