//! One connection: its requests one after the other, its deadlines, and its end.

use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, Request};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::Limits;
use super::crowd::OpenConnection;
use super::sent::{AnswerBody, ClientSocket};
use super::unread::Lingering;
use crate::shutdown::Shutdown;

/// How long a stop waits for the first request on a new connection. A gateway opens a connection for each request, and must
/// never have to repeat a POST that it has sent. Its request follows within a round trip.
const FIRST_REQUEST: Duration = Duration::from_millis(500);

/// The largest head of a request, and the size of the buffer for an answer. Gateways allow heads of 32 KiB by default. The
/// unfinished heads of all connections together must fit into memory.
const BUFFER: usize = 64 << 10;

/// Serves a connection to its end. The end comes early if the process stops, or if the connection must make room.
pub(super) async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    limits: Limits,
    open: Arc<OpenConnection>,
    shutdown: Shutdown,
) {
    if let Err(error) = prepare(&stream, limits.stalled) {
        tracing::debug!(%error, "a connection was closed before it was served");
        return;
    }
    let router = TowerToHyperService::new(router);
    let used = CancellationToken::new();
    let service = service_fn(|mut request: Request<Incoming>| {
        used.cancel();
        open.begin();
        request.extensions_mut().insert(ConnectInfo(peer));
        let answering = router.call(request.map(Lingering::new));
        let open = Arc::clone(&open);
        async move { Ok::<_, Infallible>(answering.await?.map(|body| AnswerBody::new(body, open))) }
    });
    let stream = TokioIo::new(ClientSocket::new(stream, Arc::clone(&open)));
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.idle)
        .max_buf_size(BUFFER)
        .serve_connection(stream, service);
    tokio::pin!(serving);
    let first_request = async {
        shutdown.soft().cancelled().await;
        // `used` is never reset, so this waits only for a connection that has carried no request yet.
        let _either = timeout(FIRST_REQUEST, used.cancelled()).await;
    };
    // A connection that has carried no request yet may wait for a shorter time than one that has.
    let no_request = async {
        if timeout(limits.head, used.cancelled()).await.is_ok() {
            pending::<()>().await;
        }
    };
    let goes = async {
        tokio::select! {
            () = first_request => {}
            () = open.told_to_go() => {}
        }
    };
    let served = tokio::select! {
        served = serving.as_mut() => served,
        () = no_request => return,
        () = goes => {
            if !open.has_request() {
                return;
            }
            // Answer a request that came at the same moment, but no further one.
            serving.as_mut().graceful_shutdown();
            tokio::select! {
                served = serving.as_mut() => served,
                () = shutdown.hard().cancelled() => return,
            }
        }
    };
    // Clients hang up, send garbage and fall silent. That is no failure of ours, so only the debug log has it.
    if let Err(error) = served {
        tracing::debug!(%error, "a connection ended badly");
    }
}

/// Makes the system send each write at once, and end the connection if its client has vanished or stopped reading. Without
/// this, a write could wait for such a client for ever.
fn prepare(stream: &TcpStream, stalled: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    // Probes find a client that vanished while there was nothing to send. Their interval is in whole seconds.
    let probe_after = (stalled / 2).max(Duration::from_secs(1));
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(probe_after).with_interval(probe_after))?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(stalled))?;
    Ok(())
}
