//! `GET /usage`.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use chrono::TimeDelta;
use foreman_store::{self as store, UsageBy, UsageFilter};
use foreman_webhook::rfc3339;
use serde::Serialize;
use utoipa::ToSchema;

use super::show;
use crate::access::auth::Caller;
use crate::app::{App, Shared};
use crate::http::outgoing;
use crate::http::query::{Parameters, cut_to_page};
use crate::refusal::Refusal;

/// The sums in an answer, if the request names no `limit`, and the largest `limit`: more than the hours of 13 months.
const DEFAULT_SUMS: usize = 100;
const MOST_SUMS: usize = 10_000;

/// The hours of an answer, if the request names no `from`.
const DEFAULT_SPAN: TimeDelta = TimeDelta::days(1);

/// What has been used in some hours.
#[derive(Serialize, ToSchema)]
pub(crate) struct UsageReport {
    /// Hours that begin at this time or later, and before `to`, are summed up.
    #[schema(format = DateTime)]
    from: String,
    #[schema(format = DateTime)]
    to: String,
    #[schema(value_type = SummedUpBy)]
    by: &'static str,
    data: Vec<UsageSum>,
    /// Whether there are more sums than `limit`.
    has_more: bool,
}

/// By what sums are told apart.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "only the description of the api reads it")]
enum SummedUpBy {
    Client,
    User,
    Model,
    Hour,
}

/// What one client, user or model has used, or what was used in one hour. Of `client`, `user`, `model` and `hour` only those
/// have a value that tell the sums apart.
#[derive(Serialize, ToSchema)]
pub(crate) struct UsageSum {
    /// Its name.
    client: Option<String>,
    /// By user: `null` for the jobs that name none.
    user: Option<String>,
    model: Option<String>,
    /// When it began.
    #[schema(format = DateTime)]
    hour: Option<String>,
    jobs: EndedJobs,
    /// The GPU's time, of all attempts and of the loads that they caused.
    #[schema(minimum = 0)]
    gpu_seconds: f64,
    /// Loads of models that its jobs have caused.
    #[schema(minimum = 0)]
    loads: i64,
    #[schema(minimum = 0)]
    prompt_tokens: i64,
    #[schema(minimum = 0)]
    completion_tokens: i64,
}

/// Jobs that ended, by their last state.
#[derive(Serialize, ToSchema)]
pub(crate) struct EndedJobs {
    #[schema(minimum = 0)]
    done: i64,
    #[schema(minimum = 0)]
    failed: i64,
    #[schema(minimum = 0)]
    cancelled: i64,
    #[schema(minimum = 0)]
    expired: i64,
}

/// Shows what the caller has used, or, to an administrator, what every client has used.
///
/// The sums of an hour outlive the jobs. What an attempt has used counts in the hour in which it ended.
#[utoipa::path(
    get,
    path = "/usage",
    tag = "jobs",
    params(
        ("from" = Option<String>, Query, description = "Only hours that begin at this time or later; a day before `to` if missing."),
        ("to" = Option<String>, Query, description = "Only hours that begin before this time; now if missing."),
        ("by" = Option<SummedUpBy>, Query, description = "What to sum up by; `client` if missing. Those with the most GPU time come first; hours come newest first."),
        ("limit" = Option<u16>, Query, minimum = 1, maximum = 10_000, description = "At most so many sums; 100 if missing."),
    ),
    responses(
        (status = 200, description = "The sums.", body = UsageReport),
        (status = 429, description = "`too_many_reads`, `too_much_unread`"),
        (status = 503, description = "`busy`"),
    ),
)]
pub(crate) async fn show(
    caller: Caller,
    State(app): State<Shared>,
    parameters: Parameters,
) -> Result<Response, Refusal> {
    let to = parameters.moment("to")?.unwrap_or_else(|| app.store.clock().now());
    let from = parameters.moment("from")?.unwrap_or(to - DEFAULT_SPAN);
    if from >= to {
        let error = "`from` must be before `to`, which is now if it is missing";
        return Err(Refusal::bad_request("invalid_parameter", error));
    }
    let names = UsageBy::ALL.map(UsageBy::as_str).join(", ");
    let by = parameters.read("by", format_args!("one of {names}"))?.unwrap_or(UsageBy::Client);
    let limit = parameters.page_size_within(DEFAULT_SUMS, MOST_SUMS)?;
    let filter = UsageFilter { by, from, to };
    let _permit = app.reads.page_permit(caller.client).await?;
    let mut sums = app.store.usage(caller.scope(), &filter, limit + 1).await?;
    let has_more = cut_to_page(&mut sums, limit);
    let usage = UsageReport {
        from: rfc3339(from),
        to: rfc3339(to),
        by: by.as_str(),
        data: sums.into_iter().map(|sum| shown(&app, sum)).collect(),
        has_more,
    };
    outgoing::json(&app, caller.client, StatusCode::OK, show::json(&usage))
}

fn shown(app: &App, sum: store::UsageSum) -> UsageSum {
    UsageSum {
        client: sum.client,
        user: sum.user.and_then(|user| user.named().map(str::to_owned)),
        model: sum.model.map(|model| app.inventory.label(&model)),
        hour: sum.hour.map(rfc3339),
        jobs: EndedJobs {
            done: sum.done,
            failed: sum.failed,
            cancelled: sum.cancelled,
            expired: sum.expired,
        },
        gpu_seconds: sum.gpu_seconds,
        loads: sum.loads,
        prompt_tokens: sum.prompt_tokens,
        completion_tokens: sum.completion_tokens,
    }
}
