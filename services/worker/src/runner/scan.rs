//! Scans for ready jobs and tells the floor in which groups there are any. It scans each second, and sooner after a
//! wake-up.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use foreman_ollama::LoadKey;
use foreman_runtime::{background_error, stalls};
use foreman_store::wake::Topic;
use foreman_store::{Holder, ReadyGroup, ulid_floor};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep, timeout};

use super::signal::Signal;
use crate::scheduling::backlog::{Group, LATE_COMMITS};
use crate::scheduling::group_memory::GroupMemory;
use crate::worker::Worker;

/// The poll finds what no wake-up told.
const POLL: Duration = Duration::from_secs(1);

/// After each scan, rest for this many times as long as it took. So scans use at most a quarter of one connection's
/// time, however many groups and wake-ups there are.
const REST: u32 = 3;

/// Scans while this worker holds its host. The floor says `look_now` when none of the jobs that were found is left.
pub(crate) async fn run(
    worker: Arc<Worker>,
    mut holder: watch::Receiver<Option<Holder>>,
    signals: mpsc::UnboundedSender<Signal>,
    look_now: Arc<Notify>,
) {
    let store = worker.store.on_own_connection();
    let mut woken = store.wakeups().subscribe(Topic::Ready);
    // A newer api may write load keys that this version cannot read. Log each of them once, and leave its jobs to a
    // newer worker.
    let mut unreadable = BTreeSet::new();
    let mut memory = GroupMemory::new(Instant::now().into_std());
    while holder.wait_for(Option::is_some).await.is_ok() {
        let began = Instant::now();
        let lowest_uncommitted = ulid_floor(store.clock().now() - LATE_COMMITS);
        let known = memory.known(began.into_std());
        let look = async {
            match &known {
                None => store.ready_groups().await,
                Some(known) => store.ready_groups_at(known).await,
            }
        };
        match stalls::round("scan", stalls::USUAL, look).await {
            Ok(groups) => {
                memory.learn(&groups, lowest_uncommitted, began.into_std(), Instant::now().into_std());
                let groups = groups.into_iter().filter_map(|group| read(group, &mut unreadable)).collect();
                if signals.send(Signal::Scanned(groups)).is_err() {
                    return;
                }
                sleep(began.elapsed() * REST).await;
            }
            Err(error) => {
                background_error!("scan", error);
                sleep(POLL).await;
            }
        }
        let look_at_all_in = memory.look_at_all_in(Instant::now().into_std());
        if memory.has_too_many() && !look_at_all_in.is_zero() {
            _ = timeout(look_at_all_in, look_now.notified()).await;
            memory.look_at_all_next(Instant::now().into_std());
            continue;
        }
        // A look with the memory may miss jobs. Look at everything as soon as that is due, without waiting for the poll.
        let poll = match known {
            None => POLL,
            Some(_) => POLL.min(look_at_all_in),
        };
        _ = timeout(poll, woken.changed()).await;
    }
}

fn read(group: ReadyGroup, unreadable: &mut BTreeSet<String>) -> Option<Group> {
    let ReadyGroup { load_key, client, user, priority, sync, lowest } = group;
    match load_key.parse::<LoadKey>() {
        Ok(key) => Some(Group { key: Arc::new(key), client, user, priority, sync, lowest }),
        Err(error) => {
            if unreadable.insert(load_key) {
                background_error!("scan", error, "jobs wait for a newer worker");
            }
            None
        }
    }
}
