//! The special-purpose address ranges, from the IANA registries and from the documentation of the clouds.
//!
//! For IPv6, only 2000::/3 is assigned for public unicast. So every address outside of it is refused, even if it is not
//! listed here.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Why an address is not public unicast.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Loopback,
    Private,
    LinkLocal,
    /// Carrier-grade NAT, 100.64.0.0/10.
    Shared,
    /// A service at this address gives the credentials of the machine to every program on it.
    Metadata,
    /// An IPv6 address that contains an IPv4 address: mapped, compatible, NAT64, 6to4, Teredo, ISATAP.
    Translated,
    Multicast,
    Reserved,
}

impl Kind {
    /// What the operator of Foreman, or the author of the URL, can do about it.
    pub(super) fn mend(self) -> &'static str {
        match self {
            Self::Loopback => "to allow it, set FOREMAN_WEBHOOK_ALLOW=loopback for api and worker",
            Self::Private => {
                "to allow it, set FOREMAN_WEBHOOK_ALLOW to private or its CIDR for api and worker"
            }
            Self::Metadata => "that can never be allowed",
            Self::Translated => "give the IPv4 address itself",
            Self::LinkLocal | Self::Shared | Self::Multicast | Self::Reserved => {
                "to allow it, set FOREMAN_WEBHOOK_ALLOW to its CIDR for api and worker"
            }
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Loopback => "a loopback address",
            Self::Private => "a private address",
            Self::LinkLocal => "a link-local address",
            Self::Shared => "a shared (carrier-grade NAT) address",
            Self::Metadata => "a cloud metadata address",
            Self::Translated => "an IPv6 form of an IPv4 address",
            Self::Multicast => "a multicast address",
            Self::Reserved => "a reserved address",
        })
    }
}

/// The kind of a special-purpose address. `None` for public unicast.
pub fn classify(address: IpAddr) -> Option<Kind> {
    match address {
        IpAddr::V4(address) => classify_v4(address),
        IpAddr::V6(address) => classify_v6(address),
    }
}

/// The IPv4 address to which a packet for this address would go, if the form of the address says so.
pub(super) fn embedded_ipv4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let bytes = address.octets();
    let at = |start: usize| Ipv4Addr::new(bytes[start], bytes[start + 1], bytes[start + 2], bytes[start + 3]);
    if within(address, NAT64) || within(address, MAPPED) || within(address, COMPATIBLE) {
        Some(at(12))
    } else if within(address, SIX_TO_FOUR) {
        Some(at(2))
    } else if within(address, TEREDO) {
        // RFC 4380, 4: the client's address is stored with every bit inverted.
        Some(Ipv4Addr::from_bits(!at(12).to_bits()))
    } else if is_isatap(address) {
        Some(at(12))
    } else {
        // In a local NAT64 prefix (RFC 8215), only its operator knows which bits are the IPv4 address.
        None
    }
}

fn classify_v4(address: Ipv4Addr) -> Option<Kind> {
    V4.iter().find(|(network, bits, _)| same_prefix_v4(address, *network, *bits)).map(|(_, _, kind)| *kind)
}

fn classify_v6(address: Ipv6Addr) -> Option<Kind> {
    if is_isatap(address) {
        return Some(Kind::Translated);
    }
    let listed = V6.iter().find(|(network, _)| within(address, *network)).map(|(_, kind)| *kind);
    listed.or_else(|| (!within(address, GLOBAL_UNICAST)).then_some(Kind::Reserved))
}

/// RFC 5214, 6.1: under any prefix, the last 64 bits say that the last 32 are an IPv4 address.
fn is_isatap(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    segments[4] & !0x0200 == 0 && segments[5] == 0x5efe
}

fn same_prefix_v4(address: Ipv4Addr, network: Ipv4Addr, bits: u32) -> bool {
    (address.to_bits() ^ network.to_bits()).leading_zeros() >= bits
}

type NetworkV6 = (Ipv6Addr, u32);

fn within(address: Ipv6Addr, (network, bits): NetworkV6) -> bool {
    (address.to_bits() ^ network.to_bits()).leading_zeros() >= bits
}

const fn v4(a: u8, b: u8, c: u8, d: u8) -> Ipv4Addr {
    Ipv4Addr::new(a, b, c, d)
}

