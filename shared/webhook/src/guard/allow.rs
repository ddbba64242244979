//! What the operator allows beside public addresses: `FOREMAN_WEBHOOK_ALLOW`.

use std::net::IpAddr;

use ipnet::IpNet;

use super::Refused;
use super::ranges::{Kind, classify, embedded_ipv4};

/// The ranges that may be called although they are not public. None by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Allow {
    networks: Vec<IpNet>,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "expected loopback, private and CIDRs separated by commas, such as loopback,10.1.0.0/16; {0:?} is none"
)]
pub struct AllowError(String);

const LOOPBACK: &[&str] = &["127.0.0.0/8", "::1/128"];
const PRIVATE: &[&str] = &["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"];

impl Allow {
    /// Reads `loopback,private,10.0.0.0/8,fd12::7`; nothing allows nothing.
    pub fn parse(text: &str) -> Result<Self, AllowError> {
        let mut networks = Vec::new();
        for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            match entry {
                "loopback" => networks.extend(LOOPBACK.iter().filter_map(|network| read(network))),
                "private" => networks.extend(PRIVATE.iter().filter_map(|network| read(network))),
                network => networks.push(read(network).ok_or_else(|| AllowError(entry.to_owned()))?),
            }
        }
        Ok(Self { networks })
    }

    /// Public unicast passes, metadata never does, and the rest as allowed.
    pub fn check(&self, address: IpAddr) -> Result<(), Refused> {
        match classify(address) {
            None => Ok(()),
            Some(kind) if self.allows(address, kind) => Ok(()),
            Some(kind) => Err(Refused::address(address, kind)),
        }
    }

    pub(crate) fn check_localhost(&self) -> Result<(), Refused> {
        let allowed = LOOPBACK.iter().filter_map(|network| read(network)).any(|network| {
            self.networks.iter().any(|allowed| allowed.contains(&network) || network.contains(allowed))
        });
        if allowed { Ok(()) } else { Err(Refused::name("localhost", Kind::Loopback)) }
    }

    fn allows(&self, address: IpAddr, kind: Kind) -> bool {
        let listed = self.networks.iter().any(|network| network.contains(&address));
        match (kind, address) {
            (Kind::Metadata, _) => false,
            // The form must be allowed and so must what it leads to, or `::/0` would open the metadata addresses.
            (Kind::Translated, IpAddr::V6(address)) => {
                listed && embedded_ipv4(address).is_some_and(|inner| self.check(IpAddr::V4(inner)).is_ok())
            }
            _ => listed,
        }
    }
}

/// A CIDR, or one address.
fn read(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}
