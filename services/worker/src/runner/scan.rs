//! Scans for ready jobs and tells the floor in which groups there are any. It scans each second, and sooner after a
//! wake-up.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use foreman_ollama::LoadKey;
use foreman_runtime::{background_error, stalls};
use foreman_store::wake::Topic;
use foreman_store::{Holder, ReadyGroup, Store, StoreError, ulid_floor};
use tokio::select;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::signal::Signal;
use crate::scheduling::backlog::{Group, LATE_COMMITS};
use crate::scheduling::excerpts::Excerpts;
use crate::scheduling::group_memory::GroupMemory;
use crate::worker::Worker;

/// The poll finds what no wake-up told.
const POLL: Duration = Duration::from_secs(1);

/// After each scan, rest for this many times as long as it took. So scans use at most a quarter of one connection's
/// time, however many groups and wake-ups there are.
const REST: u32 = 3;

/// Rest at least this long for each group that is known: the floor needs about a microsecond to learn of one.
const REST_PER_GROUP: Duration = Duration::from_micros(10);

/// While one look does not find all groups, the next one comes after so many times as long as it took, even if nothing
/// wakes the scan.
const NEXT_PART_AFTER: u32 = 20;

/// Scans while this worker holds its host. The floor says `look_now` when none of the jobs that were found is left.
pub(crate) async fn run(
    worker: Arc<Worker>,
    mut holder: watch::Receiver<Option<Holder>>,
    signals: mpsc::UnboundedSender<Signal>,
    look_now: Arc<Notify>,
) {
    let store = worker.store.on_own_connection();
    let mut woken = store.wakeups().subscribe(Topic::Ready);
    let mut scan = Scan::new();
    while holder.wait_for(Option::is_some).await.is_ok() {
        let began = Instant::now();
        let next_look = match stalls::round("scan", stalls::USUAL, scan.look(&store)).await {
            Ok(next_look) => {
                let ended = Instant::now();
                let groups: Vec<Group> = scan.excerpts.groups().cloned().collect();
                let rest_of_floor = REST_PER_GROUP * u32::try_from(groups.len()).unwrap_or(u32::MAX);
                if signals.send(Signal::Scanned(groups)).is_err() {
                    return;
                }
                sleep(((ended - began) * REST).max(rest_of_floor)).await;
                ended + next_look.min(POLL)
            }
            Err(error) => {
                background_error!("scan", error);
                sleep(POLL).await;
                Instant::now() + POLL
            }
        };
        let look_at_all_in = scan.memory.look_at_all_in(Instant::now().into_std());
        if scan.memory.has_too_many() && !look_at_all_in.is_zero() {
            _ = timeout(look_at_all_in, look_now.notified()).await;
            scan.memory.look_at_all_next(Instant::now().into_std());
            continue;
        }
        let wake = async {
            select! {
                _ = woken.changed() => {}
                () = look_now.notified(), if scan.excerpts.are_partial() => {}
            }
        };
        _ = timeout_at(next_look, wake).await;
    }
}

/// What the scan knows.
struct Scan {
    excerpts: Excerpts,
    memory: GroupMemory,
    /// A newer api may write load keys that this version cannot read. Log each of them once, and leave its jobs to a newer
    /// worker.
    unreadable: BTreeSet<String>,
}

impl Scan {
    fn new() -> Self {
        Self {
            excerpts: Excerpts::new(),
            memory: GroupMemory::new(Instant::now().into_std()),
            unreadable: BTreeSet::new(),
        }
    }

    /// Makes one look. Returns after which time the next one is due, even if nothing wakes the scan.
    async fn look(&mut self, store: &Store) -> Result<Duration, StoreError> {
        let began = Instant::now().into_std();
        let lowest_uncommitted = ulid_floor(store.clock().now() - LATE_COMMITS);
        let read = |group| read(group, &mut self.unreadable);
        let Some(known) = self.memory.known(began) else {
            let went_on = self.excerpts.goes_on();
            let found = store.ready_groups(&went_on).await?;
            let ended = Instant::now().into_std();
            let is_partial = !went_on.is_empty() || !found.have_more.is_empty();
            self.memory.learn(&found.groups, is_partial, lowest_uncommitted, began, ended);
            self.excerpts.looked(&went_on, found, read, ended);
            let next = (ended - began) * NEXT_PART_AFTER;
            return Ok(if self.excerpts.are_partial() { next } else { POLL });
        };
        let found = store.ready_groups_at(&known).await?;
        let ended = Instant::now().into_std();
        self.memory.learn(&found, false, lowest_uncommitted, began, ended);
        self.excerpts.looked_at(&known, found, read, ended);
        // This look may have missed jobs. Look at everything as soon as that is due.
        Ok(self.memory.look_at_all_in(ended))
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
