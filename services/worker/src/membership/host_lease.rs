//! The host lease: of all workers for one Ollama, the holder alone claims jobs. The others stand by, and take over when
//! it is released or its holder is dead.

use std::sync::Arc;
use std::time::Duration;

use foreman_runtime::background_error;
use foreman_store::wake::Topic;
use foreman_store::{Holder, HostOffer};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::membership::liveness::Spell;
use crate::worker::Worker;

/// While the last holder finishes what it began, we look again at least so often.
const HANDOVER_POLL: Duration = Duration::from_millis(100);

/// Takes the host whenever it is free, and tells `command` who may claim. On the soft token it is released at once: what
/// still runs here is seen by the next holder, who waits for it.
pub(crate) async fn run(worker: Arc<Worker>, command: watch::Sender<Option<Holder>>) -> anyhow::Result<()> {
    let soft = worker.shutdown.soft();
    while let Some(holder) = soft.run_until_cancelled(stand_by(&worker)).await {
        worker.liveness.hold(Some(holder.clone()));
        tracing::info!(host = holder.host, fence = holder.fence, "holding the host");
        tokio::select! {
            () = soft.cancelled() => {}
            () = lost(&worker, &holder) => {}
            () = take_command(&worker, &holder, &command) => {}
        }
        command.send_replace(None);
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
            // Taken, but too late to be used under this spell: the next attempt takes it again.
            Ok(_) => {}
            Err(error) => background_error!("host_lease", error),
        }
        // A renewal is seen so much later at most, and so much later a TTL of silence: together an eighth, which leaves
        // room to be there within a quarter of a TTL after the holder might have renewed.
        _ = timeout(ttl / 16, freed.changed()).await;
    }
}

/// The present spell, once there is one that goes on.
async fn going_on(spells: &mut watch::Receiver<Option<Spell>>) -> Spell {
    loop {
        if let Some(spell) = spells.borrow_and_update().clone().filter(Spell::goes_on) {
            return spell;
        }
        if spells.changed().await.is_err() {
            // Whoever keeps the process alive is gone, and with it any right to claim.
            std::future::pending::<()>().await;
        }
    }
}

/// Returns once a renewal has found that the lease is another's, or the worker another.
async fn lost(worker: &Worker, holder: &Holder) {
    // An error means that nobody keeps it any more.
    _ = worker.liveness.holder().wait_for(|held| held.as_ref() != Some(holder)).await;
}

/// Gives the command once nothing of a former holder runs any more: only then are all the slots ours, and only then may
/// a model be loaded, since Ollama must not be asked for a second one while requests run. Then waits for ever.
async fn take_command(worker: &Worker, holder: &Holder, command: &watch::Sender<Option<Holder>>) {
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
    command.send_replace(Some(holder.clone()));
    std::future::pending().await
}

async fn release(worker: &Worker, holder: &Holder) {
    match worker.store.release_host(holder).await {
        Ok(released) => {
            tracing::info!(host = holder.host, released, "released the host");
        }
        Err(error) => background_error!("host_lease", error, "the host stays ours until this worker is gone"),
    }
}
