//! A line between a process and a server, Postgres for instance. A test can make the line thin, silent or dead. A
//! process uses the line if its settings contain the line's [`url`](Line::url).

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf, tcp::OwnedWriteHalf},
    sync::{Mutex, watch},
    task::JoinHandle,
    time::{Duration, Instant, sleep_until},
};

/// How many bytes the line passes on at a time. Small, so that connections share a thin line fairly.
const PIECE: usize = 16 << 10;

/// A line with a port of its own. Dropping it ends the line.
#[derive(Debug)]
pub struct Line {
    port: u16,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    server: SocketAddr,
    /// Connections that were made before this many silences pass nothing on any more, but stay open.
    silences: watch::Sender<u64>,
    /// Connections that were made before this many cuts are closed.
    cuts: watch::Sender<u64>,
    /// Bytes per second in each direction, over all connections together; 0 means no limit.
    rate: AtomicU64,
    open: AtomicUsize,
    towards_server: Direction,
    towards_client: Direction,
}

/// One direction of the line, and until when earlier bytes occupy it.
#[derive(Debug, Default)]
struct Direction(Mutex<Option<Instant>>);

impl Line {
    /// A line to this port on loopback.
    pub async fn to(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let port = listener.local_addr().expect("a listener has an address").port();
        let shared = Arc::new(Shared {
            server: SocketAddr::from(([127, 0, 0, 1], server)),
            silences: watch::Sender::new(0),
            cuts: watch::Sender::new(0),
            rate: AtomicU64::new(0),
            open: AtomicUsize::new(0),
            towards_server: Direction::default(),
            towards_client: Direction::default(),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self { port, shared, accepting }
    }

    /// The line's own port, to which clients connect.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A URL of the server, with the line's port instead of the server's.
    pub fn url(&self, direct: &str) -> String {
        let server = format!(":{}/", self.shared.server.port());
        assert!(direct.contains(&server), "{direct} does not lead to port {}", self.shared.server.port());
        direct.replacen(&server, &format!(":{}/", self.port), 1)
    }

    /// From now on the open connections pass nothing on in either direction, and are not closed: as after a failover
    /// without a reset. New connections work.
    pub fn fall_silent(&self) {
        self.shared.silences.send_modify(|silences| *silences += 1);
    }

    /// Closes every connection that is open now.
    pub fn cut(&self) {
        self.shared.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Limits the line to this many bytes per second in each direction, over all connections together; 0 means no
    /// limit.
    pub fn throttle(&self, bytes_per_second: u64) {
        self.shared.rate.store(bytes_per_second, Ordering::Relaxed);
    }

    /// How many connections are open, silent ones included.
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::Relaxed)
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            shared.open.fetch_add(1, Ordering::Relaxed);
            // Either side may break the connection at any time. The other side then sees the connection closed.
            let _closed = carry(client, &shared).await;
            shared.open.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

async fn carry(client: TcpStream, shared: &Shared) -> io::Result<()> {
    let (silences, mut cuts) = (shared.silences.subscribe(), shared.cuts.subscribe());
    let server = TcpStream::connect(shared.server).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let there = pass(from_client, to_server, &shared.towards_server, shared, silences.clone());
    let back = pass(from_server, to_client, &shared.towards_client, shared, silences);
    tokio::select! {
        _ = cuts.changed() => Ok(()),
        ended = there => ended,
        ended = back => ended,
    }
}

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    direction: &Direction,
    shared: &Shared,
    mut silences: watch::Receiver<u64>,
) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        let read = tokio::select! {
            biased;
            // This future keeps both halves open until the cut.
            _ = silences.changed() => return std::future::pending().await,
            read = from.read(&mut piece) => read?,
        };
        if read == 0 {
            return to.shutdown().await;
        }
        direction.take(read, shared.rate.load(Ordering::Relaxed)).await;
        if silences.has_changed().unwrap_or(true) {
            return std::future::pending().await;
        }
        to.write_all(&piece[..read]).await?;
    }
}

impl Direction {
    /// Returns after the time that these bytes need on the line.
    async fn take(&self, bytes: usize, rate: u64) {
        if rate == 0 {
            return;
        }
        let mut taken = self.0.lock().await;
        let begins = taken.map_or_else(Instant::now, |until| until.max(Instant::now()));
        let ends = begins + Duration::from_secs_f64(bytes as f64 / rate as f64);
        *taken = Some(ends);
        drop(taken);
        sleep_until(ends).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eventually;

    /// A server that answers each byte with the next byte.
    async fn server() -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    while let Ok(byte) = stream.read_u8().await {
                        stream.write_u8(byte + 1).await.unwrap();
                    }
                });
            }
        });
        port
    }

    async fn connect(line: &Line) -> TcpStream {
        TcpStream::connect(("127.0.0.1", line.port())).await.unwrap()
    }

    #[tokio::test]
    async fn a_silent_connection_stays_open_and_a_new_one_works() {
        let line = Line::to(server().await).await;
        let mut old = connect(&line).await;
        old.write_u8(1).await.unwrap();
        assert_eq!(old.read_u8().await.unwrap(), 2);
        line.fall_silent();
        old.write_u8(1).await.unwrap();
        let mut new = connect(&line).await;
        new.write_u8(5).await.unwrap();
        assert_eq!(new.read_u8().await.unwrap(), 6);
        assert!(old.try_read(&mut [0]).is_err(), "neither an answer nor an end");
        line.cut();
        eventually("the end of the silent connection", async || {
            if old.read_u8().await.is_err() { Ok(()) } else { Err("it answers") }
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_thin_line_takes_its_time_for_bytes() {
        let direction = Direction::default();
        let began = Instant::now();
        direction.take(1_000, 500).await;
        direction.take(500, 500).await;
        assert_eq!(began.elapsed(), Duration::from_secs(3));
        direction.take(1 << 30, 0).await;
        assert_eq!(began.elapsed(), Duration::from_secs(3));
    }
}
