//! `GET /jobs/{id}/events`: the history of a job so far, or a stream that follows it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use foreman_store::{ClientId, JobHistory, JobId, JobState};
use foreman_webhook::rfc3339;
use futures_util::stream::{self, Stream, StreamExt};
use serde_json::json;
use tokio::time::{Instant, sleep};
use tracing::{Instrument, Span};

use super::show;
use crate::access::auth::Caller;
use crate::access::reads::ReadPermit;
use crate::app::{App, Shared};
use crate::describe::schema;
use crate::forecasts::{Prospect, QueuedJob};
use crate::http::outgoing::{self, Outgoing};
use crate::http::path::JobPath;
use crate::http::sse::{self, HEARTBEAT_EVERY, LONGEST};
use crate::refusal::Refusal;
use crate::watch::{Until, WaitPermit, Waited};

/// The time between two attempts to send events when the client's share of memory has no room for them.
const ROOM_POLL: Duration = Duration::from_secs(2);

/// The time between two looks at where a job that waits stands.
const TELL_EVERY: Duration = Duration::from_secs(2);

/// An inline limit that leaves the data of all artifacts out: no artifact is as small as this.
const NO_DATA: i64 = -1;

/// Shows a job's history, or follows it.
///
/// With `Accept: text/event-stream` events come as they happen: `id` is the `seq`, `data` the body of the webhook, and none
/// has a name, so that `EventSource` hands them to `onmessage`. While the job waits, events named `waiting`, without an id,
/// tell its `position`, `eta` and `waiting_for` when they change. The stream ends after the last event of the job, after
/// 15 minutes, and when this process stops. A client that comes back with `Last-Event-ID` misses nothing.
#[utoipa::path(
    get,
    path = "/jobs/{id}/events",
    tag = "jobs",
    params(
        ("id" = String, Path, description = "The job's ULID."),
        ("Last-Event-ID" = Option<String>, Header, description = "With a stream: the `seq` of the last event that the client has."),
    ),
    responses(
        (status = 200, description = "All events so far, or a stream of them.", content(
            (show::Page<schema::Event> = "application/json"), (String = "text/event-stream"))),
        (status = 204, description = "Of a stream: the client has them all, and no more will come."),
        (status = 400, description = "`invalid_last_event_id`"),
        (status = 404, description = "`no_such_job`"),
        (status = 429, description = "`too_many_waiting`, `too_many_reads`, `too_much_unread`"),
        (status = 503, description = "`too_many_waiting`, `busy`"),
    ),
)]
pub(crate) async fn show(
    caller: Caller,
    JobPath(id): JobPath,
    State(app): State<Shared>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let mut response = if sse::is_wanted(&headers) {
        follow(app, caller, id, last_seq(&headers)?).await?
    } else {
        let permit = app.reads.permit(caller.client).await?;
        let history = history(&app, caller, id, 0).await?;
        drop(permit);
        outgoing::json(&app, caller.client, StatusCode::OK, show::history(&app, id, &history))?
    };
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept"));
    Ok(response)
}

/// The `seq` of the last event that the client has seen; 0 if it has seen none.
fn last_seq(headers: &HeaderMap) -> Result<i32, Refusal> {
    let Some(id) = sse::last_event_id(headers)? else { return Ok(0) };
    id.parse().ok().filter(|seq| *seq >= 0).ok_or_else(sse::not_an_id)
}

async fn history(app: &App, caller: Caller, id: JobId, after: i32) -> Result<JobHistory, Refusal> {
    let inline_limit = i64::try_from(app.inline_limit).unwrap_or(i64::MAX);
    let history = app.store.job_history(caller.scope(), id, after, inline_limit).await?;
    history.ok_or_else(Refusal::no_such_job)
}

/// A stream of all events after `last`, including those that are still to come.
async fn follow(app: Shared, caller: Caller, id: JobId, last: i32) -> Result<Response, Refusal> {
    let wait_permit = app.watch.permit(caller.client)?;
    let permit = app.reads.permit(caller.client).await?;
    let history = history(&app, caller, id, last).await?;
    let owner = history.client;
    if history.events.is_empty() {
        let progress = app.store.progress(&[(owner, id)]).await?;
        let progress = progress.first().ok_or_else(Refusal::no_such_job)?;
        if last > progress.seq {
            return Err(sse::not_an_id());
        }
        // No event will come. Only 204 stops a browser from asking again.
        if progress.has_ended && last == progress.seq {
            return Ok(StatusCode::NO_CONTENT.into_response());
        }
    }
    let until = Instant::now() + LONGEST;
    let (waiting, told) = (None, Prospect::default());
    let mut follower =
        Follower { app, caller, id, owner, wait_permit, last, has_ended: false, until, waiting, told };
    follower.look_whether_it_waits(&history, &permit).await;
    drop(permit);
    // Write the first events before the head is sent, so that a client without room for them gets a refusal, and no stream
    // without events.
    let begun = follower.write(sse::COME_BACK, &history)?;
    Ok(sse::response(follower.stream(begun)))
}

/// A client that follows a job. The next events are read only when the client has taken those before.
struct Follower {
    app: Arc<App>,
    caller: Caller,
    id: JobId,
    owner: ClientId,
    wait_permit: WaitPermit,
    /// The last event that was sent.
    last: i32,
    /// Whether the last event that was sent ended the job.
    has_ended: bool,
    until: Instant,
    /// The job, while it waits.
    waiting: Option<QueuedJob>,
    /// What was told last of it.
    told: Prospect,
}

