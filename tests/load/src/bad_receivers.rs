//! Receivers that keep their senders waiting. One port of all loopback addresses stands for as many origins as a
//! scenario wants: `127.0.0.1`, `127.0.0.2` and so on.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tokio::time::sleep;

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 4_096;

/// How a receiver treats a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Takes it and never answers.
    Hang,
    /// Answers 200 at once, and then sends a body without end, a byte per second.
    Drip,
}

/// Bad receivers with a thread of their own. Dropping the value ends them.
#[derive(Debug)]
pub(crate) struct BadReceivers {
    port: u16,
    connections: Arc<Connections>,
    _stop: oneshot::Sender<()>,
}

#[derive(Debug, Default)]
struct Connections {
    now: AtomicUsize,
    most: AtomicUsize,
}

impl BadReceivers {
    pub(crate) fn start(manner: Manner) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = {
            let _inside = runtime.enter();
            let socket = TcpSocket::new_v4()?;
            socket.bind(([0, 0, 0, 0], 0).into())?;
            socket.listen(BACKLOG)?
        };
        let port = listener.local_addr()?.port();
        let connections = Arc::<Connections>::default();
        let (stop, stopped) = oneshot::channel::<()>();
        let counted = Arc::clone(&connections);
        thread::spawn(move || {
            let accept = async {
                loop {
                    let (stream, _) = listener.accept().await.expect("there are enough files for them");
                    tokio::spawn(treat(stream, manner, Arc::clone(&counted)));
                }
            };
            runtime.block_on(async {
                tokio::select! {
                    () = accept => {}
                    _ = stopped => {}
                }
            });
        });
        Ok(Self { port, connections, _stop: stop })
    }

    /// The URL of the receiver with this number.
    pub(crate) fn url(&self, number: usize) -> String {
        // 127.0.0.1 itself is where the healthy ones are.
        let [.., b, c, d] = (number + 2).to_be_bytes();
        format!("http://127.{b}.{c}.{d}:{}/", self.port)
    }

    /// The most connections that were open at the same time.
    pub(crate) fn most_at_once(&self) -> usize {
        self.connections.most.load(Ordering::Relaxed)
    }
}

async fn treat(mut stream: TcpStream, manner: Manner, connections: Arc<Connections>) {
    let now = connections.now.fetch_add(1, Ordering::Relaxed) + 1;
    connections.most.fetch_max(now, Ordering::Relaxed);
    let mut request = [0; 4_096];
    match manner {
        Manner::Hang => while stream.read(&mut request).await.is_ok_and(|read| read > 0) {},
        Manner::Drip => {
            let mut next: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\n";
            if stream.read(&mut request).await.is_ok() {
                while stream.write_all(next).await.is_ok() {
                    sleep(Duration::from_secs(1)).await;
                    next = b".";
                }
            }
        }
    }
    connections.now.fetch_sub(1, Ordering::Relaxed);
}
