//! `GET /queue`.

mod parts;
mod turns;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use chrono::{DateTime, Utc};
use foreman_store::{ClientId, QueueShare, Scope};
use foreman_webhook::rfc3339;
use serde::Serialize;
use utoipa::ToSchema;

use super::show;
use crate::access::auth::Caller;
use crate::app::Shared;
use crate::http::outgoing;
use crate::queue::{Hosts, QueueReading};
use crate::refusal::Refusal;
use parts::ClientPart;
use turns::QueueHost;

/// How a client is told of another one.
const ANOTHER: &str = "another client";

/// The jobs that wait and the jobs that run, by model, and whose turn it is. A model without jobs is left out.
#[derive(Serialize, ToSchema)]
pub(crate) struct Queue {
    /// When the queue was read. A reading may be up to twenty times as old as it took, so it is older when the queue is long.
    #[schema(format = DateTime)]
    as_of: String,
    models: Vec<QueuedModel>,
    /// The hosts that a worker holds, as they were a moment ago.
    hosts: Vec<QueueHost>,
    /// The clients that have jobs, or had some of the GPU lately: all of them for an administrator, and otherwise the
    /// caller alone.
    clients: Vec<ClientPart>,
}

/// The queue of one model.
#[derive(Serialize, ToSchema)]
pub(crate) struct QueuedModel {
    /// As `/api/tags` names it.
    model: String,
    /// Jobs of all clients that wait to run, or wait for their `run_at`.
    #[schema(minimum = 0)]
    queued: i64,
    /// Jobs of all clients that load or work.
    #[schema(minimum = 0)]
    running: i64,
    /// The earliest time at which one of the queued jobs may run, or might have run already.
    #[schema(format = DateTime)]
    oldest: Option<String>,
    /// The hosts that have the model loaded.
    resident_on: Vec<String>,
    /// The longest time in milliseconds that a client with jobs waits until one of them begins, by what the hosts that have
    /// the model and take jobs have measured so far. It counts for a client of weight 1 within its ceilings and its budget.
    /// `null` while no such host has told it.
    #[schema(minimum = 0)]
    longest_wait_ms: Option<u64>,
    own: Share,
    others: Share,
    /// All clients by name; `null` if the caller is not an administrator.
    clients: Option<Vec<ClientShare>>,
}

/// Jobs of the queue.
#[derive(Debug, Default, Clone, Copy, Serialize, ToSchema)]
pub(crate) struct Share {
    #[schema(minimum = 0)]
    queued: i64,
    #[schema(minimum = 0)]
    running: i64,
}

/// One client's jobs of the queue.
#[derive(Serialize, ToSchema)]
pub(crate) struct ClientShare {
    name: String,
    #[schema(minimum = 0)]
    queued: i64,
    #[schema(minimum = 0)]
    running: i64,
}

/// For whom the queue is shown.
struct Viewer<'a> {
    app: &'a Shared,
    caller: Caller,
    reading: &'a QueueReading,
}

/// Shows the jobs that wait and the jobs that run, by model: the caller's own, and those of all other clients together.
/// Shows of each host who has the GPU, why, and who comes next.
#[utoipa::path(
    get,
    path = "/queue",
    tag = "jobs",
    responses((status = 200, description = "The queue.", body = Queue)),
)]
pub(crate) async fn show(caller: Caller, State(app): State<Shared>) -> Result<Response, Refusal> {
    let reading = app.queue.read().await?;
    let models = reading.jobs.shares.chunk_by(|one, other| one.model == other.model);
    let viewer = Viewer { app: &app, caller, reading: &reading };
    let queue = Queue {
        as_of: rfc3339(reading.jobs.as_of),
        models: models.map(|shares| model(&app, caller, shares, &reading.hosts)).collect(),
        hosts: viewer.hosts(),
        clients: viewer.clients(),
    };
    Ok(outgoing::small_json(StatusCode::OK, show::json(&queue)))
}

impl Viewer<'_> {
    fn may_see(&self, client: ClientId) -> bool {
        self.caller.scope() == Scope::Everyone || client == self.caller.client
    }

    fn name(&self, client: ClientId) -> String {
        let found = self.reading.hosts.clients.iter().find(|known| known.client == client);
        found.filter(|_| self.may_see(client)).map_or_else(|| ANOTHER.to_owned(), |known| known.name.clone())
    }

    /// The model of a load key, as `/api/tags` names it.
    fn model(&self, load_key: &str) -> String {
        self.app.inventory.label(load_key.split(' ').next().unwrap_or_default())
    }

    fn hosts(&self) -> Vec<QueueHost> {
        let Hosts { plans, away, .. } = &*self.reading.hosts;
        // A host may be in both lists if its Ollama went away between the two readings.
        let answering = plans.iter().filter(|(host, _)| away.iter().all(|row| row.id != *host));
        let mut hosts: Vec<_> = answering.map(|(host, plan)| turns::host(self, host, plan)).collect();
        hosts.extend(away.iter().map(turns::away));
        hosts.sort_by(|one, other| one.host.cmp(&other.host));
        hosts
    }

    fn clients(&self) -> Vec<ClientPart> {
        let shown = self.reading.hosts.clients.iter().filter(|known| self.may_see(known.client));
        shown.map(|known| parts::part(known, self.reading)).collect()
    }
}

/// Adds up the shares of one model. `shares` has at least one of them.
fn model(app: &Shared, caller: Caller, shares: &[QueueShare], hosts: &Hosts) -> QueuedModel {
    let (own, others): (Vec<_>, Vec<_>) = shares.iter().partition(|share| share.client == caller.client);
    let (own, others) = (sum(&own), sum(&others));
    let oldest: Option<DateTime<Utc>> = shares.iter().filter_map(|share| share.oldest).min();
    let clients = (caller.scope() == Scope::Everyone).then(|| {
        let client = |share: &QueueShare| ClientShare {
            name: share.name.clone(),
            queued: share.queued,
            running: share.running,
        };
        shares.iter().map(client).collect()
    });
    let name = shares.first().map(|share| share.model.as_str()).unwrap_or_default();
    QueuedModel {
        model: app.inventory.label(name),
        queued: own.queued + others.queued,
        running: own.running + others.running,
        oldest: oldest.map(rfc3339),
        resident_on: hosts
            .plans
            .iter()
            .filter(|(_, plan)| plan.loaded().any(|model| model == name))
            .map(|(host, _)| host.clone())
            .collect(),
        longest_wait_ms: hosts.longest_waits.get(name).copied(),
        own,
        others,
        clients,
    }
}

fn sum(shares: &[&QueueShare]) -> Share {
    shares.iter().fold(Share::default(), |sum, share| Share {
        queued: sum.queued + share.queued,
        running: sum.running + share.running,
    })
}