/// The result of one wait for events.
enum Heard {
    /// With the permit that they were read with.
    Events(JobHistory, ReadPermit),
    /// Where the job stands now.
    Told(Bytes),
    /// No event yet.
    Silence,
    /// No more events will come from this process.
    End,
}

impl Follower {
    fn stream(self, begun: Bytes) -> impl Stream<Item = Result<Bytes, Infallible>> {
        let request = Span::current();
        let news = stream::unfold(self, move |mut follower| {
            let following = async {
                let bytes = follower.go_on().await?;
                Some((Ok(bytes), follower))
            };
            following.instrument(request.clone())
        });
        stream::once(async { Ok(begun) }).chain(news)
    }

    /// The next bytes to send, or `None` at the end of the stream.
    async fn go_on(&mut self) -> Option<Bytes> {
        if self.has_ended {
            return None;
        }
        match self.news().await {
            Heard::Told(bytes) => return Some(bytes),
            Heard::Events(history, permit) => match self.write("", &history) {
                Ok(bytes) => {
                    self.look_whether_it_waits(&history, &permit).await;
                    return Some(bytes);
                }
                // The client's share has no room for these events. They are read again a moment later.
                Err(_) if Instant::now() < self.until => {
                    drop(permit);
                    sleep(ROOM_POLL).await;
                }
                Err(_) => return None,
            },
            Heard::Silence => {}
            Heard::End => return None,
        }
        Some(Bytes::from_static(sse::HEARTBEAT.as_bytes()))
    }

    /// Writes these events after `text`, or refuses when the client's share of memory has no room for them.
    fn write(&mut self, text: &str, history: &JobHistory) -> Result<Bytes, Refusal> {
        let mut text = text.as_bytes().to_vec();
        for (seq, event) in show::events(&self.app, self.id, history) {
            sse::write(&mut text, seq, event.get().as_bytes());
        }
        let held = self.app.events.take(self.caller.client, text.len())?;
        if let Some(event) = history.events.last() {
            self.last = event.seq;
            self.has_ended = event.state.is_terminal();
        }
        Ok(Outgoing::bytes(text, Arc::new(held)))
    }

    /// Waits for the next events and reads them. The wait begins with a look at the job, so no event is lost between the read
    /// before and this wait.
    async fn news(&mut self) -> Heard {
        let heartbeat = self.until.min(Instant::now() + HEARTBEAT_EVERY);
        loop {
            let deadline = match &self.waiting {
                Some(_) => heartbeat.min(Instant::now() + TELL_EVERY),
                None => heartbeat,
            };
            let waited = self.wait_permit.wait(self.owner, self.id, Until::After(self.last), deadline).await;
            if waited != Waited::TimedOut {
                return self.reached(waited).await;
            }
            if let Some(told) = self.tell().await {
                return Heard::Told(told);
            }
            if Instant::now() >= heartbeat {
                return self.reached(waited).await;
            }
        }
    }

    /// Where the job stands, if it waits and that has changed.
    async fn tell(&mut self) -> Option<Bytes> {
        let prospect = self.app.prospect_of(self.waiting.as_ref()?).await;
        if !prospect.differs(&self.told) {
            return None;
        }
        let data = json!({
            "position": prospect.position,
            "eta": prospect.eta.map(rfc3339),
            "waiting_for": prospect.waiting_for,
        });
        self.told = prospect;
        Some(format!("event: waiting\ndata: {data}\n\n").into())
    }

    /// Learns whether the job waits after these events. Without an answer nothing is told of its place.
    async fn look_whether_it_waits(&mut self, history: &JobHistory, _: &ReadPermit) {
        self.waiting = None;
        let last = history.events.last();
        if last.is_some_and(|event| event.state != JobState::Queued) {
            return;
        }
        let job = self.app.store.job(self.caller.scope(), self.id, NO_DATA).await.map_err(Refusal::from);
        self.waiting = job.ok().flatten().as_ref().and_then(QueuedJob::of);
    }

    async fn reached(&self, waited: Waited) -> Heard {
        match waited {
            Waited::Reached { .. } => {
                let Ok(permit) = self.app.reads.permit_midway(self.caller.client).await else {
                    return Heard::End;
                };
                match history(&self.app, self.caller, self.id, self.last).await {
                    Ok(history) if !history.events.is_empty() => Heard::Events(history, permit),
                    // The job is gone, or the database is away and the failure is logged already.
                    Ok(_) | Err(_) => Heard::End,
                }
            }
            Waited::TimedOut if Instant::now() < self.until => Heard::Silence,
            Waited::TimedOut | Waited::Stopping => Heard::End,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_event_is_named_by_its_seq() {
        let read = |id: &'static str| {
            let headers = HeaderMap::from_iter([(
                header::HeaderName::from_static("last-event-id"),
                HeaderValue::from_static(id),
            )]);
            last_seq(&headers).ok()
        };
        assert_eq!((read(""), read("0"), read("7")), (Some(0), Some(0), Some(7)));
        for id in ["x", "-1", "1.0", "99999999999", "01J_2"] {
            assert_eq!(read(id), None, "{id}");
        }
    }
}
