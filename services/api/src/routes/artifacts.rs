//! `GET /jobs/{id}/artifacts/{name}`.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use bytes::Bytes;

use crate::answer;
use crate::app::Shared;
use crate::auth::Caller;
use crate::memory::Held;
use crate::path::{JobPath, NamePath};
use crate::problem::Problem;

pub(super) async fn show(
    caller: Caller,
    JobPath(id): JobPath,
    NamePath(name): NamePath,
    State(app): State<Shared>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let size = app.store.artifact_size(caller.scope(), id, &name).await?;
    let size = size.ok_or_else(Problem::no_such_artifact)?;
    // Held until the client has read it all: whoever reads slowly keeps others out, not the memory of the process.
    let held = app.outgoing.take(usize::try_from(size).unwrap_or(usize::MAX))?;
    let artifact = app.store.artifact(caller.scope(), id, &name).await?;
    let artifact = artifact.ok_or_else(Problem::no_such_artifact)?;
    let tag = hex::encode(&artifact.sha256);
    let mut response = answer::unless_known(&headers, &tag, &artifact.content_type, || {
        Body::from(Bytes::from_owner(Outgoing { data: artifact.data, _held: held }))
    });
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    Ok(response)
}

/// Bytes on their way out, with the memory they hold.
struct Outgoing {
    data: Vec<u8>,
    _held: Held,
}

impl AsRef<[u8]> for Outgoing {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}
