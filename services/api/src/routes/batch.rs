//! `POST /jobs/batch`.
//!
//! The body is read whole, under the same bound as any other, so that what is wrong with it as a whole is said before
//! any job is accepted. Answers go out while jobs go in; a client that reads slowly holds no bodies in memory, only the
//! answers that it has not read, a line each. One that hangs up ends the batch: what was not written by then is not.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use foreman_store::JobId;
use futures_util::{StreamExt, stream};
use serde::Serialize;
use tokio::sync::mpsc;
use tracing::Instrument;
use utoipa::ToSchema;

use super::show;
use crate::access::auth::Caller;
use crate::access::shares::Held;
use crate::app::Shared;
use crate::describe::schema;
use crate::http::body::{self, Bounded};
use crate::http::problem::Problem;
use crate::intake::lines::{self, Line};
use crate::intake::submit::Accepted;
use crate::intake::{IN_LINE, Intake};
use crate::refusal::Refusal;

/// Answers that go out together.
const TOGETHER: usize = 256;

/// What became of one line of a batch: it has either `job_id` or `error`.
#[derive(Serialize, ToSchema)]
#[schema(as = BatchLine)]
pub(crate) struct Told<'a> {
    /// From 1: of NDJSON the line, blank ones counted; of an array the element.
    #[schema(minimum = 1)]
    line: usize,
    /// The status that the job would have had alone: 202 if it is in the queue.
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    job_id: Option<JobId>,
    /// One sentence with the mend in it. After 429 and 503 the line may be sent again.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    error: Option<&'a str>,
}

/// Submits up to 10,000 jobs.
///
/// Each line stands for a job as in `POST /jobs`, and may carry its own `idempotency_key`: sent again with the same
/// bytes, it is answered with the same job. A bad line fails alone. What is wrong with the batch as a whole is said
/// before any job is accepted.
#[utoipa::path(
    post,
    path = "/jobs/batch",
    tag = "jobs",
    request_body(
        description = "One job a line (NDJSON; blank lines are skipped), or one JSON array of jobs.",
        content((schema::NewJob = "application/x-ndjson"), (Vec<schema::NewJob> = "application/json")),
    ),
    responses(
        (status = 200, description = "One line for each job, in order.", body = Told, content_type = "application/x-ndjson"),
        (status = 400, description = "`body_missing`, `body_incomplete`, `not_utf8`, `not_json`, `trailing_data`, `invalid_idempotency_key`"),
        (status = 408, description = "`body_too_slow`"),
        (status = 413, description = "`too_many_jobs`, `body_too_large`"),
        (status = 429, description = "`too_much_under_way`"),
        (status = 503, description = "`busy`"),
    ),
)]
pub(crate) async fn submit(
    caller: Caller,
    State(app): State<Shared>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    if headers.contains_key("idempotency-key") {
        let error = "a batch has no key of its own; give each line its own as `idempotency_key`";
        return Err(Refusal::bad_request("invalid_idempotency_key", error).into());
    }
    let Bounded { bytes, mut held } = body::read(&app, caller.client, body).await?;
    // Each line is held as a job beside the body that it stands in.
    held.grow(bytes.len())?;
    let lines = app.beside_others(bytes.len(), || lines::split(&bytes)).await??;
    drop(bytes);
    let expected = lines.len();
    let (tell, told) = mpsc::unbounded_channel();
    let taking_in = async move {
        let gone = tell.clone();
        tokio::select! {
            () = gone.closed() => {}
            () = take_in_all(Intake::new(app, caller, headers), lines, Arc::new(held), &tell) => {}
        }
    };
    tokio::spawn(taking_in.in_current_span());
    let headers = [(header::CONTENT_TYPE, "application/x-ndjson"), (header::CACHE_CONTROL, "no-store")];
    Ok((StatusCode::OK, headers, answers(told, expected)).into_response())
}

/// Offers every line to the submitter, in order, and tells what became of each, in order.
async fn take_in_all(intake: Intake, lines: Vec<Line>, held: Arc<Held>, tell: &mpsc::UnboundedSender<Bytes>) {
    let intake = Arc::new(intake);
    // Set once a line could not be taken for want of something of ours. Those behind it would wait, one flush after the
    // other, for what their client can learn at once.
    let in_trouble = Arc::new(AtomicBool::new(false));
    stream::iter(lines)
        // One after the other, so that ids rise with the lines and the first of two equal keys wins.
        .then(|Line { number, bytes }| {
            let (intake, in_trouble, held) =
                (Arc::clone(&intake), Arc::clone(&in_trouble), Arc::clone(&held));
            async move {
                if in_trouble.load(Ordering::Relaxed) {
                    return (number, Err(not_tried()));
                }
                (number, intake.take_in_line(bytes, held).await)
            }
        })
        .map(|(number, entry)| {
            let in_trouble = Arc::clone(&in_trouble);
            async move {
                let answer = match entry {
                    Ok(in_line) => in_line.answer().await,
                    Err(refusal) => Err(refusal),
                };
                if matches!(&answer, Err(refusal) if refusal.status() == StatusCode::SERVICE_UNAVAILABLE) {
                    in_trouble.store(true, Ordering::Relaxed);
                }
                line(number, &answer)
            }
        })
        .buffered(IN_LINE)
        .for_each(|line| async {
            // Whoever is gone needs no answer, and ends the batch.
            let _ = tell.send(line);
        })
        .await;
}

fn not_tried() -> Refusal {
    let error = "the line was not tried, because one before it could not be taken; send it again in a moment";
    Refusal::unavailable("not_tried", error)
}

fn line(number: usize, answer: &Result<Accepted, Refusal>) -> Bytes {
    let told = match answer {
        Ok(Accepted::New(job) | Accepted::Replayed(job)) => {
            Told { line: number, status: StatusCode::ACCEPTED.as_u16(), job_id: Some(*job), error: None }
        }
        Err(refusal) => Told {
            line: number,
            status: refusal.status().as_u16(),
            job_id: None,
            error: Some(refusal.sentence()),
        },
    };
    let mut json = show::json(&told);
    json.push(b'\n');
    json.into()
}

/// As many lines as are expected, in order. If they end before, so does the connection: an answer that is cut off must
/// not look complete.
fn answers(told: mpsc::UnboundedReceiver<Bytes>, expected: usize) -> Body {
    Body::from_stream(stream::unfold((told, expected), |(mut told, expected)| async move {
        if expected == 0 {
            return None;
        }
        let mut lines = Vec::with_capacity(TOGETHER);
        match told.recv_many(&mut lines, TOGETHER).await {
            0 => Some((Err(io::ErrorKind::Interrupted.into()), (told, 0))),
            count => Some((Ok::<_, io::Error>(lines.concat()), (told, expected.saturating_sub(count)))),
        }
    }))
}
