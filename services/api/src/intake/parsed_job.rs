//! Parses Foreman's own fields of a job: priority, times, receiver, metadata and idempotency key. `foreman_ollama` has parsed
//! Ollama's fields before, into a [`JobBody`]. No later code checks these values again.
//!
//! A field that is `null` counts as missing, as it does for Ollama.

use axum::http::HeaderMap;
use chrono::{DateTime, TimeDelta, Utc};
use foreman_ollama::JobBody;
use foreman_store::{IdempotencyKey, JobState};
use foreman_webhook::ReceiverUrl;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::http::values;
use crate::refusal::Refusal;

const MAX_PRIORITY: i16 = 100;
const MAX_ATTEMPTS: i16 = 20;
const MAX_METADATA: usize = 4 << 10;
const MAX_KEY: usize = 255;

/// The longest time until `run_at`, and from then until `expires_at`. Both are bounded, so that no job keeps the partition of
/// its day forever.
pub(crate) const MAX_AHEAD: TimeDelta = TimeDelta::days(30);

/// A job as its client asked for it, with every value checked.
#[derive(Debug)]
pub(crate) struct ParsedJob {
    pub(crate) body: JobBody,
    pub(crate) priority: i16,
    /// `None` leaves the number to the settings of the worker.
    pub(crate) max_attempts: Option<i16>,
    /// A JSON object, byte for byte as the client sent it.
    pub(crate) metadata: Option<String>,
    pub(crate) receiver: Option<ParsedReceiver>,
    pub(crate) times: Times,
}

/// Where to send webhooks of the job, and for which states.
#[derive(Debug)]
pub(crate) struct ParsedReceiver {
    pub(crate) url: ReceiverUrl,
    /// `None` means all states.
    pub(crate) events: Option<Vec<JobState>>,
}

/// When the job may begin at the earliest, and until when it waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Times {
    pub(crate) run_at: Option<DateTime<Utc>>,
    pub(crate) expires_at: DateTime<Utc>,
}

impl Times {
    /// The times of a job that may run at `now` and names no `expires_at`.
    pub(crate) fn from_now(now: DateTime<Utc>, ttl: TimeDelta) -> Self {
        Self { run_at: None, expires_at: now + ttl.min(MAX_AHEAD) }
    }

    /// The times of a job that may run at `run_at` and names no `expires_at`. A `run_at` in the past means "at once".
    pub(crate) fn from(
        run_at: Option<DateTime<Utc>>,
        now: DateTime<Utc>,
        ttl: TimeDelta,
    ) -> Result<Self, Refusal> {
        if run_at.is_some_and(|run_at| run_at > now + MAX_AHEAD) {
            let error = format!("`run_at` must be within {} days from now", MAX_AHEAD.num_days());
            return Err(Refusal::bad_request("invalid_run_at", error));
        }
        Ok(Self { run_at, ..Self::from_now(run_at.unwrap_or(now).max(now), ttl) })
    }
}

impl ParsedJob {
    /// `now` is Postgres' time. A job that names no `expires_at` may wait for `ttl`.
    pub(crate) fn of(body: JobBody, now: DateTime<Utc>, ttl: TimeDelta) -> Result<Self, Refusal> {
        let own = |field| body.own(field).filter(|raw| raw.get() != "null");
        Ok(Self {
            priority: own("priority").map(priority).transpose()?.unwrap_or(0),
            max_attempts: own("max_attempts").map(max_attempts).transpose()?,
            metadata: own("metadata").map(metadata).transpose()?,
            receiver: receiver(own("state_webhook_url"), own("webhook_events"))?,
            times: times(own("run_at"), own("expires_at"), now, ttl)?,
            body,
        })
    }
}

/// The idempotency key of a request, with the digest of the bytes that it stands for. The key comes in the header or in the job
/// itself: a line of a batch has no header, so it carries its own key.
pub(crate) fn idempotency_key(
    headers: &HeaderMap,
    in_job: Option<&RawValue>,
    bytes: &[u8],
) -> Result<Option<IdempotencyKey>, Refusal> {
    let mut in_headers = headers.get_all("idempotency-key").iter();
    let in_header = in_headers.next().map(|key| key.to_str().map_err(|_| key_unfit())).transpose()?;
    let in_job = in_job.filter(|raw| raw.get() != "null");
    let in_job: Option<String> = in_job.map(|raw| read(raw).ok_or_else(key_unfit)).transpose()?;
    let key = match (in_header, in_job) {
        (None, None) => return Ok(None),
        (Some(one), Some(other)) if one != other => return Err(key_unfit()),
        (Some(key), _) => key.to_owned(),
        (None, Some(key)) => key,
    };
    let is_printable = key.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    if in_headers.next().is_some() || key.is_empty() || key.len() > MAX_KEY || !is_printable {
        return Err(key_unfit());
    }
    Ok(Some(IdempotencyKey { key, body_digest: Sha256::digest(bytes).into() }))
}

