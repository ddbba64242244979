//! Who works: the workers by their rows, and who holds which host.

use std::time::Duration;

use foreman_store::{HostRow, Store, StoreError, WorkerRow};
use foreman_webhook::rfc3339;

use super::finding::{Finding, count, plural};
use super::waiting::Waiting;
use crate::moment::in_words;

/// A worker publishes what its Ollama has twice a minute.
const PUBLISHED_WITHIN: Duration = Duration::from_secs(120);

/// Every worker and every host that has a row.
pub(super) struct Fleet {
    workers: Vec<WorkerRow>,
    hosts: Vec<HostRow>,
}

impl Fleet {
    pub(super) async fn of(store: &Store) -> Result<Self, StoreError> {
        Ok(Self { workers: store.workers().await?, hosts: store.hosts().await? })
    }

    pub(super) fn alive(&self) -> impl Iterator<Item = &WorkerRow> {
        self.workers.iter().filter(|worker| worker.is_alive)
    }

    pub(super) fn somebody_does(&self, role: &str) -> bool {
        self.alive().any(|worker| worker.roles.iter().any(|own| own == role))
    }

    /// Whether a live worker speaks for some Ollama.
    pub(super) fn has_live_host(&self) -> bool {
        self.hosts.iter().any(|host| host.holder.is_some())
    }
}

/// Whether each kind of work has somebody who does it.
pub(super) fn workers(fleet: &Fleet, waiting: &Waiting) -> Vec<Finding> {
    let alive = fleet.alive().count();
    let outbox = i64::from(!waiting.outbox.is_zero());
    let mut found = Vec::new();
    for (role, waits, what) in [
        ("run", waiting.jobs(), ["job waits", "jobs wait"]),
        ("relay", outbox, ["change of state waits", "changes of state wait"]),
        ("dispatch", waiting.deliveries.due, ["webhook waits", "webhooks wait"]),
        ("janitor", waiting.leases.jobs, ["job of a dead worker waits", "jobs of dead workers wait"]),
    ] {
        if fleet.somebody_does(role) {
            continue;
        }
        let mend = format!(
            "start a foreman-worker with {role} in FOREMAN_WORKER_ROLES (by default it has every role)"
        );
        match (waits, alive) {
            (0, 0) => {}
            (0, _) => found.push(Finding::note(format!("No live worker has the role {role}."), mend)),
            (_, _) => {
                let what = plural(waits, what[0], what[1]);
                found
                    .push(Finding::trouble(format!("{what}, and no live worker has the role {role}."), mend));
            }
        }
    }
    let silent = fleet.workers.iter().filter(|worker| !worker.is_alive).map(|worker| worker.silent).min();
    found.push(match (alive, silent) {
        (0, None) => Finding::note(
            "No worker runs: jobs are accepted and wait.",
            "foreman-worker  (one for each Ollama)",
        ),
        (0, Some(silent)) => Finding::note(
            format!("No worker runs; the last was heard of {} ago.", in_words(silent)),
            "foreman-worker  (one for each Ollama; the log of the last says why it ended)",
        ),
        (_, _) => {
            let shown = |worker: &WorkerRow| {
                format!("{} for {} ({})", worker.id, worker.host, worker.roles.join(","))
            };
            let shown: Vec<_> = fleet.alive().map(shown).collect();
            Finding::ok(format!("{}: {}.", plural(alive, "worker lives", "workers live"), shown.join("; ")))
        }
    });
    found
}

/// Who holds each host's lease, and what they say of its Ollama.
pub(super) fn hosts(fleet: &Fleet) -> Vec<Finding> {
    fleet.hosts.iter().map(|host| of_host(host, fleet)).collect()
}

fn of_host(host: &HostRow, fleet: &Fleet) -> Finding {
    let HostRow { id, url, holder, is_reachable, models, published, drained_at, .. } = host;
    let url = url.trim_end_matches('/');
    let stands_by =
        fleet.alive().find(|worker| worker.host == *id && worker.roles.iter().any(|role| role == "run"));
    if let Some(at) = drained_at {
        return Finding::note(
            format!("Host {id} ({url}): drained since {}; nothing new is claimed there.", rfc3339(*at)),
            format!("foreman host resume {id}  (when it is to take jobs again)"),
        );
    }
    match (holder, stands_by) {
        (Some(holder), _) if !is_reachable => Finding::trouble(
            format!("Host {id}: its worker {holder} does not reach Ollama at {url}."),
            "start Ollama there (systemctl start ollama), or mend OLLAMA_HOST of that worker",
        ),
        (Some(holder), _) => match published {
            Some(ago) if *ago < PUBLISHED_WITHIN => Finding::ok(format!(
                "Host {id} ({url}): held by worker {holder}, {} published {} ago.",
                count(models.len(), "model"),
                in_words(*ago)
            )),
            _ => Finding::note(
                format!(
                    "Host {id} ({url}): worker {holder} holds it, and has not said of late which models it has."
                ),
                "look again in a minute; if that lasts, the worker's log says why",
            ),
        },
        (None, Some(worker)) => Finding::note(
            format!("Host {id} ({url}): held by nobody; worker {} is about to take it.", worker.id),
            "look again in a moment; if that lasts, the worker's log says why",
        ),
        (None, None) => Finding::note(
            format!("Host {id} ({url}): no worker serves it."),
            "start its foreman-worker again, if that host is to run jobs",
        ),
    }
}
