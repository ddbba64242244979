//! `GET /jobs/{id}/artifacts/{name}`.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::answer;
use crate::app::Shared;
use crate::auth::Caller;
use crate::outgoing::Outgoing;
use crate::path::{JobPath, NamePath};
use crate::problem::Problem;
use crate::range::{self, Part};

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
        (status = 429, description = "`too_much_unread`"),
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
) -> Result<Response, Problem> {
    let head = app.store.artifact_head(caller.scope(), id, &name).await?;
    let head = head.ok_or_else(Problem::no_such_artifact)?;
    let (tag, size) = (answer::tag(&head.sha256), head.size.unsigned_abs());
    // The order of RFC 9110, 13.2.2: conditions first, then the range.
    if !answer::is_wanted(&headers, &tag) {
        return Err(other_bytes());
    }
    if answer::is_known(&headers, &tag) {
        let mut response = StatusCode::NOT_MODIFIED.into_response();
        answer::tell_tag(&mut response, tag);
        return Ok(response);
    }
    // A range is asked for with GET alone.
    let part = if method == Method::GET { range::part(&headers, &tag, size) } else { Part::Whole };
    let (first, length) = match part {
        Part::Whole => (0, size),
        Part::Bytes { first, last } => (first, last - first + 1),
        Part::Beyond => return Err(beyond(size)),
    };
    let body = if method == Method::HEAD {
        Body::empty()
    } else {
        // Held until the client has read it all: whoever reads slowly keeps others out, not the memory of the process.
        let held = app.outgoing.take(caller.client, usize::try_from(length).unwrap_or(usize::MAX))?;
        // Postgres holds no value that these cannot count.
        let [from, length] = [first, length].map(|bytes| i32::try_from(bytes).unwrap_or(i32::MAX));
        let data = app.store.artifact_part(caller.scope(), id, &name, from, length).await?;
        Body::from(Outgoing::bytes(data.ok_or_else(Problem::no_such_artifact)?, held))
    };
    let mut response = Response::new(body);
    answer::tell_tag(&mut response, tag);
    let headers = response.headers_mut();
    let content_type = HeaderValue::try_from(head.content_type);
    let any = HeaderValue::from_static("application/octet-stream");
    headers.insert(header::CONTENT_TYPE, content_type.unwrap_or(any));
    headers.insert(header::CONTENT_LENGTH, length.into());
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Part::Bytes { first, last } = part {
        headers.insert(header::CONTENT_RANGE, content_range(format_args!("{first}-{last}"), size));
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    Ok(response)
}

fn content_range(range: impl std::fmt::Display, size: u64) -> HeaderValue {
    HeaderValue::try_from(format!("bytes {range}/{size}")).expect("digits and signs are a header's value")
}

fn other_bytes() -> Problem {
    let error =
        "the artifact has another ETag than those in If-Match; ask without If-Match for what there is";
    Problem::new(StatusCode::PRECONDITION_FAILED, "other_bytes", error)
}

fn beyond(size: u64) -> Problem {
    let error = format!("the artifact has {size} bytes and the range begins beyond them; ask for one within");
    Problem::new(StatusCode::RANGE_NOT_SATISFIABLE, "range_not_satisfiable", error)
        .with(header::CONTENT_RANGE, content_range('*', size))
}
