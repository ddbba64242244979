//! An Ollama that answers at once, with a stream of three lines for every job. It holds one model, knows nothing of
//! GPUs, and counts the jobs.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::{Request, Response, header};

use crate::server::{self, BackendResponse};
use crate::workload::MODEL;

#[derive(Debug)]
pub(crate) struct Backend {
    pub(crate) url: String,
    counter: Arc<Counter>,
}

/// How many requests have come, and when the first one came.
#[derive(Debug, Default)]
pub(crate) struct Counter {
    count: AtomicUsize,
    first: std::sync::Mutex<Option<Instant>>,
}

impl Counter {
    pub(crate) fn count_one(&self) {
        if self.count.fetch_add(1, Ordering::Relaxed) == 0 {
            *self.first.lock().expect("nobody panics with it") = Some(Instant::now());
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// When the first request came. Panics if none has come.
    pub(crate) fn first(&self) -> Instant {
        self.first.lock().expect("nobody panics with it").expect("something has come")
    }

    /// Starts the count again.
    pub(crate) fn reset(&self) {
        self.count.store(0, Ordering::Relaxed);
    }
}

impl Backend {
    pub(crate) fn start() -> anyhow::Result<Self> {
        let counter = Arc::new(Counter::default());
        let counted = Arc::clone(&counter);
        let addresses = server::serve(1, move |_, request| {
            let counted = Arc::clone(&counted);
            answer(request, move |_job| {
                counted.count_one();
                streamed(stream::iter(LINES))
            })
        })?;
        Ok(Self { url: format!("http://{}", addresses[0]), counter })
    }

    /// The counter of jobs.
    pub(crate) fn jobs(&self) -> &Counter {
        &self.counter
    }
}

/// Answers every request of a worker. `run` gets the bodies of jobs.
pub(crate) async fn answer(
    request: Request<Incoming>,
    run: impl FnOnce(Bytes) -> BackendResponse,
) -> BackendResponse {
    match request.uri().path() {
        "/api/chat" => {
            let body = request.into_body().collect().await.expect("the client sends its body").to_bytes();
            if body.windows(13).any(|part| part == b"\"messages\":[]") {
                return whole(format!(
                    r#"{{"model":"{MODEL}","created_at":"2026-01-01T00:00:00Z","message":{{"role":"assistant","content":""}},"done_reason":"load","done":true}}"#
                ));
            }
            run(body)
        }
        "/api/tags" => whole(format!(
            r#"{{"models":[{{"name":"{MODEL}","model":"{MODEL}","modified_at":"2026-01-01T00:00:00Z","size":1,"digest":"0","details":{{}}}}]}}"#
        )),
        "/api/ps" => whole(format!(
            r#"{{"models":[{{"name":"{MODEL}","model":"{MODEL}","size":1,"size_vram":1,"digest":"0","details":{{}},"expires_at":"2126-01-01T00:00:00Z"}}]}}"#
        )),
        _ => whole(r#"{"version":"0.32.15"}"#.to_owned()),
    }
}

fn whole(json: String) -> BackendResponse {
    let mut answer = Response::new(Full::from(json).boxed());
    answer
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json; charset=utf-8"));
    answer
}

/// The stream of a short answer.
pub(crate) const LINES: [&[u8]; 3] = [
    b"{\"model\":\"tiny-a:latest\",\"created_at\":\"2026-01-01T00:00:00.1Z\",\"message\":{\"role\":\"assistant\",\"content\":\"It puts\"},\"done\":false}\n",
    b"{\"model\":\"tiny-a:latest\",\"created_at\":\"2026-01-01T00:00:00.2Z\",\"message\":{\"role\":\"assistant\",\"content\":\" work in order.\"},\"done\":false}\n",
    b"{\"model\":\"tiny-a:latest\",\"created_at\":\"2026-01-01T00:00:00.3Z\",\"message\":{\"role\":\"assistant\",\"content\":\"\"},\"done\":true,\"done_reason\":\"stop\",\"total_duration\":300000000,\"load_duration\":1000000,\"prompt_eval_count\":120,\"prompt_eval_duration\":100000000,\"eval_count\":2,\"eval_duration\":200000000}\n",
];

/// One chunk per line, as Ollama flushes them.
pub(crate) fn streamed(lines: impl Stream<Item = &'static [u8]> + Send + Sync + 'static) -> BackendResponse {
    let frames = lines.map(|line| Ok(Frame::data(Bytes::from_static(line))));
    let mut answer = Response::new(BodyExt::boxed(StreamBody::new(frames)));
    answer
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/x-ndjson"));
    answer
}
