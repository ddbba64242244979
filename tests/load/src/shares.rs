//! How much one client can disturb another. Measures the other client's `POST /jobs` and `GET /jobs/{id}`: first
//! alone, then beside a greedy client. The greedy client has a long queue, lists it over many connections, stops in
//! the middle of large bodies and reads large artifacts slowly. It repeats every refused request.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use foreman_store::{ClientId, Completion, Exit, JobId, JobRequest};
use foreman_tests::{Cluster, Db};
use futures_util::future::join_all;
use hdrhistogram::Histogram;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime;
use tokio::time::sleep;

use crate::accept::publish_model;
use crate::measure::millis;
use crate::programs::Programs;
use crate::services::Api;
use crate::{Scale, workload};

/// How many connections of the greedy client list its jobs.
const LISTING: usize = 64;
const HANGING: usize = 8;
const READING: usize = 9;

/// The largest size of a body, and nearly the largest of an artifact.
const LARGE: usize = 32 << 20;

/// How many bytes a slow reader reads per second: enough not to be cut off.
const SLOWLY: usize = 13 << 10;

/// How soon a refused or broken connection comes back. If it came back sooner, the cost of sending bodies that nobody
/// reads would dominate the figures.
const COME_BACK: Duration = Duration::from_secs(1);

/// How many times its time alone the other client may need.
const AIM: f64 = 3.0;

pub(crate) struct Shares<'a> {
    cluster: &'a Cluster,
    queued: usize,
    length: Duration,
}

/// What the other client saw of one kind of request.
struct Seen {
    latency: Histogram<u64>,
    /// How many answers were no success.
    refused: usize,
}

impl<'a> Shares<'a> {
    pub(crate) fn new(cluster: &'a Cluster, scale: &Scale) -> Self {
        Self { cluster, queued: scale.queued, length: scale.shares_for }
    }

    /// Measures every contender and returns the table.
    pub(crate) async fn measure(&self, contenders: &[Programs]) -> anyhow::Result<String> {
        let mut table = String::from(
            "| shares | | alone: p50, p99 | beside: p50, p99 | p99 ratio | aim | refused |\n|---|---|---|---|---:|---:|---:|\n",
        );
        for programs in contenders {
            for (what, alone, beside) in self.turn(programs).await.with_context(|| programs.to_string())? {
                let at =
                    |seen: &Seen, quantile| Duration::from_micros(seen.latency.value_at_quantile(quantile));
                let ratio = at(&beside, 0.99).as_secs_f64() / at(&alone, 0.99).as_secs_f64();
                let both = |seen: &Seen| format!("{}, {}", millis(at(seen, 0.5)), millis(at(seen, 0.99)));
                writeln!(
                    table,
                    "| {what} | {programs} | {} | {} | **{ratio:.1}** | {AIM} | {} |",
                    both(&alone),
                    both(&beside),
                    beside.refused,
                )?;
            }
        }
        Ok(table)
    }

    async fn turn(&self, programs: &Programs) -> anyhow::Result<[(&'static str, Seen, Seen); 2]> {
        let db = Db::on(self.cluster).await;
        publish_model(&db).await;
        let api = Api::with_keys(programs, &db).await;
        let (greedy, other) = (db.new_client("greedy", false).await, db.new_client("other", false).await);
        let large = large_artifact(&db, greedy.client).await?;
        workload::accept(&db, self.queued, |_, request| JobRequest { client: greedy.client, ..request })
            .await;

        let other = Caller { address: api.address.clone(), key: other.key };
        let alone = other.clone().watch(self.length).await?;
        let stop = Arc::new(AtomicBool::new(false));
        let caller = Caller { address: api.address.clone(), key: greedy.key };
        let greedy = tokio::task::spawn_blocking({
            let stop = Arc::clone(&stop);
            move || caller.be_greedy(large, &stop)
        });
        // Gives the greedy client time to get all of its requests under way.
        sleep(self.length / 10).await;
        let beside = other.watch(self.length).await?;
        stop.store(true, Ordering::Relaxed);
        let listed = greedy.await??;
        ensure!(listed > 0, "the greedy client got no list at all");
        let ([submit_alone, show_alone], [submit_beside, show_beside]) = (alone, beside);
        Ok([("`POST /jobs`", submit_alone, submit_beside), ("`GET /jobs/{id}`", show_alone, show_beside)])
    }
}

/// A job of this client with a large artifact, for slow readers.
async fn large_artifact(db: &Db, client: ClientId) -> anyhow::Result<JobId> {
    // The claim below needs exactly one ready job with the load key of the tests.
    let job = db.accept_all(&[db.new_job()]).await[0];
    let lease = db.start(&db.holder().await).await;
    let completion = format!(r#"{{"text":"{}"}}"#, "x".repeat(LARGE - 100)).into_bytes();
    let completion = Completion {
        completion,
        content_type: "application/json".to_owned(),
        prompt_tokens: None,
        completion_tokens: None,
    };
    db.settle(&[(lease, Exit::Done(completion))]).await?;
    for table in ["job", "job_done"] {
        let id = if table == "job" { "id" } else { "job_id" };
        db.run(&format!("UPDATE {table} SET client_id = '{}' WHERE {id} = '{}'", client.uuid(), job.uuid()))
            .await;
    }
    Ok(job)
}

/// A client with a key.
#[derive(Debug, Clone)]
struct Caller {
    address: String,
    key: String,
}

impl Caller {
    fn head(&self, what: &str) -> String {
        format!("{what} HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\n", self.address, self.key)
    }

    /// Submits a job and reads it, again and again over one connection.
    async fn watch(self, length: Duration) -> anyhow::Result<[Seen; 2]> {
        let thread = tokio::task::spawn_blocking(move || {
            runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
                let mut connection = Connection::open(&self.address).await?;
                let body = workload::request_body();
                let submit =
                    format!("{}content-length: {}\r\n\r\n{body}", self.head("POST /jobs"), body.len());
                let mut seen = [Seen::nothing()?, Seen::nothing()?];
                let end = Instant::now() + length;
                while Instant::now() < end {
                    let job = seen[0].note(connection.ask(&submit), 202).await?;
                    let Some(job) = job else {
                        connection = Connection::open(&self.address).await?;
                        continue;
                    };
                    let job: serde_json::Value = serde_json::from_slice(&job)?;
                    let id = job["job_id"].as_str().context("a 202 has a job")?;
                    let show = format!("{}\r\n", self.head(&format!("GET /jobs/{id}")));
                    seen[1].note(connection.ask(&show), 200).await?;
                }
                anyhow::Ok(seen)
            })
        });
        thread.await?
    }

