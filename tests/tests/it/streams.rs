//! The stream address of a worker, as an api sees it: announcements, and answers in frames.

use bytes::BytesMut;
use foreman_live::{Announcement, Bearer, End, Frame, Frames, Head};
use foreman_store::{ApiId, JobId, NewJob};
use foreman_tests::{Db, Worker, eventually, http};
use ollama_sim::{Config, Fault, Moment, Sim, Trouble};
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};
use tokio_util::codec::Decoder as _;

/// 32 bytes, as `FOREMAN_SECRET_KEY` and as they are.
const KEY: &str = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";
const KEY_BYTES: &[u8; 32] = b"01234567890123456789012345678901";

/// A worker before one Ollama, and an api that only this test plays.
struct House {
    db: Db,
    sim: Sim,
    _worker: Worker,
    url: String,
    api: ApiId,
}

impl House {
    async fn start(settings: &[(&str, &str)]) -> Self {
        let db = Db::fresh().await;
        let sim = Sim::start(Config::default()).await.unwrap();
        let worker = Worker::start(&db, &sim.url(), settings).await;
        let url = eventually("a stream address", async || {
            let addresses = db.store.stream_addresses().await.unwrap();
            addresses.into_iter().next().map(|address| address.url).ok_or("none")
        })
        .await;
        let api = ApiId::generate();
        Self { db, sim, _worker: worker, url, api }
    }

    /// A chat that streams. The test's api waits for it.
    fn call(&self, prompt: &str) -> NewJob {
        let body = json!({"model": "tiny-a", "messages": [{"role": "user", "content": prompt}]});
        self.call_with(&body)
    }

    fn call_with(&self, body: &Value) -> NewJob {
        let mut job = self.db.new_job();
        // As the worker's host publishes it.
        job.request.load_key = "tiny-a:latest".to_owned();
        job.request.body = body.to_string();
        job.api = Some(self.api);
        job
    }

    async fn accept(&self, job: NewJob) -> JobId {
        self.db.accept_all(&[job]).await[0]
    }

    async fn announcements(&self) -> Lines {
        let answer = http().get(format!("{}/announcements?api={}", self.url, self.api)).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        Lines { answer, buffer: BytesMut::new() }
    }

    async fn answer(&self, job: JobId, query: &str) -> Answer {
        let answer = eventually("an answer that can be followed", async || {
            let answer = http().get(format!("{}/answers/{job}{query}", self.url)).send().await.unwrap();
            if answer.status() == StatusCode::OK { Ok(answer) } else { Err(answer.status()) }
        })
        .await;
        Answer { answer, buffer: BytesMut::new(), frames: Frames::default() }
    }

    /// The artifact of a finished job: content type and bytes.
    async fn artifact(&self, job: JobId) -> (String, Vec<u8>) {
        eventually("the artifact", async || {
            let found = sqlx::query_as("SELECT content_type, data FROM artifact WHERE job_id = $1")
                .bind(job.uuid())
                .fetch_optional(&self.db.pool)
                .await
                .unwrap();
            found.ok_or("none")
        })
        .await
    }
}

/// The lines of announcements that are not signs of life.
struct Lines {
    answer: Response,
    buffer: BytesMut,
}

impl Lines {
    async fn next(&mut self) -> Announcement {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(end + 1);
                if line.len() > 1 {
                    return serde_json::from_slice(&line).unwrap();
                }
                continue;
            }
            self.buffer.extend_from_slice(&self.answer.chunk().await.unwrap().unwrap());
        }
    }
}

/// The frames of one answer.
struct Answer {
    answer: Response,
    buffer: BytesMut,
    frames: Frames,
}

impl Answer {
    async fn next(&mut self) -> Frame {
        loop {
            if let Some(frame) = self.frames.decode(&mut self.buffer).unwrap() {
                return frame;
            }
            self.buffer.extend_from_slice(&self.answer.chunk().await.unwrap().expect("an answer has an end"));
        }
    }

    /// Head, bytes and end of the rest.
    async fn whole(mut self) -> (Option<Head>, String, End) {
        let (mut head, mut bytes) = (None, Vec::new());
        loop {
            match self.next().await {
                Frame::Head(its) => head = Some(its),
                Frame::Piece(piece) => bytes.extend_from_slice(&piece),
                Frame::End(end) => return (head, String::from_utf8(bytes).unwrap(), end),
            }
        }
    }

    /// The bytes up to this many whole lines.
    async fn lines(&mut self, count: usize) -> String {
        let mut bytes = String::new();
        while bytes.lines().count() < count {
            if let Frame::Piece(piece) = self.next().await {
                bytes.push_str(std::str::from_utf8(&piece).unwrap());
            }
        }
        bytes
    }
}

/// What the model said, over all lines.
fn content(lines: &str) -> String {
    let said =
        |line| serde_json::from_str::<Value>(line).unwrap()["message"]["content"].as_str().map(str::to_owned);
    lines.lines().filter_map(said).collect()
}

