//! Registered endpoints, as both of their faces use them: Foreman's own routes and those in the shapes of OpenAI's clients.

pub(crate) mod example;
pub(crate) mod fields;
mod headers;

use std::time::Duration;

use chrono::{DateTime, Utc};
use foreman_store::{EndpointId, EndpointView, EndpointWithSecret, MAX_ENDPOINTS, Scope, Seal};
use foreman_webhook::guard::{Asker, SUBMISSION_BUDGET};
use tokio::time::Instant;

use crate::access::auth::Caller;
use crate::app::App;
use crate::refusal::Refusal;
use fields::Fields;

/// How long the old secret signs too after a rotation, unless the request says so, and at most.
pub(crate) const OVERLAP: Duration = Duration::from_secs(24 * 3_600);
pub(crate) const MAX_OVERLAP: Duration = Duration::from_secs(7 * 24 * 3_600);

/// How many jobs one statement of a recovery looks at.
const JOBS_AT_ONCE: i64 = 500;

/// Every endpoint has a secret, and no secret is stored unsealed.
fn seal(app: &App) -> Result<&Seal, Refusal> {
    app.seal.as_ref().ok_or_else(|| {
        let error = "endpoints have secrets, and this server has no FOREMAN_SECRET_KEY to seal them with; have it set";
        Refusal::unavailable("no_secret_key", error)
    })
}

/// Makes an endpoint. Its secret is in the answer, and nowhere else ever again.
pub(crate) async fn create(
    app: &App,
    caller: &Caller,
    mut fields: Fields,
) -> Result<EndpointWithSecret, Refusal> {
    let seal = seal(app)?;
    check_url(app, caller, &fields).await?;
    let headers = fields.headers.take().unwrap_or_default();
    let settings = fields.settings()?;
    let made = app.store.create_endpoint(seal, caller.client, &settings, &headers).await?;
    made.ok_or_else(|| {
        let error =
            format!("this client has {MAX_ENDPOINTS} endpoints, as many as one may have; delete one first");
        Refusal::conflict("too_many_endpoints", error)
    })
}

/// Changes those fields of an endpoint that are given.
pub(crate) async fn change(
    app: &App,
    caller: &Caller,
    id: EndpointId,
    mut fields: Fields,
) -> Result<EndpointView, Refusal> {
    let headers = fields.headers.take();
    let headers = headers.as_ref().map(|headers| Ok::<_, Refusal>((seal(app)?, headers))).transpose()?;
    check_url(app, caller, &fields).await?;
    let apply = |settings: &mut _| {
        fields.apply(settings);
        Ok::<_, Refusal>(())
    };
    let changed = app.store.change_endpoint(caller.scope(), id, headers, apply).await?;
    changed.ok_or_else(Refusal::no_such_endpoint)
}

pub(crate) async fn rotate(
    app: &App,
    scope: Scope,
    id: EndpointId,
    overlap: Duration,
) -> Result<EndpointWithSecret, Refusal> {
    let rotated = app.store.rotate_endpoint(seal(app)?, scope, id, overlap).await?;
    rotated.ok_or_else(Refusal::no_such_endpoint)
}

/// Makes a webhook of every event since `since` that the endpoint wants and has not got. Returns how many. If the request is
/// given up, what was made stays, and the next request makes the rest.
pub(crate) async fn recover(
    app: &App,
    caller: &Caller,
    id: EndpointId,
    since: DateTime<Utc>,
) -> Result<u64, Refusal> {
    let (mut made, mut after) = (0, None);
    // A permit for each part: the client's lists come between two of them, and do not wait for the end.
    let mut permit = app.reads.page_permit(caller.client).await?;
    loop {
        let part = app.store.recover(caller.scope(), id, since, after, JOBS_AT_ONCE).await?;
        let part = part.ok_or_else(Refusal::no_such_endpoint)?;
        made += part.deliveries;
        match part.next {
            Some(next) => after = Some(next),
            None => return Ok(made),
        }
        drop(permit);
        permit = app.reads.page_permit_midway(caller.client).await?;
    }
}

async fn check_url(app: &App, caller: &Caller, fields: &Fields) -> Result<(), Refusal> {
    let Some(url) = &fields.url else { return Ok(()) };
    let deadline = Instant::now() + SUBMISSION_BUDGET;
    Ok(app.receivers.check(Asker::of(caller.client), url, deadline).await?)
}
