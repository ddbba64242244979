//! The server behind an origin, as far as we know before we dial: the port, and the address that the name led to at the last
//! dial. So receivers under many names on one server are counted as one.

use std::net::IpAddr;
use std::sync::Arc;

use foreman_webhook::ReceiverUrl;
use foreman_webhook::receiver_url::Target;
use moka::sync::Cache;

/// Names remembered. They only help to bound the use of the pools, so forgetting one does no harm.
const MAX_NAMES: u64 = 10_000;

/// What accepts our connections.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Destination {
    host: Host,
    port: u16,
}

/// An address, or a name whose address is not known yet.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Host {
    Address(IpAddr),
    Name(Arc<str>),
}

/// The addresses that names led to, learned at each dial.
#[derive(Debug, Clone)]
pub(super) struct Destinations(Cache<String, IpAddr>);

impl Default for Destinations {
    fn default() -> Self {
        Self(Cache::new(MAX_NAMES))
    }
}

impl Destinations {
    /// Notes where a name led to.
    pub(super) fn learn(&self, name: &str, address: IpAddr) {
        self.0.insert(name.to_owned(), address);
    }

    /// Where webhooks to this origin go; `None` if the text is no origin.
    pub(super) fn of(&self, origin: &str) -> Option<Destination> {
        let url = ReceiverUrl::parse(origin).ok()?;
        let host = match url.target() {
            Target::Address(address) => Host::Address(address),
            Target::Name(name) => self.0.get(name).map_or_else(|| Host::Name(name.into()), Host::Address),
        };
        Some(Destination { host, port: url.port() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_one_destination_once_they_led_to_one_address() {
        let destinations = Destinations::default();
        assert_ne!(destinations.of("https://a.example"), destinations.of("https://b.example"));
        let address = [192, 0, 2, 1].into();
        destinations.learn("a.example", address);
        destinations.learn("b.example", address);
        let one = destinations.of("https://a.example");
        assert_eq!(one, Some(Destination { host: Host::Address(address), port: 443 }));
        assert_eq!(one, destinations.of("https://b.example"));
        assert_eq!(one, destinations.of("https://192.0.2.1"));
        assert_ne!(one, destinations.of("https://b.example:8443"), "another server on the same machine");
    }
}
