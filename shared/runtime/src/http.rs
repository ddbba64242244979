//! An HTTP server that cannot be held by its clients: bounded connections of which the idlest makes room, a time for every
//! head, and a stop that lets running requests finish.
//!
//! It serves HTTP/1.1; TLS and HTTP/2 are the gateway's.

mod connection;
mod crowd;
mod sent;
mod unread;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::yield_now;
use tokio::time::sleep;
use tokio_util::task::TaskTracker;

use crate::shutdown::Shutdown;
use crate::{background_error, descriptors};
pub(crate) use crowd::METRICS;
use crowd::{Crowd, Place};

/// The wait after an `accept` that failed for want of something, file descriptors say.
const ACCEPT_DELAY: Duration = Duration::from_millis(200);

/// Connections that the kernel holds until we accept them; it allows `net.core.somaxconn` of them, which is 4096 unless set.
/// One that finds no room is tried again by its client only after a second, and at a backlog of 128 that met each 129th of
/// a burst.
const BACKLOG: u32 = 4_096;

/// What clients may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Open at the same time. For one more, the connection that has waited longest for a request is closed.
    pub connections: usize,
    /// For the first head on a new connection.
    pub head: Duration,
    /// For the next head on a connection that has carried a request.
    pub idle: Duration,
    /// For a client to take what was sent to it, before it counts as gone. (Linux; elsewhere the system's own.)
    pub stalled: Duration,
}

#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}; free the port or set {setting} to another address")]
pub struct BindError {
    address: SocketAddr,
    setting: &'static str,
    source: io::Error,
}

/// Listens on the address that `setting` named.
pub fn listen(address: SocketAddr, setting: &crate::Setting) -> Result<TcpListener, BindError> {
    let listen = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    listen().map_err(|source| BindError { address, setting: setting.name, source })
}

/// Serves until the soft token, then lets open requests finish until the hard one. Handlers find the peer's
/// address as `ConnectInfo<SocketAddr>`.
pub async fn serve(
    name: &'static str,
    listener: TcpListener,
    router: Router,
    limits: Limits,
    shutdown: &Shutdown,
) {
    let crowd = Crowd::new(name, descriptors::connections(name, limits.connections));
    let connections = TaskTracker::new();
    let serve_one = |place: Arc<Place>, stream, peer| {
        let served = connection::serve(stream, peer, router.clone(), limits, place, shutdown.clone());
        connections.spawn(served);
    };
    let mut without_a_place = None;
    loop {
        let accepted = tokio::select! {
            () = shutdown.soft().cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                tokio::select! {
                    () = shutdown.soft().cancelled() => {
                        without_a_place = Some((stream, peer));
                        break;
                    }
                    place = crowd.enter() => serve_one(place, stream, peer),
                }
                // Now whoever made room for it closes its connection: a burst would else hold more files than there are.
                yield_now().await;
            }
            // The client was gone before we took its connection.
            Err(error) if is_the_clients(&error) => {}
            Err(error) => {
                background_error!(name, error, "a connection could not be accepted");
                sleep(ACCEPT_DELAY).await;
            }
        }
    }
    // Who is connected already is still served. New clients get a refusal at once, and so go to another process, instead
    // of waiting for this one.
    for (stream, peer) in without_a_place.into_iter().chain(waiting(name, listener)) {
        // Beyond the limit they are turned away.
        if let Some(place) = crowd.try_enter() {
            serve_one(place, stream, peer);
        }
    }
    connections.close();
    connections.wait().await;
}

/// Closes the listener, and returns whom the kernel had accepted for it by then: they would be reset.
fn waiting(name: &'static str, listener: TcpListener) -> Vec<(TcpStream, SocketAddr)> {
    let mut waiting = Vec::new();
    let take_all = || -> io::Result<()> {
        let listener = listener.into_std()?;
        loop {
            match listener.accept() {
                Ok((stream, peer)) => {
                    stream.set_nonblocking(true)?;
                    waiting.push((TcpStream::from_std(stream)?, peer));
                }
                Err(error) if is_the_clients(&error) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    };
    if let Err(error) = take_all() {
        background_error!(name, error, "those who still waited for a connection are turned away");
    }
    waiting
}

fn is_the_clients(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

#[cfg(test)]
mod tests;