    /// Makes the greedy client's requests until it is told to stop. Returns how many lists it got.
    fn be_greedy(&self, large: JobId, stop: &AtomicBool) -> anyhow::Result<usize> {
        let listed = AtomicUsize::new(0);
        runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
            let stopped = async {
                while !stop.load(Ordering::Relaxed) {
                    sleep(Duration::from_millis(50)).await;
                }
            };
            let lists = join_all((0..LISTING).map(|_| again(|| self.list(&listed))));
            let hangs = join_all((0..HANGING).map(|_| again(|| self.hang())));
            let reads = join_all((0..READING).map(|_| again(|| self.read_slowly(large))));
            tokio::select! {
                () = stopped => {}
                _ = async { tokio::join!(lists, hangs, reads) } => {}
            }
        });
        Ok(listed.into_inner())
    }

    async fn list(&self, listed: &AtomicUsize) -> anyhow::Result<()> {
        let mut connection = Connection::open(&self.address).await?;
        let request = format!("{}\r\n", self.head("GET /jobs?limit=500"));
        loop {
            let (status, _) = connection.ask(&request).await?;
            listed.fetch_add(usize::from(status == 200), Ordering::Relaxed);
        }
    }

    /// Sends a body except its end, and then one byte now and then.
    async fn hang(&self) -> anyhow::Result<()> {
        let mut stream = TcpStream::connect(&self.address).await?;
        let head = format!("{}content-length: {LARGE}\r\n\r\n", self.head("POST /jobs"));
        stream.write_all(head.as_bytes()).await?;
        let piece = vec![b' '; 64 << 10];
        for _ in 0..LARGE / piece.len() - 1 {
            stream.write_all(&piece).await?;
        }
        loop {
            sleep(Duration::from_secs(1)).await;
            stream.write_all(b" ").await?;
        }
    }

    async fn read_slowly(&self, large: JobId) -> anyhow::Result<()> {
        let mut stream = TcpStream::connect(&self.address).await?;
        let request = format!("{}\r\n", self.head(&format!("GET /jobs/{large}/artifacts/completion")));
        stream.write_all(request.as_bytes()).await?;
        let mut buffer = vec![0; SLOWLY];
        while stream.read(&mut buffer).await? > 0 {
            sleep(Duration::from_secs(1)).await;
        }
        Ok(())
    }
}

/// Repeats an action. Waits a moment if it was refused or cut off.
async fn again<F: Future<Output = anyhow::Result<()>>>(what: impl Fn() -> F) {
    loop {
        let _refused = what().await;
        sleep(COME_BACK).await;
    }
}

impl Seen {
    fn nothing() -> anyhow::Result<Self> {
        Ok(Self { latency: Histogram::new(3)?, refused: 0 })
    }

    /// Waits for an answer and counts it. Returns the body if the answer has the expected status.
    async fn note(
        &mut self,
        answer: impl Future<Output = anyhow::Result<(u16, Vec<u8>)>>,
        expected: u16,
    ) -> anyhow::Result<Option<Vec<u8>>> {
        let asked = Instant::now();
        let answer = answer.await;
        self.latency.record(u64::try_from(asked.elapsed().as_micros())?)?;
        match answer {
            Ok((status, body)) if status == expected => Ok(Some(body)),
            Ok(_) | Err(_) => {
                self.refused += 1;
                Ok(None)
            }
        }
    }
}

/// A connection that understands as little of HTTP as it needs.
struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    async fn open(address: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await.context("the api takes connections")?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::new() })
    }

    /// The status and the body of the answer, which must have a `content-length`.
    async fn ask(&mut self, request: &str) -> anyhow::Result<(u16, Vec<u8>)> {
        self.stream.write_all(request.as_bytes()).await?;
        self.buffer.clear();
        loop {
            let read = self.stream.read_buf(&mut self.buffer).await?;
            ensure!(read > 0, "the api hung up");
            let Some(end) = self.buffer.windows(4).position(|part| part == b"\r\n\r\n") else { continue };
            let head = std::str::from_utf8(&self.buffer[..end])?;
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let whole = end + 4 + length.context("an answer without a content-length")?.parse::<usize>()?;
            let status = head.get(9..12).context("an answer has a status")?.parse()?;
            while self.buffer.len() < whole {
                let read = self.stream.read_buf(&mut self.buffer).await?;
                ensure!(read > 0, "the api hung up");
            }
            return Ok((status, self.buffer[end + 4..whole].to_vec()));
        }
    }
}
