//! `GET /jobs/{id}/artifacts/{name}`.

use std::io;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use foreman_store::{JobId, artifact_piece};
use futures_util::stream::{self, StreamExt};

use crate::access::auth::Caller;
use crate::app::Shared;
use crate::http::etag;
use crate::http::outgoing::{self, Outgoing};
use crate::http::path::{JobPath, NamePath};
use crate::http::range::{self, RequestedRange};
use crate::refusal::Refusal;

/// Sends what a job made, whole or in part.
#[utoipa::path(
    get,
    path = "/jobs/{id}/artifacts/{name}",
    tag = "jobs",
    params(
        ("id" = String, Path, description = "The job's ULID."),
        ("name" = String, Path, description = "Such as `completion`."),
        ("Range" = Option<String>, Header, description = "One range of bytes; several are answered with the whole.", example = "bytes=0-1023"),
        ("If-Range" = Option<String>, Header, description = "The `ETag` of the bytes that the range is of."),
        ("If-None-Match" = Option<String>, Header, description = "The `ETag` of what the client has."),
        ("If-Match" = Option<String>, Header, description = "The `ETag` of the only bytes that are wanted."),
    ),
    responses(
        (status = 200, description = "The bytes, under the artifact's own content type.", body = Vec<u8>, content_type = "*/*",
            headers(("ETag" = String, description = "Of all the bytes: their SHA-256."), ("Accept-Ranges" = String, description = "`bytes`"))),
        (status = 206, description = "The range.", body = Vec<u8>, content_type = "*/*",
            headers(("Content-Range" = String, description = "Which bytes these are, of how many."), ("ETag" = String, description = "Of all the bytes."))),
        (status = 304, description = "The client has it already."),
        (status = 404, description = "`no_such_artifact`, `no_such_job`"),
        (status = 412, description = "`other_bytes`"),
        (status = 416, description = "`range_not_satisfiable`", headers(("Content-Range" = String, description = "How many bytes there are."))),
        (status = 429, description = "`too_much_unread`, `too_many_reads`"),
        (status = 503, description = "`busy`"),
    ),
)]
pub(crate) async fn show(
    caller: Caller,
    JobPath(id): JobPath,
    NamePath(name): NamePath,
    State(app): State<Shared>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let permit = app.reads.permit(caller.client).await?;
    let head = app.store.artifact_head(caller.scope(), id, &name).await?;
    drop(permit);
    let head = head.ok_or_else(Refusal::no_such_artifact)?;
    let (tag, size) = (etag::tag(&head.sha256), head.size.unsigned_abs());
    // The order of RFC 9110, 13.2.2: conditions first, then the range.
    if !etag::is_wanted(&headers, &tag) {
        return Err(other_bytes());
    }
    if let Some(known) = etag::unless_known(&headers, &tag) {
        return Ok(known);
    }
    // Only a GET can ask for a range.
    let part =
        if method == Method::GET { range::requested(&headers, &tag, size) } else { RequestedRange::Whole };
    let (first, length) = match part {
        RequestedRange::Whole => (0, size),
        RequestedRange::Bytes { first, last } => (first, last - first + 1),
        RequestedRange::Beyond => return Ok(beyond(size)),
    };
    let body = if method == Method::HEAD {
        Body::empty()
    } else {
        let reader =
            Reader { app, caller, id, name, next: first, end: first + length, piece: artifact_piece(size) };
        reader.body().await?
    };
    let mut response = Response::new(body);
    etag::add_tag(&mut response, tag);
    let headers = response.headers_mut();
    let content_type = HeaderValue::try_from(head.content_type);
    let any = HeaderValue::from_static("application/octet-stream");
    headers.insert(header::CONTENT_TYPE, content_type.unwrap_or(any));
    headers.insert(header::CONTENT_LENGTH, length.into());
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let RequestedRange::Bytes { first, last } = part {
        headers.insert(header::CONTENT_RANGE, content_range(format_args!("{first}-{last}"), size));
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    Ok(response)
}

/// Reads the bytes of an artifact from the store, piece by piece.
struct Reader {
    app: Shared,
    caller: Caller,
    id: JobId,
    name: String,
    /// The next byte to read, and the byte after the last.
    next: u64,
    end: u64,
    piece: u64,
}

impl Reader {
    /// Reads the first piece before the head of the answer is sent, so that a failure can still become a refusal. If a later
    /// piece cannot be read, the connection breaks.
    async fn body(mut self) -> Result<Body, Refusal> {
        // The connection asks for the next piece while it still holds the end of the last one, so there are two in memory.
        let room = (self.end - self.next).min(2 * self.piece);
        let room = usize::try_from(room).unwrap_or(usize::MAX);
        let held = Arc::new(self.app.outgoing.take(self.caller.client, room)?);
        let permit = self.app.reads.permit(self.caller.client).await?;
        let first = Outgoing::bytes(self.read().await?, Arc::clone(&held));
        drop(permit);
        let others = stream::unfold((self, held), |(mut reader, held)| async move {
            if reader.next == reader.end {
                return None;
            }
            let piece = reader.read_midway().await.map_err(|_| io::ErrorKind::UnexpectedEof.into());
            let piece = piece.map(|data| Outgoing::bytes(data, Arc::clone(&held)));
            Some((piece, (reader, held)))
        });
        Ok(outgoing::body(stream::once(async { Ok(first) }).chain(others)))
    }

    async fn read_midway(&mut self) -> Result<Vec<u8>, Refusal> {
        let _permit = self.app.reads.permit_midway(self.caller.client).await?;
        self.read().await
    }

    /// Reads the next piece. Fails if the artifact is gone.
    async fn read(&mut self) -> Result<Vec<u8>, Refusal> {
        let wanted = self.piece.min(self.end - self.next);
        let scope = self.caller.scope();
        let data = self.app.store.artifact_part(scope, self.id, &self.name, self.next, wanted).await?;
        let data = data.filter(|data| data.len() as u64 == wanted).ok_or_else(Refusal::no_such_artifact)?;
        self.next += wanted;
        Ok(data)
    }
}

fn content_range(range: impl std::fmt::Display, size: u64) -> HeaderValue {
    HeaderValue::try_from(format!("bytes {range}/{size}")).expect("digits and signs are a header's value")
}

fn other_bytes() -> Refusal {
    let error =
        "the artifact has another ETag than those in If-Match; ask without If-Match for what there is";
    Refusal::new(StatusCode::PRECONDITION_FAILED, "other_bytes", error)
}

fn beyond(size: u64) -> Response {
    let error = format!("the artifact has {size} bytes and the range begins beyond them; ask for one within");
    let refusal = Refusal::new(StatusCode::RANGE_NOT_SATISFIABLE, "range_not_satisfiable", error);
    let mut response = refusal.into_response();
    response.headers_mut().insert(header::CONTENT_RANGE, content_range('*', size));
    response
}
