//! The work itself: every job stands in one table, all waiting work has a worker for it, and webhooks go out.

use std::collections::BTreeSet;
use std::time::Duration;

use foreman_ollama::ModelName;
use foreman_store::{DeliveryBacklog, Inventory, Misplaced, ModelBacklog, OrphanedLeases, Store, StoreError};

use super::finding::{Finding, count, plural};
use super::fleet::Fleet;
use crate::moment::in_words;

/// How many misplaced jobs are shown.
const SHOWN: usize = 5;

/// The alerts fire at the same ages.
const OUTBOX_LAG: Duration = Duration::from_secs(60);
const OVERDUE: Duration = Duration::from_secs(300);

/// A live janitor has rescued a lease by then: it waits for one TTL and looks often.
const RESCUED_WITHIN: Duration = Duration::from_secs(120);

pub(super) async fn rooms(store: &Store) -> Result<Finding, StoreError> {
    let misplaced = store.misplaced_jobs(SHOWN as i64).await?;
    if misplaced.is_empty() {
        return Ok(Finding::ok("Every job stands in exactly one room."));
    }
    let shown = |Misplaced { job_id, rooms }: &Misplaced| match rooms.as_slice() {
        [] => format!("{job_id} in none"),
        rooms => format!("{job_id} in {}", rooms.join(" and ")),
    };
    let shown: Vec<_> = misplaced.iter().map(shown).collect();
    let more = if misplaced.len() >= SHOWN { ", and perhaps more" } else { "" };
    Ok(Finding::trouble(
        format!("Jobs stand in no room or in several: {}{more}.", shown.join("; ")),
        "rows were changed by hand or lost: restore a backup, or submit those jobs again; if neither happened, report it with \
         the log of api and worker",
    ))
}

/// Jobs whose worker is gone.
pub(super) fn leases(OrphanedLeases { jobs, oldest }: OrphanedLeases, fleet: &Fleet) -> Finding {
    if jobs == 0 {
        return Finding::ok("No job is in the hands of a worker that is gone.");
    }
    let what = format!(
        "{} in the hands of workers that are gone, for {}.",
        plural(jobs, "job is", "jobs are"),
        in_words(oldest)
    );
    match fleet.somebody_does("janitor") {
        true if oldest < RESCUED_WITHIN => {
            Finding::note(what, "nothing: a janitor takes them back in a moment")
        }
        true => Finding::trouble(
            what,
            "the log of the workers with the role janitor says why they are not taken back",
        ),
        false => {
            Finding::trouble(what, "start a foreman-worker with the role janitor, which takes them back")
        }
    }
}

/// Jobs that no host can run.
pub(super) fn models(waiting: &[ModelBacklog], inventory: &Inventory) -> Vec<Finding> {
    let has = |model: &str| {
        ModelName::parse(model)
            .is_ok_and(|name| inventory.models.get(name.as_str()).is_some_and(|known| known.completes))
    };
    let mut found: Vec<_> = waiting
        .iter()
        .filter(|backlog| !has(&backlog.model))
        .map(|ModelBacklog { model, queued, .. }| {
            Finding::trouble(
                format!("{} for {model}, which no host has.", plural(*queued, "job waits", "jobs wait")),
                format!("ollama pull {model}  (on the Ollama host; or cancel them)"),
            )
        })
        .collect();
    let known: BTreeSet<_> = inventory.models.values().map(|known| known.label.as_str()).collect();
    found.push(match (inventory.is_published, known.is_empty()) {
        (false, _) => Finding::note(
            "No host has published its models yet: jobs are answered 503 (no_inventory).",
            "start a foreman-worker with the role run; it publishes them when its Ollama answers",
        ),
        (true, true) => Finding::trouble(
            "No host has any model.",
            "ollama pull llama3.2  (on the Ollama host, or another model)",
        ),
        (true, false) => Finding::ok(format!(
            "The hosts have {}: {}.",
            count(known.len(), "model"),
            known.into_iter().collect::<Vec<_>>().join(", ")
        )),
    });
    found
}

/// How far the relay is behind.
pub(super) fn outbox(oldest: Duration, fleet: &Fleet) -> Finding {
    if oldest < OUTBOX_LAG {
        return Finding::ok(format!("Changes of state are told within {}.", in_words(oldest)));
    }
    let what =
        format!("A change of state has waited for {} to be told; webhooks wait with it.", in_words(oldest));
    Finding::trouble(
        what,
        if fleet.somebody_does("relay") {
            "the log of the workers with the role relay says why"
        } else {
            "start a foreman-worker with the role relay"
        },
    )
}

/// Webhooks that could be sent and are not.
pub(super) fn deliveries(DeliveryBacklog { due, oldest_due, .. }: DeliveryBacklog, fleet: &Fleet) -> Finding {
    if oldest_due < OVERDUE {
        return Finding::ok(format!("No webhook is overdue; {} could be sent now.", count(due, "webhook")));
    }
    let what = format!("{} could be sent, the first since {}.", count(due, "webhook"), in_words(oldest_due));
    if fleet.somebody_does("dispatch") {
        // A webhook that waited behind an earlier one of its job is long overdue in the moment it may go.
        Finding::note(what, "look again in five minutes; if they are still there, the workers' log says why")
    } else {
        Finding::trouble(what, "start a foreman-worker with the role dispatch")
    }
}
