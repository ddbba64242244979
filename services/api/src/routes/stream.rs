//! `GET /jobs/{id}/stream`: the answer of a job while it comes, for anybody who may see the job, as often as they like.
//!
//! An event is one piece of Ollama's answer. Its id is the attempt and the number of bytes up to its end, so a client that
//! comes back goes on where it was, at any api.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use foreman_live::{End, Frame};
use foreman_ollama::{Cutter, Pieces};
use foreman_store::{ClientId, JobId, Scope};
use futures_util::stream::{self, Stream, StreamExt as _};
use serde_json::json;
use tokio::time::{Instant, timeout};
use tracing::{Instrument, Span};

use super::job;
use crate::access::auth::Caller;
use crate::app::Shared;
use crate::http::outgoing::Outgoing;
use crate::http::path::JobPath;
use crate::http::sse::{self, HEARTBEAT_EVERY, LONGEST};
use crate::live::following::Following;
use crate::live::stored::{self, Outcome, Stored};
use crate::refusal::Refusal;
use crate::watch::{Until, WaitPermit, Waited};

/// An attempt is in Postgres a moment before its worker can be asked for its answer.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// Follows the answer of a job.
///
/// Each event is one piece of Ollama's answer, as Ollama sent it: a line of `/api/chat`, say. First come the pieces of before,
/// then the others as they arise. When a new attempt begins the answer anew, an event `restart` says so: forget what came. The
/// last event is `end`, with the `state` of the job. A client that comes back with `Last-Event-ID` misses nothing. After the end of a
/// job of `POST /jobs` the answer is one single piece, as in the artifact `completion`.
#[utoipa::path(
    get,
    path = "/jobs/{id}/stream",
    tag = "jobs",
    params(
        ("id" = String, Path, description = "The job's ULID."),
        ("Last-Event-ID" = Option<String>, Header, description = "The id of the last event that the client has.", example = "1:2048"),
    ),
    responses(
        (status = 200, description = "The pieces so far, and then those to come.", body = String, content_type = "text/event-stream"),
        (status = 204, description = "The client has them all, and no more will come."),
        (status = 400, description = "`invalid_last_event_id`"),
        (status = 404, description = "`no_such_job`"),
        (status = 429, description = "`too_many_waiting`, `too_many_reads`"),
        (status = 503, description = "`too_many_waiting`, `busy`"),
    ),
)]
pub(crate) async fn follow(
    caller: Caller,
    JobPath(id): JobPath,
    State(app): State<Shared>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let Some(place) = Cursor::read(sse::last_event_id(&headers)?)? else {
        // Only 204 stops a browser from asking again.
        return Ok(StatusCode::NO_CONTENT.into_response());
    };
    let wait_permit = app.watch.permit(caller.client)?;
    let permit = app.reads.permit(caller.client).await?;
    let job = job::view(&app, caller, id).await?.ok_or_else(Refusal::no_such_job)?;
    drop(permit);
    let until = Instant::now() + LONGEST;
    let (owner, source) = (job.client, Source::Nothing);
    let follower = Follower {
        app,
        client: caller.client,
        owner,
        id,
        wait_permit,
        place,
        source,
        unfollowable: 0,
        is_over: false,
        until,
    };
    Ok(sse::response(follower.stream()))
}

/// Where a client is in the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cursor {
    attempt: i32,
    /// Bytes of the answer that the client has.
    bytes: u64,
}

impl Cursor {
    /// The place that the id of an event names. `None` if that event was the last one.
    fn read(id: Option<&str>) -> Result<Option<Self>, Refusal> {
        let Some(id) = id else { return Ok(Some(Self { attempt: 0, bytes: 0 })) };
        let (attempt, bytes) = id.split_once(':').ok_or_else(sse::not_an_id)?;
        let attempt = attempt.parse().ok().filter(|attempt| *attempt >= 0).ok_or_else(sse::not_an_id)?;
        match bytes {
            "end" => Ok(None),
            bytes => Ok(Some(Self { attempt, bytes: bytes.parse().map_err(|_| sse::not_an_id())? })),
        }
    }

    /// Whether a client at this place must forget what it has when this attempt answers.
    fn is_of_another(self, attempt: i32) -> bool {
        self.bytes > 0 && self.attempt != attempt
    }
}

