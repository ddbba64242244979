//! An HTTP server that no client can block. Connections are bounded, and the one that has been idle longest makes room for
//! a new one. Every head must come in time. A stop lets running requests finish.
//!
//! It serves HTTP/1.1 only. TLS and HTTP/2 are the gateway's task.

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
use crowd::{Crowd, OpenConnection};

/// The wait after an `accept` that failed because something is used up, for instance file descriptors.
const ACCEPT_DELAY: Duration = Duration::from_millis(200);

/// Connections that the kernel holds until we accept them. The kernel allows at most `net.core.somaxconn`, which is 4096 by
/// default. If there is no room for a connection, its client tries again only after a second. With a backlog of 128 that
/// happened to every 129th connection of a burst.
const BACKLOG: u32 = 4_096;

/// How many connections clients may have, and how long they may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Open connections. To accept one more, the server closes the connection that has waited longest for a request.
    pub connections: usize,
    /// The time for the first head on a new connection.
    pub head: Duration,
    /// The time for the next head on a connection that has carried a request.
    pub idle: Duration,
    /// If a client does not take sent bytes for this long, it counts as gone. (On Linux. Other systems use their own
    /// time.)
    pub stalled: Duration,
}

#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}; free the port or set {setting} to another address")]
pub struct BindError {
    address: SocketAddr,
    setting: &'static str,
    source: io::Error,
}

/// Listens on `address`, the value of `setting`.
pub fn listen(address: SocketAddr, setting: &crate::Setting) -> Result<TcpListener, BindError> {
    let listen = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    listen().map_err(|source| BindError { address, setting: setting.name, source })
}

/// Serves one listener, as [`Server::serve`] does.
pub async fn serve(
    name: &'static str,
    listener: TcpListener,
    router: Router,
    limits: Limits,
    shutdown: &Shutdown,
) {
    Server::new(name, limits).serve(listener, router, shutdown).await;
}

/// Serves one or more listeners, whose clients share the limits.
pub struct Server {
    /// For the log.
    name: &'static str,
    limits: Limits,
    crowd: Arc<Crowd>,
}

impl Server {
    pub fn new(name: &'static str, limits: Limits) -> Self {
        Self { name, limits, crowd: Crowd::new(name, descriptors::connections(name, limits.connections)) }
    }

    /// Serves until the soft token is cancelled. Then lets open requests finish until the hard token is cancelled.
    /// Handlers find the peer's address as `ConnectInfo<SocketAddr>`.
    pub async fn serve(&self, listener: TcpListener, router: Router, shutdown: &Shutdown) {
        let Self { name, limits, ref crowd } = *self;
        let connections = TaskTracker::new();
        let serve_one = |open: Arc<OpenConnection>, stream, peer| {
            let served = connection::serve(stream, peer, router.clone(), limits, open, shutdown.clone());
            connections.spawn(served);
        };
        let mut not_entered = None;
        loop {
            let accepted = tokio::select! {
                () = shutdown.soft().cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    tokio::select! {
                        () = shutdown.soft().cancelled() => {
                            not_entered = Some((stream, peer));
                            break;
                        }
                        open = crowd.enter() => serve_one(open, stream, peer),
                    }
                    // Let the connection that made room close now. Otherwise a burst would need more files than there are.
                    yield_now().await;
                }
                // The client was gone before we accepted its connection.
                Err(error) if is_the_clients(&error) => {}
                Err(error) => {
                    background_error!(name, error, "a connection could not be accepted");
                    sleep(ACCEPT_DELAY).await;
                }
            }
        }
        // Clients that are connected already are still served. New clients are refused at once, so that they go to another
        // process instead of waiting for this one.
        for (stream, peer) in not_entered.into_iter().chain(waiting(name, listener)) {
            // Connections beyond the limit are closed.
            if let Some(open) = crowd.try_enter() {
                serve_one(open, stream, peer);
            }
        }
        connections.close();
        connections.wait().await;
    }
}

/// Closes the listener. Returns the connections that the kernel had accepted for it, because closing would reset them.
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
        background_error!(name, error, "connections that were not accepted yet are closed");
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
