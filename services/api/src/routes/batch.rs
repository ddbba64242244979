//! `POST /jobs/batch`.
//!
//! The body is read whole, under the same limit as any other body. So a mistake that concerns the whole batch is reported
//! before any job is accepted. Results go out while jobs go in. When a client reads slowly, only its results stay in memory,
//! one line per job, and no bodies. When a client hangs up, its batch ends: jobs that are not written yet stay unwritten.

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
use crate::access::shares::Holding;
use crate::app::Shared;
use crate::describe::schema;
use crate::http::body::{self, Bounded};
use crate::intake::lines::{self, Line};
use crate::intake::submit::Accepted;
use crate::intake::{BATCH_LINES, Intake};
use crate::refusal::Refusal;

/// At most this many results go out in one piece.
const RESULTS_PER_PIECE: usize = 256;

/// The result of one line of a batch. It has either `job_id` or `error`.
#[derive(Serialize, ToSchema)]
pub(crate) struct BatchLine<'a> {
    /// Counted from 1: in NDJSON the line, blank lines included; in an array the element.
    #[schema(minimum = 1)]
    line: usize,
    /// The status that `POST /jobs` would give: 202 if the job is in the queue.
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
/// Each line is a job as in `POST /jobs`, and may have its own `idempotency_key`: the same line with the same bytes gives the
/// same job again. A bad line fails alone. A mistake that concerns the whole batch is reported before any job is accepted.
#[utoipa::path(
    post,
    path = "/jobs/batch",
    tag = "jobs",
    params(("X-Foreman-User" = Option<String>, Header, description = "The user of all lines, as in `POST /jobs`.")),
    request_body(
        description = "One job per line (NDJSON; blank lines are skipped), or one JSON array of jobs.",
        content((schema::NewJob = "application/x-ndjson"), (Vec<schema::NewJob> = "application/json")),
    ),
    responses(
        (status = 200, description = "One line for each job, in order.", body = BatchLine, content_type = "application/x-ndjson"),
        (status = 400, description = "`body_missing`, `not_utf8`, `not_json`, `trailing_data`, `invalid_idempotency_key`, `invalid_user`"),
        (status = 413, description = "`too_many_jobs`"),
    ),
)]
pub(crate) async fn submit(
    caller: Caller,
    State(app): State<Shared>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    if headers.contains_key("idempotency-key") {
        let error = "a batch has no key of its own; give each line its own as `idempotency_key`";
        return Err(Refusal::bad_request("invalid_idempotency_key", error));
    }
    let Bounded { bytes, mut held } = body::read(&app, caller.client, body).await?;
    // While the body is in memory, the jobs of its lines come beside it and need the same memory again.
    held.grow(bytes.len())?;
    let lines = app.parse_beside_others(bytes.len(), || lines::split(&bytes)).await??;
    drop(bytes);
    let intake = Intake::new(app, caller, headers)?;
    let expected = lines.len();
    let (results, written) = mpsc::unbounded_channel();
    let taking_in = async move {
        let hung_up = results.clone();
        tokio::select! {
            () = hung_up.closed() => {}
            () = take_in_all(intake, lines, Arc::new(held), &results) => {}
        }
    };
    tokio::spawn(taking_in.in_current_span());
    let headers = [(header::CONTENT_TYPE, "application/x-ndjson"), (header::CACHE_CONTROL, "no-store")];
    Ok((StatusCode::OK, headers, body_of(written, expected)).into_response())
}

/// Offers every line to the submitter, and writes the result of every line, both in the order of the lines.
async fn take_in_all(
    intake: Intake,
    lines: Vec<Line>,
    held: Arc<Holding>,
    results: &mpsc::UnboundedSender<Bytes>,
) {
    let intake = Arc::new(intake);
    // Set when Foreman itself could not take a line, because the database is away, for example. The lines after it are not
    // tried then. They would wait for one flush after the other, only to fail too.
    let in_trouble = Arc::new(AtomicBool::new(false));
    stream::iter(lines)
        // Offer one line after the other, so that ids rise in the order of the lines, and the first of two equal keys wins.
        .then(|Line { number, bytes }| {
            let (intake, in_trouble, held) =
                (Arc::clone(&intake), Arc::clone(&in_trouble), Arc::clone(&held));
            async move {
                if in_trouble.load(Ordering::Relaxed) {
                    return (number, Err(not_tried()));
                }
                let taken = async {
                    let permit = intake.batch_line().await?;
                    Ok((intake.take_in(bytes, held).await?, permit))
                };
                (number, taken.await)
            }
        })
        .map(|(number, taken)| {
            let in_trouble = Arc::clone(&in_trouble);
            async move {
                let accepted = match taken {
                    Ok((taken, _permit)) => taken.accepted().await,
                    Err(refusal) => Err(refusal),
                };
                if matches!(&accepted, Err(refusal) if refusal.status() == StatusCode::SERVICE_UNAVAILABLE) {
                    in_trouble.store(true, Ordering::Relaxed);
                }
                result(number, &accepted)
            }
        })
        .buffered(BATCH_LINES)
        .for_each(|line| async {
            // If the client hung up, the batch ends, and nobody needs the result.
            let _ = results.send(line);
        })
        .await;
}

fn not_tried() -> Refusal {
    let error = "the line was not tried, because one before it could not be taken; send it again in a moment";
    Refusal::unavailable("not_tried", error)
}

fn result(number: usize, accepted: &Result<Accepted, Refusal>) -> Bytes {
    let line = match accepted {
        Ok(Accepted::New(job) | Accepted::Replayed(job)) => {
            BatchLine { line: number, status: StatusCode::ACCEPTED.as_u16(), job_id: Some(*job), error: None }
        }
        Err(refusal) => BatchLine {
            line: number,
            status: refusal.status().as_u16(),
            job_id: None,
            error: Some(refusal.sentence()),
        },
    };
    let mut json = show::json(&line);
    json.push(b'\n');
    json.into()
}

/// The body with the results of this many lines. If a result is missing at the end, the connection breaks: an answer that is
/// cut off must not look complete.
fn body_of(results: mpsc::UnboundedReceiver<Bytes>, expected: usize) -> Body {
    Body::from_stream(stream::unfold((results, expected), |(mut results, expected)| async move {
        if expected == 0 {
            return None;
        }
        let mut lines = Vec::with_capacity(RESULTS_PER_PIECE);
        match results.recv_many(&mut lines, RESULTS_PER_PIECE).await {
            0 => Some((Err(io::ErrorKind::Interrupted.into()), (results, 0))),
            count => Some((Ok::<_, io::Error>(lines.concat()), (results, expected.saturating_sub(count)))),
        }
    }))
}
