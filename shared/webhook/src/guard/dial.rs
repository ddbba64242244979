//! Resolves the name of a receiver just before the worker connects to it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::names::{Asker, LookupError, Names};
use super::{Allow, Nameservers, Refused};
use crate::reaction::Failure;
use crate::receiver_url::{ReceiverUrl, UrlError};

/// What the operator says about receivers.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    pub allow: Allow,
    pub require_https: bool,
    /// `None` for those of this machine.
    pub nameservers: Option<Nameservers>,
}

/// Says which URLs may be called. Resolves names, and returns only the addresses that may be called.
#[derive(Debug, Clone)]
pub struct Guard {
    allow: Arc<Allow>,
    require_https: bool,
    names: Arc<Names>,
}

#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    #[error("{host} cannot be looked up")]
    Lookup { host: String, source: LookupError },
    #[error(transparent)]
    Blocked(Refused),
}

impl GuardError {
    pub fn failure(&self) -> Failure {
        match self {
            Self::Lookup { .. } => Failure::Dns,
            Self::Blocked(_) => Failure::AddressRefused,
        }
    }
}

impl Guard {
    pub fn new(policy: Policy) -> Self {
        Self {
            allow: Arc::new(policy.allow),
            require_https: policy.require_https,
            names: Arc::new(Names::new(policy.nameservers)),
        }
    }

    /// Checks what the text of the URL says: the scheme, and an address in any spelling.
    ///
    /// The sender must call this before every request: an HTTP client does not ask its resolver if the host is an address.
    pub fn check(&self, url: &ReceiverUrl) -> Result<(), UrlError> {
        if self.require_https && !url.is_https() {
            return Err(UrlError::NotHttps);
        }
        Ok(url.check_literal(&self.allow)?)
    }

    /// The addresses of `host` that may be called. Connect to these and no others, and do not resolve the name again.
    ///
    /// If a name has allowed and refused addresses, the allowed ones are returned. That is as safe as refusing the name,
    /// because the worker connects only to the returned addresses. It also keeps receivers reachable that publish an
    /// internal address beside the public one. The answer comes within seconds.
    pub async fn resolve(&self, asker: Asker, host: &str, port: u16) -> Result<Vec<SocketAddr>, GuardError> {
        let found = self.names.addresses(asker, host).await;
        let found = found.map_err(|source| GuardError::Lookup { host: host.to_owned(), source })?;
        let allowed = keep_allowed(host, &found, &self.allow)?;
        Ok(allowed.into_iter().map(|address| SocketAddr::new(address, port)).collect())
    }
}

fn keep_allowed(host: &str, found: &[IpAddr], allow: &Allow) -> Result<Vec<IpAddr>, GuardError> {
    let mut refused = None;
    let mut allowed = Vec::with_capacity(found.len());
    for address in found {
        match allow.check(*address) {
            Ok(()) => allowed.push(*address),
            Err(reason) => refused = Some(reason.kind),
        }
    }
    match refused {
        Some(kind) if allowed.is_empty() => Err(GuardError::Blocked(Refused::name(host, kind))),
        _ => Ok(allowed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::Kind;

    fn guard(allow: &str, require_https: bool) -> Guard {
        let allow = Allow::parse(allow).unwrap();
        // Nobody answers there.
        let nameservers = Some(Nameservers::parse("127.0.0.1:1").unwrap());
        Guard::new(Policy { allow, require_https, nameservers })
    }

    fn asker() -> Asker {
        Asker::of("a test")
    }

    fn addresses(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn of_a_mixed_answer_only_the_allowed_addresses_are_dialled() {
        let found = addresses(&["10.0.0.1", "8.8.8.8", "::1", "2606:4700::1111", "169.254.169.254"]);
        let kept = keep_allowed("h", &found, &Allow::default()).unwrap();
        assert_eq!(kept, addresses(&["8.8.8.8", "2606:4700::1111"]));
    }

    #[test]
    fn a_name_that_leads_only_to_refused_addresses_is_blocked_without_telling_them() {
        let error = keep_allowed("db.internal", &addresses(&["10.0.0.1"]), &Allow::default()).unwrap_err();
        assert!(matches!(&error, GuardError::Blocked(Refused { kind: Kind::Private, .. })));
        assert_eq!(error.failure(), Failure::AddressRefused);
        assert_eq!(
            error.to_string(),
            "webhooks may not go to db.internal, which leads to a private address; to allow it, set \
             FOREMAN_WEBHOOK_ALLOW to private or its CIDR for api and worker"
        );
    }

    #[test]
    fn where_https_is_required_nothing_else_passes() {
        let check = |guard: &Guard, url: &str| guard.check(&ReceiverUrl::parse(url).unwrap());
        let strict = guard("loopback", true);
        assert_eq!(check(&strict, "http://example.com/"), Err(UrlError::NotHttps));
        assert_eq!(check(&strict, "http://127.0.0.1/"), Err(UrlError::NotHttps));
        assert_eq!(check(&strict, "HTTPS://example.com/"), Ok(()));
        assert!(matches!(check(&strict, "https://10.0.0.1/"), Err(UrlError::Refused(_))));
        assert_eq!(check(&guard("", false), "http://example.com/"), Ok(()));
    }

    #[tokio::test]
    async fn the_hosts_of_this_machine_are_read_and_judged() {
        let blocked = guard("", false).resolve(asker(), "localhost", 8080).await.unwrap_err();
        assert_eq!(blocked.failure(), Failure::AddressRefused);

        let allowed = guard("loopback", false).resolve(asker(), "localhost", 8080).await.unwrap();
        assert!(!allowed.is_empty());
        assert!(allowed.iter().all(|address| address.ip().is_loopback() && address.port() == 8080));
    }

    #[tokio::test]
    async fn a_text_that_cannot_be_a_name_is_a_dns_failure() {
        for text in ["no such host", "a..b", &"a".repeat(64)] {
            let error = guard("", false).resolve(asker(), text, 80).await.unwrap_err();
            assert_eq!(error.failure(), Failure::Dns, "{text}");
        }
    }
}
