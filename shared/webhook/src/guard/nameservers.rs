//! The nameservers that the operator names: `FOREMAN_WEBHOOK_NAMESERVERS`.

use std::net::{IpAddr, SocketAddr};

use hickory_resolver::config::{ConnectionConfig, NameServerConfig};

/// The port of nameservers.
pub(super) const PORT: u16 = 53;

/// As many as the resolvers of most systems use.
const MOST: usize = 3;

/// Who is asked for the names of receivers, instead of those in `/etc/resolv.conf`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nameservers(Vec<SocketAddr>);

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NameserversError {
    #[error("expected addresses separated by commas, such as 9.9.9.9,10.0.0.2:5353; {0:?} is none")]
    NotAnAddress(String),
    #[error("expected 1 to {MOST} addresses")]
    Count,
}

impl Nameservers {
    /// Reads `9.9.9.9,[2620:fe::fe]:53`.
    pub fn parse(text: &str) -> Result<Self, NameserversError> {
        let addresses = text.split(',').map(str::trim).map(read).collect::<Result<Vec<_>, _>>()?;
        if addresses.len() > MOST { Err(NameserversError::Count) } else { Ok(Self(addresses)) }
    }

    pub(super) fn config(&self) -> Vec<NameServerConfig> {
        self.0.iter().map(|address| server(*address)).collect()
    }
}

pub(super) fn server(address: SocketAddr) -> NameServerConfig {
    let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
    for connection in &mut connections {
        connection.port = address.port();
    }
    NameServerConfig::new(address.ip(), true, connections)
}

fn read(text: &str) -> Result<SocketAddr, NameserversError> {
    let address = text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, PORT)).or_else(|_| text.parse());
    address.map_err(|_| NameserversError::NotAnAddress(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_with_and_without_a_port_and_anything_else_is_refused() {
        let read = |text| Nameservers::parse(text).map(|servers| servers.0);
        assert_eq!(read("9.9.9.9"), Ok(vec!["9.9.9.9:53".parse().unwrap()]));
        assert_eq!(
            read("127.0.0.1:5353, 2620:fe::fe,[::1]:54"),
            Ok(["127.0.0.1:5353", "[2620:fe::fe]:53", "[::1]:54"].map(|text| text.parse().unwrap()).to_vec())
        );
        for text in ["", "dns.example", "9.9.9.9,", "9.9.9.9:99999"] {
            assert!(matches!(read(text), Err(NameserversError::NotAnAddress(_))), "{text}");
        }
        assert_eq!(read("1.1.1.1,1.1.1.2,1.1.1.3,1.1.1.4"), Err(NameserversError::Count));
    }
}
