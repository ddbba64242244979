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
use super::crowd::Place;
use super::sent::{Answer, Watched};
use super::unread::Lingering;
use crate::shutdown::Shutdown;

/// How long a stop waits for the first request on a connection that has just been made. A gateway makes one for each
/// request, and must not repeat a POST that it has sent; its request follows within a round trip.
const FIRST_REQUEST: Duration = Duration::from_millis(500);

/// The largest head of a request, and what is gathered of an answer before it is sent. Gateways allow 32 KiB by default, and
/// unfinished heads of all connections together must fit into memory.
const BUFFER: usize = 64 << 10;

/// Serves a connection to its end, which comes early when the process stops or the place is needed.
pub(super) async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    limits: Limits,
    place: Arc<Place>,
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
        place.begin();
        request.extensions_mut().insert(ConnectInfo(peer));
        let answering = router.call(request.map(Lingering::new));
        let place = Arc::clone(&place);
        async move { Ok::<_, Infallible>(answering.await?.map(|body| Answer::new(body, place))) }
    });
    let stream = TokioIo::new(Watched::new(stream, Arc::clone(&place)));
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
    // Whoever connects without asking for anything gives its place up sooner than whoever has asked before.
    let no_request = async {
        if timeout(limits.head, used.cancelled()).await.is_ok() {
            pending::<()>().await;
        }
    };
    let goes = async {
        tokio::select! {
            () = first_request => {}
            () = place.told_to_go() => {}
        }
    };
    let served = tokio::select! {
        served = serving.as_mut() => served,
        () = no_request => return,
        () = goes => {
            if !place.has_request() {
                return;
            }
            // A request that came at the same moment is answered, and none after it.
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
