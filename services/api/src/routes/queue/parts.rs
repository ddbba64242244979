//! The clients in `GET /queue`: their terms, and how the GPU's time was divided between them.

use foreman_store::QueueClient;
use serde::Serialize;
use utoipa::ToSchema;

use crate::queue::QueueReading;

/// A client's part of the GPU. The shares are of the last hour, or of the time since a worker took a host over, if that
/// is shorter. A job's time counts when the job has ended.
#[derive(Serialize, ToSchema)]
pub(crate) struct ClientPart {
    name: String,
    /// Its jobs of all models that wait to run, or wait for their `run_at`.
    #[schema(minimum = 0)]
    queued: i64,
    /// Its jobs that load or work.
    #[schema(minimum = 0)]
    running: i64,
    weight: f64,
    /// The part of the GPUs' time, between 0 and 1, that was due to it: whenever time was used, it was due to all who
    /// wanted some, by their weights. Ceilings and budgets do not change it. `null` if it wanted none.
    #[schema(minimum = 0, maximum = 1)]
    share_due: Option<f64>,
    /// The part of the GPUs' time that it got, loads for it included.
    #[schema(minimum = 0, maximum = 1)]
    share_got: Option<f64>,
    /// The GPU-seconds that it got.
    #[schema(minimum = 0)]
    gpu_seconds: f64,
    /// How many of its jobs may run at the same time on each host; `null` is no limit. Less than the number of slots may cost
    /// it a part of its share, because a job that waits for a slot counts already.
    #[schema(minimum = 1)]
    max_running: Option<i32>,
    /// Its budget of GPU-seconds a day. Past it, its jobs go last.
    #[schema(minimum = 0)]
    gpu_seconds_a_day: Option<f64>,
    /// What is left of the budget today, by UTC.
    #[schema(minimum = 0)]
    gpu_seconds_left: Option<f64>,
}

pub(super) fn part(client: &QueueClient, reading: &QueueReading) -> ClientPart {
    let jobs = || reading.jobs.shares.iter().filter(|share| share.client == client.client);
    let turns = || reading.hosts.plans.iter().map(|(_, plan)| &plan.turns);
    let all: f64 = turns().map(|turns| turns.gpu_seconds).sum();
    let own: Vec<_> =
        turns().flat_map(|turns| &turns.parts).filter(|part| part.client == client.client).collect();
    let (due, got) = own.iter().fold((0.0, 0.0), |(due, got), part| (due + part.due, got + part.got));
    let share = |seconds: f64| (!own.is_empty() && all > 0.0).then(|| (seconds / all).min(1.0));
    let left = |budget: f64| (budget - client.gpu_seconds_today.unwrap_or_default()).max(0.0);
    ClientPart {
        name: client.name.clone(),
        queued: jobs().map(|share| share.queued).sum(),
        running: jobs().map(|share| share.running).sum(),
        weight: client.weight,
        share_due: share(due),
        share_got: share(got),
        gpu_seconds: got,
        max_running: client.max_running,
        gpu_seconds_a_day: client.gpu_seconds_a_day,
        gpu_seconds_left: client.gpu_seconds_a_day.map(left),
    }
}
