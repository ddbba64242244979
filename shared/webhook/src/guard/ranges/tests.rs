//! Tables for each form and range, and properties for everything that is too much for a table.

use proptest::prelude::*;

use super::*;

fn kind(address: &str) -> Option<Kind> {
    classify(address.parse().unwrap())
}

#[test]
fn every_special_range_is_refused_from_its_first_address_to_its_last() {
    for (first, last, expected) in [
        ("0.0.0.0", "0.255.255.255", Kind::Reserved),
        ("10.0.0.0", "10.255.255.255", Kind::Private),
        ("100.64.0.0", "100.127.255.255", Kind::Shared),
        ("127.0.0.0", "127.255.255.255", Kind::Loopback),
        ("169.254.0.0", "169.254.255.255", Kind::LinkLocal),
        ("172.16.0.0", "172.31.255.255", Kind::Private),
        ("192.0.0.0", "192.0.0.255", Kind::Reserved),
        ("192.0.2.0", "192.0.2.255", Kind::Reserved),
        ("192.88.99.0", "192.88.99.255", Kind::Reserved),
        ("192.168.0.0", "192.168.255.255", Kind::Private),
        ("198.18.0.0", "198.19.255.255", Kind::Reserved),
        ("198.51.100.0", "198.51.100.255", Kind::Reserved),
        ("203.0.113.0", "203.0.113.255", Kind::Reserved),
        ("224.0.0.0", "239.255.255.255", Kind::Multicast),
        ("240.0.0.0", "255.255.255.255", Kind::Reserved),
        ("::1", "::1", Kind::Loopback),
        ("::", "::", Kind::Reserved),
        ("::2", "::ffff:ffff", Kind::Translated),
        ("::ffff:0:0", "::ffff:ffff:ffff", Kind::Translated),
        ("64:ff9b::", "64:ff9b::ffff:ffff", Kind::Translated),
        ("64:ff9b:1::", "64:ff9b:1:ffff:ffff:ffff:ffff:ffff", Kind::Translated),
        ("100::", "100::ffff:ffff:ffff:ffff", Kind::Reserved),
        ("2001::", "2001:0:ffff:ffff:ffff:ffff:ffff:ffff", Kind::Translated),
        ("2001:1::", "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff", Kind::Reserved),
        ("2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", Kind::Reserved),
        ("2002::", "2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Kind::Translated),
        ("3fff::", "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff", Kind::Reserved),
        ("4000::", "fbff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Kind::Reserved),
        ("5f00::", "5f00:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Kind::Reserved),
        ("fc00::", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Kind::Private),
        ("fe80::", "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Kind::LinkLocal),
        ("fec0::", "feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Kind::Reserved),
        ("ff00::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Kind::Multicast),
    ] {
        assert_eq!(kind(first), Some(expected), "{first}");
        assert_eq!(kind(last), Some(expected), "{last}");
    }
}

#[test]
fn the_addresses_beside_a_special_range_are_public() {
    for address in [
        "1.0.0.0",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "126.255.255.255",
        "128.0.0.0",
        "169.253.255.255",
        "169.255.0.0",
        "172.15.255.255",
        "172.32.0.0",
        "191.255.255.255",
        "192.0.1.0",
        "192.0.3.0",
        "192.88.98.255",
        "192.88.100.0",
        "192.167.255.255",
        "192.169.0.0",
        "198.17.255.255",
        "198.20.0.0",
        "198.51.99.255",
        "198.51.101.0",
        "203.0.112.255",
        "203.0.114.0",
        "223.255.255.255",
        "168.63.129.15",
        "168.63.129.17",
        "8.8.8.8",
        "2000::",
        "2001:200::",
        "2001:db7::1",
        "2001:db9::",
        "2003::",
        "2606:4700::1111",
        "2a00:1450:4001::1",
        "3ffe:ffff::1",
        "3fff:1000::",
    ] {
        assert_eq!(kind(address), None, "{address}");
    }
}

#[test]
fn metadata_addresses_are_known_as_such() {
    for address in [
        "169.254.169.254",
        "169.254.169.123",
        "169.254.170.2",
        "169.254.170.23",
        "169.254.0.23",
        "168.63.129.16",
        "100.100.100.200",
        "192.0.0.192",
        "fd00:ec2::254",
        "fd00:ec2::23",
        "fd20:ce::254",
        "fe80::a9fe:a9fe",
    ] {
        assert_eq!(kind(address), Some(Kind::Metadata), "{address}");
    }
}

#[test]
fn the_ipv4_address_inside_an_ipv6_one_is_found() {
    for (address, inside) in [
        ("::ffff:127.0.0.1", Some("127.0.0.1")),
        ("::10.1.2.3", Some("10.1.2.3")),
        ("64:ff9b::169.254.169.254", Some("169.254.169.254")),
        ("2002:7f00:1::", Some("127.0.0.1")),
        // The example of RFC 4380, 4: 192.0.2.45 behind a Teredo server at 65.54.227.120.
        ("2001:0:4136:e378:8000:63bf:3fff:fdd2", Some("192.0.2.45")),
        ("2606:4700::5efe:10.0.0.1", Some("10.0.0.1")),
        ("2606:4700::200:5efe:10.0.0.1", Some("10.0.0.1")),
        ("2606:4700::400:5efe:10.0.0.1", None),
        ("64:ff9b:1::7f00:1", None),
        ("2606:4700::1111", None),
    ] {
        let found = embedded_ipv4(address.parse().unwrap());
        assert_eq!(found, inside.map(|inside| inside.parse().unwrap()), "{address}");
    }
}

/// Whether an address is public by the tables of the standard library, which are not ours.
fn std_finds_fault(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            v4.is_private()
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.is_multicast()
                || v4.is_broadcast()
                || v4.is_documentation()
                || v4.is_unspecified()
                || v4.octets()[0] == 0
        }
        IpAddr::V6(v6) => {
            v6.is_loopback()
                || v6.is_multicast()
                || v6.is_unspecified()
                || v6.is_unique_local()
                || v6.is_unicast_link_local()
                || v6.to_ipv4().is_some()
        }
    }
}

/// Evenly spread addresses are hardly ever in a special range. So most are drawn from in and around those ranges.
fn near_a_range() -> impl Strategy<Value = IpAddr> {
    let v4 = (0..V4.len(), any::<u32>(), 0u32..=32).prop_map(|(row, noise, shift)| {
        IpAddr::V4(Ipv4Addr::from_bits(V4[row].0.to_bits() ^ noise.checked_shr(shift).unwrap_or(0)))
    });
    let v6 = (0..V6.len(), any::<u128>(), 0u32..=128).prop_map(|(row, noise, shift)| {
        IpAddr::V6(Ipv6Addr::from_bits(V6[row].0.0.to_bits() ^ noise.checked_shr(shift).unwrap_or(0)))
    });
    prop_oneof![
        v4,
        v6,
        any::<u32>().prop_map(|bits| IpAddr::V4(bits.into())),
        any::<u128>().prop_map(|bits| IpAddr::V6(bits.into()))
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_that_is_not_global_unicast_passes(address in near_a_range()) {
        if classify(address).is_none() {
            prop_assert!(!std_finds_fault(address));
            if let IpAddr::V6(address) = address {
                prop_assert_eq!(address.segments()[0] >> 13, 1, "outside 2000::/3");
                prop_assert_eq!(embedded_ipv4(address), None);
            }
        }
    }
}
