//! The shapes that clients meet and that no type of ours has: what is read by hand, byte for byte, and what other crates
//! write. Tests hold each against live answers.

use serde_json::Value;
use utoipa::ToSchema;

/// Where a job stands. The last four are for good.
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
    /// Or a text to go on from.
    #[schema(required = false, min_length = 1)]
    prompt: Option<String>,
    /// Ollama's options.
    #[schema(required = false, value_type = Option<Object>)]
    options: Option<Value>,
    /// Where to tell of the job's states: http or https, at most 2,048 bytes.
    #[schema(required = false, max_length = 2048)]
    state_webhook_url: Option<String>,
    /// Which of them; all unless told.
    #[schema(required = false, min_items = 1)]
    webhook_events: Option<Vec<State>>,
    /// Among this client's jobs; higher goes first.
    #[schema(required = false, minimum = -100, maximum = 100)]
    priority: Option<i16>,
    /// Comes back with the job and its webhooks; at most 4 KiB.
    #[schema(required = false, value_type = Option<Object>)]
    metadata: Option<Value>,
    /// Not to run before; at most 30 days ahead.
    #[schema(required = false, format = DateTime)]
    run_at: Option<String>,
    /// When to give up waiting; at most 30 days after the job may run.
    #[schema(required = false, format = DateTime)]
    expires_at: Option<String>,
    /// Attempts that may fail before the job does.
    #[schema(required = false, minimum = 1, maximum = 20)]
    max_attempts: Option<i16>,
    /// For 24 hours the same key with the same bytes is the same job. A header `Idempotency-Key` must not differ from it.
    #[schema(required = false, min_length = 1, max_length = 255)]
    idempotency_key: Option<String>,
}

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
    /// Of `done` alone, up to the inline limit: what Ollama would have answered unstreamed.
    #[schema(value_type = Option<Object>)]
    result: Option<Value>,
    /// `null` in every event but `done`.
    artifacts: Option<Vec<Artifact>>,
    error: Option<String>,
    /// As it came with the job.
    #[schema(value_type = Option<Object>)]
    metadata: Option<Value>,
}

/// What a job made: it has either `data` or `url`.
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
    /// The bytes as text, up to the inline limit; left out of lists.
    #[schema(required = false, nullable = false)]
    data: String,
    /// Where the bytes are.
    #[schema(required = false)]
    url: String,
}
