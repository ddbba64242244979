//! An HTTP server that cannot be held by its clients: bounded connections, a time for every head, and a stop that
//! lets running requests finish.
//!
//! It serves HTTP/1.1; TLS and HTTP/2 are the gateway's.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::sleep;
use tokio_util::task::TaskTracker;

use crate::background_error;
use crate::shutdown::Shutdown;

/// The wait after an `accept` that failed for want of something, file descriptors say.
const ACCEPT_DELAY: Duration = Duration::from_millis(200);

/// What clients may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Open at the same time; more wait in the listen queue.
    pub connections: usize,
    /// For a request's head to arrive, and for an idle connection to be used again.
    pub head: Duration,
}

#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}; free the port or set {setting} to another address")]
pub struct BindError {
    address: SocketAddr,
    setting: &'static str,
    source: io::Error,
}

/// Binds the address that `setting` named.
pub async fn bind(address: SocketAddr, setting: &crate::Setting) -> Result<TcpListener, BindError> {
    TcpListener::bind(address).await.map_err(|source| BindError { address, setting: setting.name, source })
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
    let free = Arc::new(Semaphore::new(limits.connections));
    let connections = TaskTracker::new();
    let accept = async || {
        let Ok(permit) = Arc::clone(&free).acquire_owned().await else {
            unreachable!("the semaphore is never closed")
        };
        (permit, listener.accept().await)
    };
    loop {
        let (permit, accepted) = tokio::select! {
            () = shutdown.soft().cancelled() => break,
            accepted = accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let connection = connection(stream, peer, router.clone(), limits, shutdown.clone());
                connections.spawn(async move {
                    connection.await;
                    drop(permit);
                });
            }
            // The client was gone before we took its connection.
            Err(error) if is_the_clients(&error) => {}
            Err(error) => {
                background_error!(name, error, "a connection could not be accepted");
                sleep(ACCEPT_DELAY).await;
            }
        }
    }
    // New clients get a refusal at once, and so go to another process, instead of waiting for this one.
    drop(listener);
    connections.close();
    connections.wait().await;
}

async fn connection(stream: TcpStream, peer: SocketAddr, router: Router, limits: Limits, shutdown: Shutdown) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection was closed before it was served");
        return;
    }
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        router.call(request)
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(serving);
    let served = tokio::select! {
        served = serving.as_mut() => served,
        () = shutdown.soft().cancelled() => {
            serving.as_mut().graceful_shutdown();
            tokio::select! {
                served = serving.as_mut() => served,
                () = shutdown.hard().cancelled() => return,
            }
        }
    };
    // Clients hang up, send garbage and fall silent: theirs to know, ours only when looking for something.
    if let Err(error) = served {
        tracing::debug!(%error, "a connection ended badly");
    }
}

fn is_the_clients(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}