const fn v6(a: u16, b: u16, c: u16) -> Ipv6Addr {
    Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0)
}

/// The first match counts, so metadata addresses come before the ranges that contain them.
const V4: &[(Ipv4Addr, u32, Kind)] = &[
    (v4(169, 254, 169, 0), 24, Kind::Metadata), // AWS, Google, Azure, OpenStack, …
    (v4(169, 254, 170, 0), 24, Kind::Metadata), // AWS containers
    (v4(169, 254, 0, 23), 32, Kind::Metadata),  // Tencent
    (v4(168, 63, 129, 16), 32, Kind::Metadata), // Azure's wire server; else a public address
    (v4(100, 100, 100, 200), 32, Kind::Metadata), // Alibaba
    (v4(192, 0, 0, 192), 32, Kind::Metadata),   // Oracle
    (v4(0, 0, 0, 0), 8, Kind::Reserved),        // "this network"; Linux sends 0.0.0.0 to itself
    (v4(10, 0, 0, 0), 8, Kind::Private),
    (v4(100, 64, 0, 0), 10, Kind::Shared),
    (v4(127, 0, 0, 0), 8, Kind::Loopback),
    (v4(169, 254, 0, 0), 16, Kind::LinkLocal),
    (v4(172, 16, 0, 0), 12, Kind::Private),
    (v4(192, 0, 0, 0), 24, Kind::Reserved),   // protocol assignments
    (v4(192, 0, 2, 0), 24, Kind::Reserved),   // documentation
    (v4(192, 88, 99, 0), 24, Kind::Reserved), // 6to4 relays
    (v4(192, 168, 0, 0), 16, Kind::Private),
    (v4(198, 18, 0, 0), 15, Kind::Reserved),   // benchmarks
    (v4(198, 51, 100, 0), 24, Kind::Reserved), // documentation
    (v4(203, 0, 113, 0), 24, Kind::Reserved),  // documentation
    (v4(224, 0, 0, 0), 4, Kind::Multicast),
    (v4(240, 0, 0, 0), 4, Kind::Reserved), // future use, and the broadcast address
];

const GLOBAL_UNICAST: NetworkV6 = (v6(0x2000, 0, 0), 3);
const MAPPED: NetworkV6 = (Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96);
const COMPATIBLE: NetworkV6 = (Ipv6Addr::UNSPECIFIED, 96);
const NAT64: NetworkV6 = (v6(0x64, 0xff9b, 0), 96);
const NAT64_LOCAL: NetworkV6 = (v6(0x64, 0xff9b, 1), 48);
const SIX_TO_FOUR: NetworkV6 = (v6(0x2002, 0, 0), 16);
const TEREDO: NetworkV6 = (v6(0x2001, 0, 0), 32);

/// As above, the first match counts.
const V6: &[(NetworkV6, Kind)] = &[
    ((v6(0xfd00, 0x0ec2, 0), 32), Kind::Metadata), // AWS
    ((Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254), 128), Kind::Metadata), // Google
    ((Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0xa9fe, 0xa9fe), 128), Kind::Metadata), // OpenStack
    ((Ipv6Addr::LOCALHOST, 128), Kind::Loopback),
    ((Ipv6Addr::UNSPECIFIED, 128), Kind::Reserved),
    (MAPPED, Kind::Translated),
    (COMPATIBLE, Kind::Translated),
    (NAT64, Kind::Translated),
    (NAT64_LOCAL, Kind::Translated),
    (SIX_TO_FOUR, Kind::Translated),
    (TEREDO, Kind::Translated),
    ((v6(0xfc00, 0, 0), 7), Kind::Private),
    ((v6(0xfe80, 0, 0), 10), Kind::LinkLocal),
    ((v6(0xfec0, 0, 0), 10), Kind::Reserved), // site-local, which old networks still route
    ((v6(0xff00, 0, 0), 8), Kind::Multicast),
    ((v6(0x2001, 0, 0), 23), Kind::Reserved), // protocol assignments: ORCHID, benchmarks, …
    ((v6(0x2001, 0x0db8, 0), 32), Kind::Reserved), // documentation
    ((v6(0x3fff, 0, 0), 20), Kind::Reserved), // documentation
];

#[cfg(test)]
mod tests;
