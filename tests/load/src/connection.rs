//! The load of the accept scenario: connections that send the same request again and again, and read only as much of
//! the answers as they must. A full HTTP client would take CPU time away from the api.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use hdrhistogram::Histogram;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// What the connections measured.
pub(crate) struct Seen {
    pub(crate) answers: usize,
    /// In microseconds.
    pub(crate) latency: Histogram<u64>,
}

impl Seen {
    pub(crate) fn nothing() -> Self {
        Self { answers: 0, latency: Histogram::new(3).expect("three digits are allowed") }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.answers += other.answers;
        self.latency.add(&other.latency).expect("it grows as it must");
    }

    pub(crate) fn latency_at(&self, quantile: f64) -> Duration {
        Duration::from_micros(self.latency.value_at_quantile(quantile))
    }
}

/// Sends `request` again and again over one connection until `end`. Counts the answers from `begin` on. Each answer
/// must be a 202.
pub(crate) async fn drive(
    address: &str,
    request: &[u8],
    begin: Instant,
    end: Instant,
) -> anyhow::Result<Seen> {
    let mut stream = TcpStream::connect(address).await.context("the api takes connections")?;
    stream.set_nodelay(true)?;
    let mut seen = Seen::nothing();
    let mut buffer = vec![0; 4_096];
    loop {
        let sent = Instant::now();
        if sent >= end {
            return Ok(seen);
        }
        stream.write_all(request).await?;
        read_answer(&mut stream, &mut buffer).await?;
        let answered = Instant::now();
        if answered >= begin && answered < end {
            seen.answers += 1;
            seen.latency.record(u64::try_from((answered - sent).as_micros())?)?;
        }
    }
}

/// Reads one answer to its end. The api gives each answer a `content-length`.
async fn read_answer(stream: &mut TcpStream, buffer: &mut [u8]) -> anyhow::Result<()> {
    let mut filled = 0;
    loop {
        let read = stream.read(&mut buffer[filled..]).await?;
        ensure!(read > 0, "the api hung up, or an answer was larger than {} bytes", buffer.len());
        filled += read;
        let answer = &buffer[..filled];
        let Some(head) = answer.windows(4).position(|part| part == b"\r\n\r\n") else { continue };
        let text = std::str::from_utf8(&answer[..head])?;
        let length = text.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.context("an answer without a content-length")?.parse()?;
        if filled < head + 4 + length {
            continue;
        }
        if !text.starts_with("HTTP/1.1 202 ") {
            bail!("not accepted: {}", String::from_utf8_lossy(answer));
        }
        return Ok(());
    }
}
