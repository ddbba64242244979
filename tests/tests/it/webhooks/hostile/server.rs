//! A server that treats its callers badly, byte by byte: no HTTP library would let us.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;

/// What the server does with each connection.
#[derive(Debug, Clone)]
pub(super) enum Manner {
    /// Hangs up without reading.
    Closes,
    /// Reads the request, then resets the connection.
    Resets,
    /// Reads the request, says this, and hangs up.
    Breaks(Vec<u8>),
    /// Reads the request, says this, and keeps the connection until the caller hangs up.
    Says(Vec<u8>),
    /// Reads the request, says the first, then the second again and again, with this pause after each.
    Repeats(Vec<u8>, Vec<u8>, Duration),
}

/// Dropping the value ends the server.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) port: u16,
    counts: Arc<Counts>,
    listening: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Counts {
    open: AtomicUsize,
    repeated: AtomicUsize,
}

/// One open connection.
struct Open(Arc<Counts>);

impl Open {
    fn count(counts: &Arc<Counts>) -> Self {
        counts.open.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(counts))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Server {
    pub(super) async fn start(address: &str, tls: Option<TlsAcceptor>, manner: Manner) -> Self {
        let listener = TcpListener::bind((address, 0)).await.unwrap();
        let port = listener.local_addr().as_ref().map(SocketAddr::port).unwrap();
        let counts = Arc::<Counts>::default();
        let counted = Arc::clone(&counts);
        let listening = tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                let (tls, manner, open) = (tls.clone(), manner.clone(), Open::count(&counted));
                tokio::spawn(async move {
                    // However it ends, the caller has hung up or was hung up on.
                    let _over = serve(connection, tls, &manner, &open.0.repeated).await;
                });
            }
        });
        Self { port, counts, listening }
    }

    /// Connections that nobody has closed.
    pub(super) fn open(&self) -> usize {
        self.counts.open.load(Ordering::SeqCst)
    }

    /// Bytes of repetitions that callers took, or that the sockets hold.
    pub(super) fn repeated(&self) -> usize {
        self.counts.repeated.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

async fn serve(
    mut connection: TcpStream,
    tls: Option<TlsAcceptor>,
    manner: &Manner,
    repeated: &AtomicUsize,
) -> io::Result<()> {
    match (manner, tls) {
        (Manner::Closes, _) => Ok(()),
        (Manner::Resets, _) => {
            read_request(&mut connection).await?;
            connection.set_zero_linger()
        }
        (_, Some(tls)) => talk(&mut tls.accept(connection).await?, manner, repeated).await,
        (_, None) => talk(&mut connection, manner, repeated).await,
    }
}

async fn talk(
    connection: &mut (impl AsyncRead + AsyncWrite + Unpin),
    manner: &Manner,
    repeated: &AtomicUsize,
) -> io::Result<()> {
    read_request(connection).await?;
    match manner {
        Manner::Closes | Manner::Resets => {}
        Manner::Breaks(words) => connection.write_all(words).await?,
        Manner::Says(words) => {
            connection.write_all(words).await?;
            connection.flush().await?;
            tokio::io::copy(connection, &mut tokio::io::sink()).await?;
        }
        Manner::Repeats(first, again, pause) => {
            connection.write_all(first).await?;
            loop {
                connection.write_all(again).await?;
                repeated.fetch_add(again.len(), Ordering::SeqCst);
                if !pause.is_zero() {
                    sleep(*pause).await;
                }
            }
        }
    }
    Ok(())
}

/// A webhook is one JSON object, so its request ends with this brace.
async fn read_request(connection: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"}") {
        if connection.read_buf(&mut request).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}