fn failed(end: &End) -> (&str, bool) {
    match end {
        End::Failed { code, said, .. } => (code, *said),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_announced_and_its_answer_comes_as_ollama_sends_it() {
    let house = House::start(&[]).await;
    let mut announcements = house.announcements().await;
    let call = house.call("the sky is");
    let direct = http().post(format!("{}/api/chat", house.sim.url())).body(call.request.body.clone());
    let direct = direct.send().await.unwrap().text().await.unwrap();
    let job = house.accept(call).await;
    assert_eq!(announcements.next().await, Announcement { job: job.to_string(), attempt: 1 });
    let (head, bytes, end) = house.answer(job, "?attempt=1&from=0").await.whole().await;
    let head = head.unwrap();
    assert_eq!((head.status, head.content_type.as_deref()), (200, Some("application/x-ndjson")));
    assert_eq!((content(&bytes), bytes.lines().count()), (content(&direct), direct.lines().count()));
    assert_eq!(end, End::Done);
    assert_eq!(house.artifact(job).await, ("application/x-ndjson".to_owned(), bytes.into_bytes()));
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_come_late_and_at_an_offset_and_one_that_never_reads_slows_nothing() {
    let house = House::start(&[]).await;
    let job = house.accept(house.call("sim:fault=hang@3")).await;
    let _never_reads = house.answer(job, "").await;
    let mut early = house.answer(job, "?attempt=1").await;
    let three = early.lines(3).await;
    let offset = three.find('\n').unwrap() + 1;
    let mut late = house.answer(job, &format!("?attempt=1&from={offset}")).await;
    assert_eq!(late.answer.headers()["foreman-attempt"], "1");
    assert_eq!(late.lines(2).await, three[offset..]);
    let other = http().get(format!("{}/answers/{job}?attempt=2", house.url)).send().await.unwrap();
    assert_eq!(other.status(), StatusCode::NOT_FOUND);
    house.db.store.cancel_all(&[(house.db.client, job)], None).await.unwrap();
    for reader in [early, late] {
        assert_eq!(reader.whole().await.2, End::Cancelled);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ollamas_error_is_the_answer_only_when_no_attempt_follows() {
    let house = House::start(&[]).await;
    let mut announcements = house.announcements().await;
    // Before the first token: the first attempt's words are dropped, and the next attempt answers.
    house.sim.fault(Fault::new(Trouble::RunnerKilled, Moment::Tokens(0)).once());
    let job = house.accept(house.call("the sky is")).await;
    announcements.next().await;
    let first = house.answer(job, "").await;
    let attempt = first.answer.headers()["foreman-attempt"].to_str().unwrap().to_owned();
    if attempt == "1" {
        assert_eq!(first.whole().await, (None, String::new(), End::Again));
    }
    assert_eq!(announcements.next().await.attempt, 2);
    assert_eq!(house.answer(job, "?attempt=2").await.whole().await.2, End::Done);

    // An error that no retry mends.
    house.sim.fault(Fault::new(Trouble::error(500, "it is broken"), Moment::Arrival));
    let job = house.accept(house.call("the sky is")).await;
    let (head, bytes, end) = house.answer(job, "").await.whole().await;
    assert_eq!((head.unwrap().status, failed(&end)), (500, ("ollama_error", true)));
    assert_eq!(serde_json::from_str::<Value>(&bytes).unwrap()["error"], "it is broken");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_answer_breaks_off_fails_and_never_runs_again() {
    let house = House::start(&[]).await;
    for (path, prompt, said) in [
        ("/api/chat", "sim:fault=killed@2", true),
        ("/api/chat", "sim:fault=end@2", false),
        ("/v1/chat/completions", "sim:fault=end@2", false),
    ] {
        let message = json!([{"role": "user", "content": prompt}]);
        let mut call = house.call_with(&json!({"model": "tiny-a", "messages": message, "stream": true}));
        call.request.path = path.to_owned();
        let job = house.accept(call).await;
        let (head, bytes, end) = house.answer(job, "").await.whole().await;
        assert_eq!((head.unwrap().status, failed(&end).1), (200, said), "{path} {prompt}: {end:?}");
        assert!(bytes.lines().count() >= 2, "{bytes}");
        eventually("a failed job", async || {
            let room = house.db.room(job).await;
            if room == "failed" { Ok(()) } else { Err(room) }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_of_the_queue_can_be_followed_too() {
    let house = House::start(&[]).await;
    let job = NewJob { api: None, ..house.call("sim:tokens=200 sim:token-delay=10ms") };
    let job = house.accept(job).await;
    let (head, bytes, end) = house.answer(job, "").await.whole().await;
    assert_eq!((head.unwrap().status, end), (200, End::Done));
    let (content_type, joined) = house.artifact(job).await;
    let joined: Value = serde_json::from_slice(&joined).unwrap();
    assert_eq!(
        (content_type.as_str(), &joined["message"]["content"]),
        ("application/json", &content(&bytes).into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn only_apis_of_the_installation_may_ask() {
    let house = House::start(&[("FOREMAN_SECRET_KEY", KEY)]).await;
    let asked = async |bearer: Option<String>| {
        let request = http().get(format!("{}/answers/{}", house.url, JobId::generate()));
        let request =
            bearer.into_iter().fold(request, |request, bearer| request.header("authorization", bearer));
        request.send().await.unwrap().status()
    };
    assert_eq!(asked(None).await, StatusCode::UNAUTHORIZED);
    assert_eq!(asked(Some(Bearer::of(&[7; 32]).header())).await, StatusCode::UNAUTHORIZED);
    assert_eq!(asked(Some(Bearer::of(KEY_BYTES).header())).await, StatusCode::NOT_FOUND);
}
