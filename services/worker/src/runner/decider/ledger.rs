//! The jobs that are ours. Each is either held (claimed, and waiting for a slot), running in a slot, or unsettled
//! (ended, and not yet stored in Postgres). Pure.

use std::collections::{HashMap, HashSet, VecDeque};

use foreman_store::{ClientId, LeaseNo};

use crate::runner::fate::Abort;
use crate::runner::job::{Job, Running};
use crate::scheduling::key::{Key, RunsOn};

/// Stop claiming while there are this many unsettled outcomes per slot.
const MAX_UNSETTLED_PER_SLOT: usize = 4;
/// Stop claiming while the unsettled outcomes have this many bytes. They stay in memory until Postgres has them, and
/// the outcomes of the jobs that run meanwhile come on top.
const MAX_UNSETTLED_BYTES: usize = 64 << 20;

#[derive(Debug)]
pub(super) struct Ledger {
    slots: usize,
    held: VecDeque<Job>,
    running: HashMap<LeaseNo, Running>,
    /// The size of each outcome in bytes.
    unsettled: HashMap<LeaseNo, usize>,
}

impl Ledger {
    pub(super) fn new(slots: usize) -> Self {
        Self { slots, held: VecDeque::new(), running: HashMap::new(), unsettled: HashMap::new() }
    }

    /// A claimed job waits for a slot.
    pub(super) fn hold(&mut self, job: Job) {
        self.held.push_back(job);
    }

    /// Takes the next held job if a slot is free.
    pub(super) fn take_next(&mut self) -> Option<Job> {
        if self.running.len() < self.slots { self.held.pop_front() } else { None }
    }

    /// Removes the held jobs for which `keeps` is false, and returns them.
    pub(super) fn release_except(&mut self, keeps: impl Fn(&Job) -> bool) -> VecDeque<Job> {
        let (kept, gone): (VecDeque<Job>, VecDeque<Job>) =
            std::mem::take(&mut self.held).into_iter().partition(keeps);
        self.held = kept;
        gone
    }

    pub(super) fn begun(&mut self, running: Running) {
        self.running.insert(running.lease.no, running);
    }

    pub(super) fn ended(&mut self, lease: LeaseNo) -> Option<Running> {
        self.running.remove(&lease)
    }

    /// The job under this lease has ended. Its outcome, of so many bytes, is on its way to Postgres.
    pub(super) fn left(&mut self, lease: LeaseNo, bytes: usize) {
        self.unsettled.insert(lease, bytes);
    }

    /// Postgres has stored the outcome of this lease, or has refused it for good.
    pub(super) fn settled(&mut self, lease: LeaseNo) {
        self.unsettled.remove(&lease);
    }

    /// Stops the attempts that run under these leases. Removes the jobs that are held under them, and returns those.
    pub(super) fn cancel(&mut self, leases: &[LeaseNo]) -> VecDeque<Job> {
        for running in leases.iter().filter_map(|lease| self.running.get(lease)) {
            running.abort(Abort::Cancelled);
        }
        self.release_except(|job| !leases.contains(&job.lease.no))
    }

    /// Stops every attempt, because the grace is nearly over.
    pub(super) fn stop_all(&self) {
        self.running.values().for_each(|running| running.abort(Abort::Stopping));
    }

    pub(super) fn holds_nothing(&self) -> bool {
        self.held.is_empty()
    }

    pub(super) fn runs_nothing(&self) -> bool {
        self.running.is_empty()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty() && self.running.is_empty() && self.unsettled.is_empty()
    }

    /// How many slots have neither a running nor a held job.
    pub(super) fn slots_to_fill(&self) -> usize {
        self.slots.saturating_sub(self.running.len() + self.held.len())
    }

    /// Whether so many outcomes are unsettled that claiming must wait.
    pub(super) fn waits_for_postgres(&self) -> bool {
        self.unsettled.len() >= MAX_UNSETTLED_PER_SLOT * self.slots
            || self.unsettled.values().sum::<usize>() >= MAX_UNSETTLED_BYTES
    }

    pub(super) fn gpu_is_busy(&self) -> bool {
        self.running.values().any(|running| running.runs_on == RunsOn::Gpu)
    }

    /// Whether a running or held job needs this key.
    pub(super) fn needs(&self, key: &Key) -> bool {
        self.running.values().any(|running| running.key == *key)
            || self.held.iter().any(|job| job.key == *key)
    }

    /// Client and key of each held job that runs on the GPU.
    pub(super) fn held_for_gpu(&self) -> impl Iterator<Item = (ClientId, Key)> {
        let on_gpu = self.held.iter().filter(|job| job.runs_on == RunsOn::Gpu);
        on_gpu.map(|job| (job.client, Key::clone(&job.key)))
    }

    /// Every lease of ours: running, held and unsettled.
    pub(super) fn leases(&self) -> HashSet<LeaseNo> {
        let running = self.running.keys().copied();
        let held = self.held.iter().map(|job| job.lease.no);
        running.chain(held).chain(self.unsettled.keys().copied()).collect()
    }
}