/// A client that follows an answer. The next pieces are read only when the client has taken those before.
struct Follower {
    app: Shared,
    client: ClientId,
    owner: ClientId,
    id: JobId,
    wait_permit: WaitPermit,
    place: Cursor,
    source: Source,
    /// An attempt whose answer has become too long to follow.
    unfollowable: i32,
    is_over: bool,
    until: Instant,
}

enum Source {
    Nothing,
    Worker(Box<Following>, i32),
    Postgres(Box<Stored>, Option<Cutter>),
}

impl Follower {
    fn stream(self) -> impl Stream<Item = Result<Bytes, Infallible>> {
        let request = Span::current();
        let events = stream::unfold(self, move |mut follower| {
            let following = async { follower.next().await.map(|bytes| (Ok(bytes), follower)) };
            following.instrument(request.clone())
        });
        stream::once(async { Ok(Bytes::from_static(sse::COME_BACK.as_bytes())) }).chain(events)
    }

    /// The next events, or `None` at the end of the stream.
    async fn next(&mut self) -> Option<Bytes> {
        while !self.is_over && Instant::now() < self.until {
            let mut events = Vec::new();
            match &mut self.source {
                Source::Nothing => {
                    if !self.look(&mut events).await? {
                        events.extend_from_slice(sse::HEARTBEAT.as_bytes());
                    }
                }
                Source::Worker(following, attempt) => {
                    let attempt = *attempt;
                    match timeout(HEARTBEAT_EVERY, following.next()).await {
                        Err(_elapsed) => events.extend_from_slice(sse::HEARTBEAT.as_bytes()),
                        Ok(Ok(Frame::Head(_))) => {}
                        Ok(Ok(Frame::Piece(piece))) => self.piece(&mut events, attempt, &piece),
                        Ok(Ok(Frame::End(end))) => self.ended(&mut events, attempt, &end),
                        // The worker is gone, or the connection to it.
                        Ok(Err(_)) => self.source = Source::Nothing,
                    }
                }
                Source::Postgres(stored, cutter) => {
                    let attempt = stored.attempt;
                    let waiting = cutter.as_ref().map_or(0, Cutter::waiting) as u64;
                    match stored.next(self.place.bytes + waiting).await.map_err(Refusal::from).ok()? {
                        Frame::Head(head) => {
                            let pieces = Pieces::of(head.content_type.as_deref().unwrap_or_default());
                            // What was joined has other bytes than what was streamed.
                            if self.place.is_of_another(attempt)
                                || (self.place.bytes > 0 && pieces == Pieces::Whole)
                            {
                                self.restart(&mut events, attempt);
                            }
                            self.place.attempt = attempt;
                            *cutter_of(&mut self.source)? = Some(Cutter::new(pieces));
                        }
                        Frame::Piece(bytes) => {
                            let cutter = cutter.as_mut()?;
                            cutter.push(&bytes);
                            let pieces: Vec<Bytes> = std::iter::from_fn(|| cutter.next_piece()).collect();
                            pieces.iter().for_each(|piece| self.piece(&mut events, attempt, piece));
                        }
                        Frame::End(end) => {
                            if let Some(rest) = cutter.take().map(Cutter::end).filter(|rest| !rest.is_empty())
                            {
                                self.piece(&mut events, attempt, &rest);
                            }
                            self.ended(&mut events, attempt, &end);
                        }
                    }
                }
            }
            if !events.is_empty() {
                // A client without room for more comes back a moment later, with the id of the last event that it has.
                let held = self.app.events.take(self.client, events.len()).ok()?;
                return Some(Outgoing::bytes(events, Arc::new(held)));
            }
        }
        None
    }

