//! Ports for processes that must be told which port to use.

use std::{
    net::{Ipv4Addr, TcpListener},
    process,
    sync::atomic::{AtomicU32, Ordering},
};

/// Below the range from which kernels take the ports of outgoing connections (Linux: from 32768). So no outgoing
/// connection can take a port between our check and the bind of the process.
const FIRST: u32 = 18_000;
const COUNT: u32 = 14_000;

/// A free port on loopback, which no other call in this process returns soon.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        // Test processes that run in parallel start far from each other.
        let offset = process::id().wrapping_mul(101).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = u16::try_from(FIRST + offset % COUNT).expect("both constants keep it below 65536");
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}
