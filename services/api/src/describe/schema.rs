//! Types that only describe JSON, for values that no type of the api describes: other crates read or write them. Tests compare
//! each of them with real answers.

use serde_json::Value;
use utoipa::ToSchema;

/// The state of a job. The last four are final.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "only its shape is used")]
pub(crate) enum State {
    Queued,
    Loading,
    Working,
    Done,
    Failed,
    Cancelled,
    Expired,
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "only its shape is used")]
pub(crate) enum DeliveryState {
    Pending,
    Delivered,
    Failed,
}

/// A job to submit: one object with `model` and either `messages` or `prompt`, and whatever else Ollama takes. No key may
/// be repeated. `null` means "not given".
#[derive(ToSchema)]
#[expect(dead_code, reason = "only its shape is used")]
pub(crate) struct NewJob {
    /// A model that a host has, as `ollama list` shows it.
    #[schema(example = "llama3.2")]
    model: String,
    /// A chat; at least one message.
    #[schema(required = false, min_items = 1)]
    messages: Option<Vec<Value>>,
    /// Instead of a chat: a text to continue.
    #[schema(required = false, min_length = 1)]
    prompt: Option<String>,
    /// Ollama's options.
    #[schema(required = false, value_type = Option<Object>)]
    options: Option<Value>,
    /// The URL that gets webhooks of the job's states: http or https, at most 2,048 bytes.
    #[schema(required = false, max_length = 2048)]
    state_webhook_url: Option<String>,
    /// The states to send; all states if this is missing.
    #[schema(required = false, min_items = 1)]
    webhook_events: Option<Vec<State>>,
    /// The order among this client's jobs: a job with a higher priority goes first.
    #[schema(required = false, minimum = -100, maximum = 100)]
    priority: Option<i16>,
    /// Comes back with the job and its webhooks; at most 4 KiB.
    #[schema(required = false, value_type = Option<Object>)]
    metadata: Option<Value>,
    /// The job does not run before this time; at most 30 days ahead.
    #[schema(required = false, format = DateTime)]
    run_at: Option<String>,
    /// The job waits until this time and then expires; at most 30 days after the job may run.
    #[schema(required = false, format = DateTime)]
    expires_at: Option<String>,
    /// The job fails when this many attempts have failed.
    #[schema(required = false, minimum = 1, maximum = 20)]
    max_attempts: Option<i16>,
    /// For 24 hours, the same key with the same bytes gives the same job. A header `Idempotency-Key` must have the same value.
    #[schema(required = false, min_length = 1, max_length = 255)]
    idempotency_key: Option<String>,
}

/// A body without fields. It may be missing.
#[derive(ToSchema)]
pub(crate) struct NoFields {}

/// A job that was accepted.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only its shape is used")]
pub(crate) struct JobRef {
    /// Its ULID.
    #[schema(min_length = 26, max_length = 26)]
    job_id: String,
}

/// A delivery that is due.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only its shape is used")]
pub(crate) struct DeliveryRef {
    /// Its ULID.
    #[schema(min_length = 26, max_length = 26)]
    delivery_id: String,
}

/// One transition of a job: an entry of its history, the data of an event, the body of a webhook.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only its shape is used")]
pub(crate) struct Event {
    /// `job.` and the state.
    r#type: String,
    job_id: String,
    /// From 1, without gaps.
    #[schema(minimum = 1)]
    seq: i32,
    state: State,
    /// Empty for the first.
    previous_state: String,
    #[schema(format = DateTime)]
    timestamp: String,
    /// The model as the job names it.
    model: String,
    /// 0 until the first claim; a requeue carries the attempt that ended.
    #[schema(minimum = 0)]
    attempt: i32,
    /// Only in `done`, and only up to the inline limit: Ollama's answer as one object.
    #[schema(value_type = Option<Object>)]
    result: Option<Value>,
    /// `null` in every event but `done`.
    artifacts: Option<Vec<Artifact>>,
    error: Option<String>,
    /// As it came with the job.
    #[schema(value_type = Option<Object>)]
    metadata: Option<Value>,
}

/// A result of a job. It has either `data` or `url`.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only its shape is used")]
pub(crate) struct Artifact {
    #[schema(example = "completion")]
    name: String,
    content_type: String,
    /// Bytes.
    #[schema(minimum = 0)]
    size: i64,
    /// Lower-case hex.
    #[schema(min_length = 64, max_length = 64)]
    sha256: String,
    /// The bytes as text, if they are within the inline limit. Lists leave this out.
    #[schema(required = false, nullable = false)]
    data: String,
    /// Where the bytes are.
    #[schema(required = false)]
    url: String,
}

/// The fields of an endpoint that a request gives. On a change, a missing field stays, and `null` clears any but `url`.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only its shape is used")]
pub(crate) struct EndpointFields {
    /// Where the webhooks go: http or https, at most 2,048 bytes. A new endpoint needs it, and no change clears it.
    #[schema(required = false, nullable = false, max_length = 2048)]
    url: String,
    #[schema(required = false, max_length = 200)]
    description: Option<String>,
    /// The states to send; all states if this is missing.
    #[schema(required = false, min_items = 1)]
    events: Option<Vec<State>>,
    /// The models whose jobs are told of; all models if this is missing.
    #[schema(required = false, min_items = 1, max_items = 100)]
    models: Option<Vec<String>>,
    /// Headers to send along: at most 20, and 8 KiB in all. A change replaces all of them. Values are never shown again.
    #[schema(required = false, value_type = Option<Object>)]
    headers: Option<Value>,
    /// Webhooks per second, whatever the number of workers; no limit if this is missing.
    #[schema(required = false, minimum = 1, maximum = 1000)]
    rate_limit: Option<i32>,
    /// A disabled endpoint gathers its webhooks, for six days at most, and gets them once it is enabled.
    #[schema(required = false)]
    disabled: Option<bool>,
}