    /// Finds out where the answer is. Returns whether anything has changed. `None` if Postgres does not answer;
    /// `Refusal::from` logs why.
    async fn look(&mut self, events: &mut Vec<u8>) -> Option<bool> {
        let store = &self.app.store;
        let progress = store.progress(&[(self.owner, self.id)]).await.map_err(Refusal::from).ok()?.pop()?;
        if progress.has_ended {
            let ended = stored::ended(store, self.owner, self.id).await.map_err(Refusal::from).ok()?;
            if let Some(ended) = ended {
                match ended.outcome {
                    Outcome::Answer(stored) => self.source = Source::Postgres(stored, None),
                    Outcome::None(end) => self.ended(events, ended.attempt, &end),
                }
            }
            return Some(true);
        }
        let place = store.place_of(Scope::Client(self.owner), self.id).await.map_err(Refusal::from).ok()?;
        let mut wait = HEARTBEAT_EVERY;
        if let Some(place) = place.filter(|place| place.attempt != self.unfollowable)
            && let Some(url) = place.url
        {
            let from = if self.place.attempt == place.attempt { self.place.bytes } else { 0 };
            match Following::open(&self.app.workers, &url, self.id, place.attempt, from).await {
                Ok(following) => {
                    self.source = Source::Worker(Box::new(following), place.attempt);
                    return Some(true);
                }
                Err(_) => wait = ASK_AGAIN,
            }
        }
        let deadline = self.until.min(Instant::now() + wait);
        match self.wait_permit.wait(self.owner, self.id, Until::After(progress.seq), deadline).await {
            Waited::Reached { .. } => Some(true),
            Waited::TimedOut => Some(wait == ASK_AGAIN),
            Waited::Stopping => None,
        }
    }

    fn piece(&mut self, events: &mut Vec<u8>, attempt: i32, piece: &[u8]) {
        if self.place.is_of_another(attempt) {
            self.restart(events, attempt);
        }
        self.place.attempt = attempt;
        self.place.bytes += piece.len() as u64;
        let data = data_of(piece);
        if !data.is_empty() {
            sse::write(events, format_args!("{attempt}:{}", self.place.bytes), &data);
        }
    }

    fn restart(&mut self, events: &mut Vec<u8>, attempt: i32) {
        self.place = Cursor { attempt, bytes: 0 };
        events.extend_from_slice(b"event: restart\n");
        sse::write(events, format_args!("{attempt}:0"), b"{}");
    }

    fn ended(&mut self, events: &mut Vec<u8>, attempt: i32, end: &End) {
        let data = match end {
            End::Done => json!({"state": "done"}),
            End::Failed { code, .. } if code == foreman_live::TOO_LONG => {
                self.unfollowable = attempt;
                self.source = Source::Nothing;
                return;
            }
            End::Failed { code, error, .. } => json!({"state": "failed", "error": error, "error_code": code}),
            End::Cancelled => json!({"state": "cancelled"}),
            End::Expired => json!({"state": "expired"}),
            End::Again => {
                self.source = Source::Nothing;
                return;
            }
        };
        self.is_over = true;
        events.extend_from_slice(b"event: end\n");
        sse::write(events, format_args!("{attempt}:end"), data.to_string().as_bytes());
    }
}

fn cutter_of(source: &mut Source) -> Option<&mut Option<Cutter>> {
    match source {
        Source::Postgres(_, cutter) => Some(cutter),
        _ => None,
    }
}

/// The JSON of a piece. An event's other fields are left out: the JSON repeats its name.
fn data_of(piece: &[u8]) -> Vec<u8> {
    let text = piece.trim_ascii();
    if text.starts_with(b"{") || text.starts_with(b"[") {
        return text.to_vec();
    }
    let data: Vec<&[u8]> = text
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.strip_prefix(b"data:"))
        .map(<[u8]>::trim_ascii)
        .collect();
    data.join(&b'\n')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_names_an_attempt_and_a_byte() {
        let read = |id| Cursor::read(id).map_err(|refusal| refusal.code());
        assert_eq!(read(None), Ok(Some(Cursor { attempt: 0, bytes: 0 })));
        assert_eq!(read(Some("2:4096")), Ok(Some(Cursor { attempt: 2, bytes: 4096 })));
        assert_eq!(read(Some("2:end")), Ok(None));
        for id in ["", "2", "2:", "x:1", "-1:5", "1:-5", "1:2:3", "99999999999:1"] {
            assert_eq!(read(Some(id)), Err("invalid_last_event_id"), "{id}");
        }
    }

    #[test]
    fn the_data_of_a_piece_is_its_json() {
        for (piece, data) in [
            ("{\"a\":1}\n", "{\"a\":1}"),
            ("data: {\"a\":1}\n\n", "{\"a\":1}"),
            ("event: x\ndata: {}\n\n", "{}"),
            ("data: [DONE]\n\n", "[DONE]"),
            (": comment\n\n", ""),
            ("\n", ""),
        ] {
            assert_eq!(data_of(piece.as_bytes()), data.as_bytes(), "{piece:?}");
        }
    }
}