fn key_unfit() -> Refusal {
    let error = format!("send one idempotency key of 1 to {MAX_KEY} printable ASCII characters, or none");
    Refusal::bad_request("invalid_idempotency_key", error)
}

fn priority(raw: &RawValue) -> Result<i16, Refusal> {
    read(raw).filter(|priority| (-MAX_PRIORITY..=MAX_PRIORITY).contains(priority)).ok_or_else(|| {
        let error = format!("`priority` must be a whole number from -{MAX_PRIORITY} to {MAX_PRIORITY}");
        Refusal::bad_request("invalid_priority", error)
    })
}

fn max_attempts(raw: &RawValue) -> Result<i16, Refusal> {
    read(raw).filter(|attempts| (1..=MAX_ATTEMPTS).contains(attempts)).ok_or_else(|| {
        let error = format!("`max_attempts` must be a whole number from 1 to {MAX_ATTEMPTS}");
        Refusal::bad_request("invalid_max_attempts", error)
    })
}

fn metadata(raw: &RawValue) -> Result<String, Refusal> {
    let text = raw.get();
    if !text.starts_with('{') || text.len() > MAX_METADATA {
        let error = format!("`metadata` must be a JSON object of at most {MAX_METADATA} bytes");
        return Err(Refusal::bad_request("invalid_metadata", error));
    }
    Ok(text.to_owned())
}

fn receiver(url: Option<&RawValue>, events: Option<&RawValue>) -> Result<Option<ParsedReceiver>, Refusal> {
    let events = events.map(webhook_events).transpose()?;
    let Some(url) = url else {
        return match events {
            None => Ok(None),
            Some(_) => {
                let error = "`webhook_events` says what to send, but `state_webhook_url` is missing; add it";
                Err(Refusal::bad_request("webhook_url_missing", error))
            }
        };
    };
    let url: String = read(url)
        .ok_or_else(|| Refusal::bad_request("invalid_webhook_url", "`state_webhook_url` must be a string"))?;
    Ok(Some(ParsedReceiver { url: ReceiverUrl::parse(&url)?, events }))
}

fn webhook_events(raw: &RawValue) -> Result<Vec<JobState>, Refusal> {
    let names: Vec<String> = read(raw).unwrap_or_default();
    values::states(names.iter().map(String::as_str)).ok_or_else(|| {
        let error = format!("`webhook_events` must be an array of some of {}", values::state_names());
        Refusal::bad_request("invalid_webhook_events", error)
    })
}

fn times(
    run_at: Option<&RawValue>,
    expires_at: Option<&RawValue>,
    now: DateTime<Utc>,
    ttl: TimeDelta,
) -> Result<Times, Refusal> {
    let run_at = run_at.map(|raw| moment("run_at", raw)).transpose()?;
    let times = Times::from(run_at, now, ttl)?;
    let Some(expires_at) = expires_at else { return Ok(times) };
    let eligible = run_at.unwrap_or(now).max(now);
    let expires_at = moment("expires_at", expires_at)?;
    if expires_at <= eligible || expires_at > eligible + MAX_AHEAD {
        let days = MAX_AHEAD.num_days();
        let error = format!("`expires_at` must be later than now and `run_at`, by {days} days at most");
        return Err(Refusal::bad_request("invalid_expires_at", error));
    }
    Ok(Times { run_at, expires_at })
}

fn moment(field: &str, raw: &RawValue) -> Result<DateTime<Utc>, Refusal> {
    let text: Option<String> = read(raw);
    let code = if field == "run_at" { "invalid_run_at" } else { "invalid_expires_at" };
    values::moment(field, code, text.as_deref())
}

fn read<T: DeserializeOwned>(raw: &RawValue) -> Option<T> {
    serde_json::from_str(raw.get()).ok()
}

#[cfg(test)]
mod tests;
