//! Connections: accepting them, cutting them, and refusing them for a while.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::control::{Afterwards, Control};
use crate::http::{Cut, ResponseOrCut};
use crate::ollama::Ollama;
use crate::routes;

/// Ports below those that the system gives to outgoing connections, so that none of them takes the simulator's port
/// while it is away.
const PORTS: std::ops::Range<u16> = 15_000..32_000;

/// The listening side of a simulator.
#[derive(Debug)]
pub(crate) struct Server {
    addr: SocketAddr,
    control_addr: Option<SocketAddr>,
    ollama: Arc<Ollama>,
    /// What is being served now; `None` while the simulator is away.
    session: Mutex<Option<Session>>,
    stop: CancellationToken,
}

#[derive(Debug)]
struct Session {
    end: CancellationToken,
    tasks: TaskTracker,
}

impl Server {
    pub(crate) async fn start(ollama: Arc<Ollama>, stop: CancellationToken) -> io::Result<Arc<Self>> {
        let listener = listen(ollama.config.addr).await?;
        let control = match ollama.config.control_addr {
            Some(addr) => Some(listen(addr).await?),
            None => None,
        };
        let server = Arc::new(Self {
            addr: listener.local_addr()?,
            control_addr: control.as_ref().map(TcpListener::local_addr).transpose()?,
            ollama,
            session: Mutex::default(),
            stop,
        });
        *server.session.lock().await = Some(server.serve(listener));
        if let Some(control) = control {
            // Not part of a session, because it stays when the simulator goes away.
            server.serve(control);
        }
        Ok(server)
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(crate) fn control_addr(&self) -> Option<SocketAddr> {
        self.control_addr
    }

    /// Dies: resets every connection, loses all resident models, and refuses connections from now on.
    pub(crate) async fn go_away(&self) {
        let mut session = self.session.lock().await;
        if let Some(Session { end, tasks }) = session.take() {
            end.cancel();
            tasks.wait().await;
        }
        self.ollama.residency.lose_everything();
    }

    /// Listens again at the same address.
    pub(crate) async fn come_back(self: &Arc<Self>) -> io::Result<()> {
        let mut session = self.session.lock().await;
        if session.is_none() {
            *session = Some(self.serve(TcpListener::bind(self.addr).await?));
        }
        Ok(())
    }

    fn serve(self: &Arc<Self>, listener: TcpListener) -> Session {
        let session = Session { end: self.stop.child_token(), tasks: TaskTracker::new() };
        let (end, tasks, server) = (session.end.clone(), session.tasks.clone(), Arc::clone(self));
        session.tasks.spawn(async move {
            loop {
                let stream = tokio::select! {
                    biased;
                    () = end.cancelled() => return,
                    stream = listener.accept() => stream,
                };
                // A connection that broke before it was accepted is no reason to stop accepting others.
                let Ok((stream, _)) = stream else { continue };
                tasks.spawn(Arc::clone(&server).connection(stream, end.clone()));
            }
        });
        session.tasks.close();
        session
    }

    async fn connection(self: Arc<Self>, stream: TcpStream, end: CancellationToken) {
        _ = stream.set_nodelay(true);
        let control = Arc::new(Control::new(self.control_addr.is_some()));
        let service = {
            let (ollama, control) = (Arc::clone(&self.ollama), Arc::clone(&control));
            service_fn(move |request| {
                let (ollama, control) = (Arc::clone(&ollama), Arc::clone(&control));
                let answer: Pin<Box<dyn Future<Output = ResponseOrCut> + Send>> =
                    Box::pin(async move { routes::serve(&ollama, &control, request).await });
                answer
            })
        };
        let mut connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        let served = tokio::select! {
            biased;
            () = end.cancelled() => None,
            served = std::future::poll_fn(|cx| connection.poll_without_shutdown(cx)) => Some(served),
        };
        let parts = connection.into_parts();
        let cut = match &served {
            None => true,
            Some(Ok(())) => false,
            Some(Err(error)) => is_cut(error),
        };
        // Open requests end here, before the client can notice.
        drop(parts.service);
        let stream = parts.io.into_inner();
        if cut {
            // Nothing more is sent, and the client learns this at once.
            _ = stream.set_zero_linger();
        }
        drop(stream);
        if let Some(afterwards) = control.afterwards() {
            // A task of its own, because going away waits for every connection, including this one.
            tokio::spawn(self.then(afterwards));
        }
    }

    async fn then(self: Arc<Self>, afterwards: Afterwards) {
        match afterwards {
            Afterwards::Away(time) => {
                self.go_away().await;
                if let Some(time) = time {
                    self.back_after(time).await;
                }
            }
            Afterwards::Back => self.back_after(Duration::ZERO).await,
        }
    }

    /// Comes back, however long that takes: while the address is taken, there is nothing else to do.
    async fn back_after(self: &Arc<Self>, mut time: Duration) {
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(time) => {}
            }
            match self.come_back().await {
                Ok(()) => return,
                Err(_) => time = Duration::from_millis(50),
            }
        }
    }
}

async fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    if addr.port() != 0 {
        return TcpListener::bind(addr).await;
    }
    for _ in 0..100 {
        let port = rand::random_range(PORTS);
        match TcpListener::bind(SocketAddr::new(addr.ip(), port)).await {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            other => return other,
        }
    }
    TcpListener::bind(addr).await
}

/// Whether something cut the connection, as opposed to a client that went away.
fn is_cut(error: &hyper::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if error.is::<Cut>() {
            return true;
        }
        cause = error.source();
    }
    false
}
