//! Whom a lane leads to, as far as we know before we dial: the address that its name led to last. Receivers under many
//! names on one machine are then counted as one.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use foreman_webhook::ReceiverUrl;
use foreman_webhook::receiver_url::Target;

/// Names remembered. They only bound the pool's use: forgetting all of them now and then does no harm.
const MAX_REMEMBERED: usize = 10_000;

/// An address, or a name whose address is not known yet.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Destination {
    Address(IpAddr),
    Name(String),
}

/// The addresses that names led to, learned at each dial.
#[derive(Debug, Clone, Default)]
pub(super) struct Destinations(Arc<Mutex<HashMap<String, IpAddr>>>);

impl Destinations {
    /// Notes where a name led to.
    pub(super) fn learn(&self, name: &str, address: IpAddr) {
        let mut addresses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if addresses.len() >= MAX_REMEMBERED && !addresses.contains_key(name) {
            addresses.clear();
        }
        addresses.insert(name.to_owned(), address);
    }

    /// Where webhooks to this origin go; `None` for an origin that is none.
    pub(super) fn of(&self, origin: &str) -> Option<Destination> {
        let url = ReceiverUrl::parse(origin).ok()?;
        let name = match url.target() {
            Target::Address(address) => return Some(Destination::Address(address)),
            Target::Name(name) => name,
        };
        let addresses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let address = addresses.get(name).copied();
        Some(address.map_or_else(|| Destination::Name(name.to_owned()), Destination::Address))
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
        assert_eq!(destinations.of("https://a.example"), Some(Destination::Address(address)));
        assert_eq!(destinations.of("https://a.example"), destinations.of("http://b.example:8080"));
        assert_eq!(destinations.of("http://192.0.2.1:9"), Some(Destination::Address(address)));
    }
}
