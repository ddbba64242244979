//! An HTTP server that cannot be held by its clients: bounded connections, a time for every head, and a stop that
//! lets running requests finish.
//!
//! It serves HTTP/1.1; TLS and HTTP/2 are the gateway's.

mod unread;

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
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::background_error;
use crate::shutdown::Shutdown;
use unread::Lingering;

/// The wait after an `accept` that failed for want of something, file descriptors say.
const ACCEPT_DELAY: Duration = Duration::from_millis(200);

/// How long a stop waits for the first request on a connection that has just been made. A gateway makes one for each
/// request, and must not repeat a POST that it has sent; its request follows within a round trip.
const FIRST_REQUEST: Duration = Duration::from_millis(500);

/// What clients may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Open at the same time; more wait in the listen queue.
    pub connections: usize,
    /// For a request's head to arrive, and for an idle connection to be used again.
    pub head: Duration,
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
    let serve_one = |permit, stream, peer| {
        let connection = connection(stream, peer, router.clone(), limits, shutdown.clone());
        connections.spawn(async move {
            connection.await;
            drop(permit);
        });
    };
    loop {
        let (permit, accepted) = tokio::select! {
            () = shutdown.soft().cancelled() => break,
            accepted = accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => serve_one(permit, stream, peer),
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
    for (stream, peer) in waiting(name, listener) {
        // Beyond the limit they are turned away.
        if let Ok(permit) = Arc::clone(&free).try_acquire_owned() {
            serve_one(permit, stream, peer);
        }
    }
    connections.close();
    connections.wait().await;
}

async fn connection(stream: TcpStream, peer: SocketAddr, router: Router, limits: Limits, shutdown: Shutdown) {
    if let Err(error) = prepare(&stream, limits.stalled) {
        tracing::debug!(%error, "a connection was closed before it was served");
        return;
    }
    let router = TowerToHyperService::new(router);
    let used = CancellationToken::new();
    let service = service_fn(|mut request: Request<Incoming>| {
        used.cancel();
        request.extensions_mut().insert(ConnectInfo(peer));
        router.call(request.map(Lingering::new))
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(serving);
    let first_request = async {
        shutdown.soft().cancelled().await;
        // Only an unused connection is waited for: `used` stays as it is once it is.
        let _either = timeout(FIRST_REQUEST, used.cancelled()).await;
    };
    let served = tokio::select! {
        served = serving.as_mut() => served,
        () = first_request => {
            // Closes idle and unused connections, and takes no further request on busy ones.
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

/// Tokens go out as they come, and a client that has vanished or stopped reading gives its place up: writes alone
/// would wait for it for ever.
fn prepare(stream: &TcpStream, stalled: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    // A client that vanished while there is nothing to send is found by probes, counted in whole seconds.
    let probe_after = (stalled / 2).max(Duration::from_secs(1));
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(probe_after).with_interval(probe_after))?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(stalled))?;
    Ok(())
}

fn is_the_clients(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use axum::body::{Body, Bytes};
    use axum::routing::get;
    use futures_util::stream;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::Notify;
    use tokio::task::JoinHandle;

    use super::*;

    const LIMITS: Limits =
        Limits { connections: 8, head: Duration::from_secs(30), stalled: Duration::from_secs(60) };

    async fn start(router: Router, limits: Limits) -> (SocketAddr, Shutdown, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, shutdown) = (listener.local_addr().unwrap(), Shutdown::new());
        let serving = tokio::spawn({
            let shutdown = shutdown.clone();
            async move { serve("test_http", listener, router, limits, &shutdown).await }
        });
        (address, shutdown, serving)
    }

    async fn send(stream: &mut TcpStream, path: &str) {
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: h\r\n\r\n").as_bytes()).await.unwrap();
    }

    /// Reads until the body `end` has come, or the connection is closed.
    async fn read_until(stream: &mut TcpStream, end: &str) -> String {
        let mut text = String::new();
        let mut buffer = [0; 1_024];
        while !text.ends_with(end) {
            match stream.read(&mut buffer).await.unwrap() {
                0 => break,
                read => text.push_str(std::str::from_utf8(&buffer[..read]).unwrap()),
            }
        }
        text
    }

    #[tokio::test]
    async fn handlers_see_the_address_of_their_client() {
        let router = Router::new()
            .route("/", get(async |ConnectInfo(peer): ConnectInfo<SocketAddr>| peer.to_string()));
        let (address, shutdown, serving) = start(router, LIMITS).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        let peer = stream.local_addr().unwrap().to_string();
        send(&mut stream, "/").await;
        assert!(read_until(&mut stream, &peer).await.starts_with("HTTP/1.1 200"));
        shutdown.stop();
        serving.await.unwrap();
    }

    #[tokio::test]
    async fn a_request_refused_before_its_body_was_read_still_hears_why() {
        const LARGE: usize = 16 << 20;
        let router = Router::new().route("/", axum::routing::post(async || "refused"));
        let (address, shutdown, serving) = start(router, LIMITS).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!("POST / HTTP/1.1\r\nhost: h\r\ncontent-length: {LARGE}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        // As gateways do: all of it first.
        stream.write_all(&vec![b'x'; LARGE]).await.unwrap();
        assert!(read_until(&mut stream, "refused").await.starts_with("HTTP/1.1 200"));
        shutdown.stop();
        serving.await.unwrap();
    }

    #[tokio::test]
    async fn a_stop_refuses_new_clients_lets_a_running_request_finish_and_closes_idle_ones() {
        let (entered, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let slow = get({
            let (entered, release) = (Arc::clone(&entered), Arc::clone(&release));
            async move || {
                entered.notify_one();
                release.notified().await;
                "slow"
            }
        });
        let (address, shutdown, serving) =
            start(Router::new().route("/slow", slow).route("/fast", get("fast")), LIMITS).await;
        let mut idle = TcpStream::connect(address).await.unwrap();
        send(&mut idle, "/fast").await;
        read_until(&mut idle, "fast").await;
        let mut unused = TcpStream::connect(address).await.unwrap();
        let mut busy = TcpStream::connect(address).await.unwrap();
        send(&mut busy, "/slow").await;
        entered.notified().await;

        shutdown.stop();
        assert_eq!(read_until(&mut idle, "?").await, "");
        assert_eq!(read_until(&mut unused, "?").await, "");
        assert!(TcpStream::connect(address).await.is_err());
        assert!(!serving.is_finished());
        release.notify_one();
        let answer = read_until(&mut busy, "slow").await;
        assert!(answer.contains("connection: close") && answer.ends_with("slow"), "{answer}");
        serving.await.unwrap();
    }

    #[tokio::test]
    async fn whoever_is_connected_when_the_stop_comes_may_still_ask() {
        let router = Router::new().route("/fast", get("fast"));
        let (address, shutdown, serving) = start(router.clone(), LIMITS).await;
        let mut unused = TcpStream::connect(address).await.unwrap();
        let mut later = TcpStream::connect(address).await.unwrap();
        send(&mut later, "/fast").await;
        read_until(&mut later, "fast").await;
        // By now the first one is accepted too.
        shutdown.stop();
        send(&mut unused, "/fast").await;
        assert!(read_until(&mut unused, "fast").await.ends_with("fast"));
        serving.await.unwrap();

        // Nobody accepts yet, and when somebody could, it is to stop.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut waiting = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        send(&mut waiting, "/fast").await;
        let shutdown = Shutdown::new();
        shutdown.stop();
        serve("test_http", listener, router, LIMITS, &shutdown).await;
        assert!(read_until(&mut waiting, "fast").await.ends_with("fast"));
    }

    #[tokio::test]
    async fn the_hard_token_ends_requests_that_would_not() {
        let entered = Arc::new(Notify::new());
        let stuck = get({
            let entered = Arc::clone(&entered);
            async move || {
                entered.notify_one();
                pending::<()>().await;
            }
        });
        let (address, shutdown, serving) = start(Router::new().route("/", stuck), LIMITS).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        send(&mut stream, "/").await;
        entered.notified().await;
        shutdown.stop();
        shutdown.hard().cancel();
        serving.await.unwrap();
        assert_eq!(read_until(&mut stream, "?").await, "");
    }

    #[tokio::test]
    async fn a_head_that_does_not_come_gives_the_connection_to_the_next_client() {
        let limits = Limits { connections: 1, head: Duration::from_millis(50), ..LIMITS };
        let (address, shutdown, serving) = start(Router::new().route("/", get("fast")), limits).await;
        let mut dripping = TcpStream::connect(address).await.unwrap();
        dripping.write_all(b"GET / HT").await.unwrap();
        let mut next = TcpStream::connect(address).await.unwrap();
        send(&mut next, "/").await;
        assert!(read_until(&mut next, "fast").await.starts_with("HTTP/1.1 200"));
        shutdown.stop();
        serving.await.unwrap();
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_client_that_stops_reading_gives_its_connection_to_the_next_client() {
        let limits = Limits { connections: 1, stalled: Duration::from_millis(300), ..LIMITS };
        let endless = get(async || {
            let chunk = Bytes::from(vec![b'x'; 1 << 20]);
            Body::from_stream(stream::repeat_with(move || Ok::<_, io::Error>(chunk.clone())))
        });
        let router = Router::new().route("/endless", endless).route("/fast", get("fast"));
        let (address, shutdown, serving) = start(router, limits).await;
        let mut stalled = TcpStream::connect(address).await.unwrap();
        send(&mut stalled, "/endless").await;
        let mut next = TcpStream::connect(address).await.unwrap();
        send(&mut next, "/fast").await;
        assert!(read_until(&mut next, "fast").await.starts_with("HTTP/1.1 200"));
        shutdown.stop();
        serving.await.unwrap();
    }

    #[tokio::test]
    async fn an_address_in_use_is_told_with_the_setting_that_names_it() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = taken.local_addr().unwrap();
        let error = bind(address, &crate::settings::api::ADDR).await.unwrap_err().to_string();
        assert!(error.starts_with(&format!("cannot listen on {address}: ")), "{error}");
        assert!(error.ends_with("; free the port or set FOREMAN_API_ADDR to another address"), "{error}");
    }
}
