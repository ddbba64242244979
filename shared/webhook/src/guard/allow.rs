//! The addresses that the operator allows beside public ones: `FOREMAN_WEBHOOK_ALLOW`.

use std::net::IpAddr;

use ipnet::IpNet;

use super::Refused;
use super::ranges::{Kind, classify, embedded_ipv4};

/// The ranges that may be called although they are not public. By default there are none.
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
    /// Reads `loopback,private,10.0.0.0/8,fd12::7`. An empty text allows only public addresses.
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

    /// Accepts public unicast, and the allowed ranges. Never accepts a metadata address.
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
            // The IPv6 address and the IPv4 address in it must both be allowed. Otherwise `::/0` would allow metadata
            // addresses.
            (Kind::Translated, IpAddr::V6(address)) => {
                listed && embedded_ipv4(address).is_some_and(|inner| self.check(IpAddr::V4(inner)).is_ok())
            }
            _ => listed,
        }
    }
}

/// Reads a CIDR, or a single address.
fn read(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn allows(allow: &str, address: &str) -> bool {
        Allow::parse(allow).unwrap().check(address.parse().unwrap()).is_ok()
    }

    #[test]
    fn nothing_is_allowed_beside_public_addresses_unless_it_is_said() {
        assert_eq!(Allow::parse(""), Ok(Allow::default()));
        assert!(allows("", "8.8.8.8"));
        assert!(!allows("", "127.0.0.1"));
        assert!(!allows("", "10.0.0.1"));
    }

    #[test]
    fn each_entry_allows_its_own_range_and_no_other() {
        for (allow, address, allowed) in [
            ("loopback", "127.0.0.1", true),
            ("loopback", "127.255.0.1", true),
            ("loopback", "::1", true),
            ("loopback", "10.0.0.1", false),
            ("loopback", "0.0.0.0", false),
            ("loopback", "::ffff:127.0.0.1", false),
            ("private", "10.1.2.3", true),
            ("private", "172.31.0.1", true),
            ("private", "192.168.1.1", true),
            ("private", "fd12::1", true),
            ("private", "127.0.0.1", false),
            ("private", "100.64.0.1", false),
            ("private", "169.254.1.1", false),
            ("private", "fe80::1", false),
            (" loopback , private ", "192.168.1.1", true),
            ("10.1.0.0/16", "10.1.2.3", true),
            ("10.1.0.0/16", "10.2.2.3", false),
            ("10.1.2.3", "10.1.2.3", true),
            ("10.1.2.3", "10.1.2.4", false),
            ("fd12::/16,100.64.0.0/10", "100.64.0.1", true),
            ("169.254.0.0/16", "169.254.1.1", true),
        ] {
            assert_eq!(allows(allow, address), allowed, "{address} with {allow:?}");
        }
    }

    #[test]
    fn metadata_addresses_are_never_allowed_in_any_form() {
        let everything = "0.0.0.0/0,::/0,loopback,private,169.254.169.254,fd00:ec2::254";
        for address in [
            "169.254.169.254",
            "168.63.129.16",
            "100.100.100.200",
            "fd00:ec2::254",
            "::ffff:169.254.169.254",
            "::169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "2002:a9fe:a9fe::1",
            "2001:0:4136:e378:8000:63bf:5601:5601",
            "64:ff9b:1::a9fe:a9fe",
            "2606:4700::5efe:169.254.169.254",
            "64:ff9b:1:a9fe:a9:fe00::",
        ] {
            assert!(!allows(everything, address), "{address}");
        }
    }

    #[test]
    fn an_ipv6_form_of_an_ipv4_address_needs_both_to_be_allowed() {
        // A worker on an IPv6-only network reaches public IPv4 receivers through NAT64.
        assert!(allows("64:ff9b::/96", "64:ff9b::8.8.8.8"));
        assert!(!allows("64:ff9b::/96", "64:ff9b::10.0.0.1"));
        assert!(allows("64:ff9b::/96,private", "64:ff9b::10.0.0.1"));
        assert!(!allows("private", "64:ff9b::10.0.0.1"));
    }

    #[test]
    fn localhost_by_name_is_allowed_with_any_loopback_address() {
        for (allow, allowed) in [
            ("", false),
            ("private", false),
            ("loopback", true),
            ("127.0.0.1", true),
            ("::1", true),
            ("0.0.0.0/0", true),
        ] {
            assert_eq!(Allow::parse(allow).unwrap().check_localhost().is_ok(), allowed, "{allow:?}");
        }
    }

    #[test]
    fn entries_that_are_no_range_are_refused_by_name() {
        for (text, entry) in [
            ("lan", "lan"),
            ("private,10.0.0.0/33", "10.0.0.0/33"),
            ("10.0.0", "10.0.0"),
            ("Private", "Private"),
        ] {
            assert_eq!(Allow::parse(text), Err(AllowError(entry.to_owned())));
        }
    }

    #[test]
    fn a_refusal_is_one_sentence_with_the_mend() {
        let refusal =
            |address: &str| Allow::default().check(address.parse().unwrap()).unwrap_err().to_string();
        assert_eq!(
            refusal("127.0.0.1"),
            "webhooks may not go to 127.0.0.1, a loopback address; to allow it, set FOREMAN_WEBHOOK_ALLOW=loopback \
             for api and worker"
        );
        assert_eq!(
            refusal("169.254.169.254"),
            "webhooks may not go to 169.254.169.254, a cloud metadata address; that can never be allowed"
        );
    }

    proptest! {
        #[test]
        fn an_allowed_network_opens_only_itself(bits: u32, length in 0u8..=32, address: u32) {
            let network = ipnet::Ipv4Net::new(bits.into(), length).unwrap();
            let allow = Allow::parse(&network.to_string()).unwrap();
            let address = IpAddr::V4(address.into());
            if allow.check(address).is_ok() {
                prop_assert!(classify(address).is_none() || IpNet::V4(network).contains(&address));
            }
        }
    }
}
