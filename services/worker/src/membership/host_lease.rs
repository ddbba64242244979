//! The host lease. Of all workers for one Ollama, only the holder of its lease claims jobs. The others stand by, and
//! one of them takes the lease when it is released or its holder is dead.

use std::sync::Arc;
use std::time::Duration;

use foreman_runtime::background_error;
use foreman_store::wake::Topic;
use foreman_store::{Holder, HostOffer};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::membership::liveness::Spell;
use crate::worker::Worker;

/// The longest wait between two looks at the jobs of the last holder, while some of them still run.
const HANDOVER_POLL: Duration = Duration::from_millis(100);

/// Takes the host whenever it is free, waits for `prepare`, and tells `give_holder` when this worker may claim. The soft
/// token releases the host at once, although jobs may still run here: the next holder sees them and waits for them.
pub(crate) async fn run(
    worker: Arc<Worker>,
    give_holder: watch::Sender<Option<Holder>>,
    prepare: impl AsyncFn(&Holder),
) -> anyhow::Result<()> {
    let soft = worker.shutdown.soft();
    while let Some(holder) = soft.run_until_cancelled(stand_by(&worker)).await {
        worker.liveness.hold(Some(holder.clone()));
        tracing::info!(host = holder.host, fence = holder.fence, "holding the host");
        prepare(&holder).await;
        tokio::select! {
            () = soft.cancelled() => {}
            () = lost(&worker, &holder) => {}
            () = give_once_alone(&worker, &holder, &give_holder) => {}
        }
        give_holder.send_replace(None);
        worker.liveness.hold(None);
        if soft.is_cancelled() {
            release(&worker, &holder).await;
        } else {
            tracing::warn!(host = holder.host, "the host lease is lost; standing by");
        }
    }
    Ok(())
}

/// Waits until the host is ours.
async fn stand_by(worker: &Worker) -> Holder {
    let host = &worker.config.host;
    let url = host.ollama.to_string();
    let ttl = worker.config.lease_ttl;
    let offer = HostOffer { id: host.id.as_str(), url: &url, slots: host.slots, ttl };
    let mut freed = worker.store.wakeups().subscribe(Topic::Host);
    let mut spells = worker.liveness.spells();
    loop {
        let spell = going_on(&mut spells).await;
        let take = async {
            let dead = worker.peers.dead(&worker.store).await?;
            worker.store.take_host(spell.worker, &offer, &dead).await
        };
        match take.await {
            Ok(Some(holder)) if spell.goes_on() => return holder,
            // Either the host is not free, or this spell has ended. In that case the next try takes the host under a
            // new spell.
            Ok(_) => {}
            Err(error) => background_error!("host_lease", error),
        }
        // A dead holder is found up to two of these waits late: its last renewal may be seen one wait late, and the
        // end of its TTL another. Two waits are an eighth of a TTL, so a new holder is there within a quarter of a
        // TTL after the old one's TTL.
        _ = timeout(ttl / 16, freed.changed()).await;
    }
}

/// Waits until there is a spell that goes on, and returns it.
async fn going_on(spells: &mut watch::Receiver<Option<Spell>>) -> Spell {
    loop {
        if let Some(spell) = spells.borrow_and_update().clone().filter(Spell::goes_on) {
            return spell;
        }
        if spells.changed().await.is_err() {
            // The liveness of this process is gone, so there will be no spell any more.
            std::future::pending::<()>().await;
        }
    }
}

/// Returns once a renewal has found that another worker has the lease, or that this worker must go on under a new id.
async fn lost(worker: &Worker, holder: &Holder) {
    // An error means that the liveness is gone, and nobody renews the lease any more.
    _ = worker.liveness.holder().wait_for(|held| held.as_ref() != Some(holder)).await;
}

/// Waits until no job of a former holder runs any more, then gives the holder to the runner, and then waits for ever.
/// Until then some slots are not ours, and no model may be loaded: Ollama must not load a second model while requests
/// run.
async fn give_once_alone(worker: &Worker, holder: &Holder, give_holder: &watch::Sender<Option<Holder>>) {
    let mut moved = worker.store.wakeups().subscribe(Topic::Job);
    loop {
        let count = async {
            let dead = worker.peers.dead(&worker.store).await?;
            worker.store.foreign_leases(holder, &dead).await
        };
        match count.await {
            Ok(0) => break,
            Ok(_running) => _ = timeout(HANDOVER_POLL, moved.changed()).await,
            Err(error) => {
                background_error!("host_lease", error);
                sleep(HANDOVER_POLL).await;
            }
        }
    }
    give_holder.send_replace(Some(holder.clone()));
    std::future::pending().await
}

async fn release(worker: &Worker, holder: &Holder) {
    match worker.store.release_host(holder).await {
        Ok(released) => {
            tracing::info!(host = holder.host, released, "released the host");
        }
        Err(error) => background_error!(
            "host_lease",
            error,
            "the host lease could not be released; it ends with this worker"
        ),
    }
}
