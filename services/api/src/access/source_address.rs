//! While authentication is off: finds the address that a request comes from, and the client's name that follows from it.

use std::net::{IpAddr, SocketAddr};

use axum::http::{HeaderMap, HeaderName};
use ipnet::{IpNet, Ipv6Net};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The address that a request comes from. This is the peer's address, or, where the peer is a proxy that we trust, the last
/// address in `X-Forwarded-For` that is not such a proxy. The client may have invented the addresses before it.
pub(crate) fn source_address(peer: SocketAddr, headers: &HeaderMap, proxies: &[IpNet]) -> IpAddr {
    let is_proxy = |address: IpAddr| proxies.iter().any(|network| network.contains(&address));
    let mut source = peer.ip().to_canonical();
    let lines = headers.get_all(FORWARDED_FOR).iter().filter_map(|line| line.to_str().ok());
    let hops: Vec<&str> = lines.flat_map(|line| line.split(',')).collect();
    for hop in hops.iter().rev() {
        if !is_proxy(source) {
            break;
        }
        match read_hop(hop.trim()) {
            Some(address) => source = address,
            // A proxy wrote something that is no address. The proxy itself is the last address that we know.
            None => break,
        }
    }
    source
}

/// Whether a request comes from this machine, and no proxy says that it only passes it on.
pub(crate) fn is_local(peer: SocketAddr, headers: &HeaderMap) -> bool {
    peer.ip().to_canonical().is_loopback() && !headers.contains_key(FORWARDED_FOR)
}

/// The first 64 bits of an IPv6 address name a network. A machine in it can take as many of its addresses as it likes, so the
/// whole network is one client.
const V6_NETWORK: u8 = 64;

/// The name of the client that an address belongs to: its network for IPv6, else the address itself.
pub(crate) fn client_name(address: IpAddr) -> String {
    let network = match address {
        IpAddr::V6(v6) if !v6.is_loopback() => Ipv6Net::new(v6, V6_NETWORK).ok(),
        _ => None,
    };
    network.map_or_else(|| address.to_string(), |network| network.trunc().to_string())
}

/// Reads an address. Some proxies add a port to it.
fn read_hop(hop: &str) -> Option<IpAddr> {
    let bare = hop.strip_prefix('[').and_then(|hop| hop.strip_suffix(']')).unwrap_or(hop);
    let address = bare.parse().or_else(|_| hop.parse().map(|hop: SocketAddr| hop.ip()));
    address.ok().map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(peer: &str, forwarded: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for line in forwarded {
            headers.append(FORWARDED_FOR, line.parse().unwrap());
        }
        let proxies = ["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        source_address(SocketAddr::new(peer.parse().unwrap(), 1), &headers, &proxies).to_string()
    }

    #[test]
    fn forwarded_addresses_from_a_peer_that_is_no_proxy_are_ignored() {
        assert_eq!(source("192.0.2.1", &["198.51.100.7"]), "192.0.2.1");
        assert_eq!(source("::ffff:192.0.2.1", &[]), "192.0.2.1");
    }

    #[test]
    fn behind_proxies_the_last_address_that_is_no_proxy_counts() {
        assert_eq!(source("10.0.0.1", &["198.51.100.7"]), "198.51.100.7");
        assert_eq!(source("10.0.0.1", &["1.1.1.1, 198.51.100.7, 10.9.9.9"]), "198.51.100.7");
        assert_eq!(source("10.0.0.1", &["1.1.1.1", "198.51.100.7:4711"]), "198.51.100.7");
        assert_eq!(source("fd00::1", &["[2001:db8::1]:443"]), "2001:db8::1");
    }

    #[test]
    fn an_ipv6_network_is_one_client() {
        let name = |address: &str| client_name(address.parse().unwrap());
        assert_eq!(name("2001:db8:1:2:aaaa::1"), "2001:db8:1:2::/64");
        assert_eq!(name("2001:db8:1:2::"), "2001:db8:1:2::/64");
        assert_eq!(name("2001:db8:1:3::"), "2001:db8:1:3::/64");
        assert_eq!((name("::1"), name("192.0.2.1")), ("::1".to_owned(), "192.0.2.1".to_owned()));
    }

    #[test]
    fn nonsense_from_a_proxy_leaves_the_proxy() {
        assert_eq!(source("10.0.0.1", &["unknown"]), "10.0.0.1");
        assert_eq!(source("10.0.0.1", &["198.51.100.7, _hidden, 10.0.0.2"]), "10.0.0.2");
        assert_eq!(source("10.0.0.1", &[]), "10.0.0.1");
    }
}
