//! The jobs that are ours. Each is either held (claimed, and waiting for a slot), running in a slot, or unsettled
//! (ended, and not yet stored in Postgres). Pure.

use std::collections::{HashMap, HashSet, VecDeque};

use foreman_ollama::ModelName;
use foreman_store::{ClientId, JobId, LeaseNo};
use tokio::time::Instant;

use crate::runner::fate::Abort;
use crate::runner::job::{Job, LoadPart, Running};
use crate::scheduling::gpu_clock::GpuClock;
use crate::scheduling::key::{Key, RunsOn};
use crate::scheduling::plan::forecast::UnderWay;

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
        if self.in_slots() < self.slots { self.held.pop_front() } else { None }
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

    /// Ollama is asked for the load of this runner from now on. The load counts for the first of the jobs that wait for it.
    pub(super) fn load_begins(&mut self, runner: &Key, now: Instant) {
        self.count_load(runner, LoadPart { since: now, is_cause: true });
    }

    /// The job for which the load of this runner counted waits no more. From now on its time counts for the next one.
    pub(super) fn load_goes_on(&mut self, runner: &Key, now: Instant) {
        self.count_load(runner, LoadPart { since: now, is_cause: false });
    }

    fn count_load(&mut self, runner: &Key, part: LoadPart) {
        let waiting = self.running.values_mut().filter(|job| job.waits_for_load() && job.runner == *runner);
        if let Some(first) = waiting.filter(|job| job.load.is_none()).min_by_key(|job| job.lease.no.0) {
            first.load = Some(part);
        }
    }

    /// The runner is loaded. The jobs that waited for it are on the GPU from now on.
    pub(super) fn loaded(&mut self, clock: &mut GpuClock, now: Instant) {
        let waiting = self.running.values_mut().filter(|running| running.waits_for_load());
        waiting.for_each(|running| running.on_gpu_since = Some(clock.begins(now)));
    }

    /// Ollama's answer to the job under this lease has ended. The job has no slot any more, although it still runs: its
    /// attempt has yet to finish.
    pub(super) fn answered(&mut self, lease: LeaseNo, clock: &mut GpuClock, now: Instant) {
        if let Some(running) = self.running.get_mut(&lease) {
            running.answered(clock, now);
        }
    }

    pub(super) fn ended(&mut self, lease: LeaseNo) -> Option<Running> {
        self.running.remove(&lease)
    }

    /// The job under this lease has ended. Its outcome, of so many bytes, is on its way to Postgres.
    pub(super) fn settling(&mut self, lease: LeaseNo, bytes: usize) {
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

    /// Whether all slots are free.
    pub(super) fn is_idle(&self) -> bool {
        self.in_slots() == 0
    }

    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty() && self.running.is_empty() && self.unsettled.is_empty()
    }

    fn in_slots(&self) -> usize {
        self.running.values().filter(|running| running.is_in_slot()).count()
    }

    /// How many slots have a running job, and how many slots there are.
    pub(super) fn occupancy(&self) -> (usize, usize) {
        (self.in_slots(), self.slots)
    }

    /// How many slots have neither a running nor a held job.
    pub(super) fn slots_to_fill(&self) -> usize {
        self.slots.saturating_sub(self.in_slots() + self.held.len())
    }

    /// Whether so many outcomes are unsettled, or soon will be, that claiming must wait.
    pub(super) fn waits_for_postgres(&self) -> bool {
        let answered = self.running.len() - self.in_slots();
        self.unsettled.len() + answered >= MAX_UNSETTLED_PER_SLOT * self.slots
            || self.unsettled.values().sum::<usize>() >= MAX_UNSETTLED_BYTES
    }

    pub(super) fn gpu_is_busy(&self) -> bool {
        self.running.values().any(|running| running.runs_on == RunsOn::Gpu)
    }

    /// Whether jobs of this key run, or wait for its load.
    pub(super) fn runs(&self, key: &Key) -> bool {
        self.running.values().any(|running| running.runner == *key)
    }

    /// Whether jobs wait for a load. It may go on although the host counted as away meanwhile.
    pub(super) fn waits_for_load(&self) -> bool {
        self.running.values().any(Running::waits_for_load)
    }

    /// Whether jobs of this model run, or wait for its load.
    pub(super) fn runs_model(&self, model: &ModelName) -> bool {
        self.running.values().any(|running| running.runner.model() == model)
    }

    /// Whether a running or held job needs this key.
    pub(super) fn needs(&self, key: &Key) -> bool {
        self.runs(key) || self.held.iter().any(|job| job.runner == *key)
    }

    /// The jobs that run, as the forecast wants them.
    pub(super) fn running(&self) -> Vec<UnderWay> {
        let of = |job: &Running| UnderWay {
            charge: job.charge.clone(),
            runner: Key::clone(&job.runner),
            runs_on: job.runs_on,
            since: job.on_gpu_since,
        };
        self.running.values().filter(|running| running.is_in_slot()).map(of).collect()
    }

    /// The jobs that are held, as the forecast wants them.
    pub(super) fn held(&self) -> Vec<(JobId, UnderWay)> {
        let of = |job: &Job| UnderWay {
            charge: job.charge.clone(),
            runner: Key::clone(&job.runner),
            runs_on: job.runs_on,
            since: None,
        };
        self.held.iter().map(|job| (job.lease.job_id, of(job))).collect()
    }

    /// Client and runner of each held job that runs on the GPU.
    pub(super) fn held_for_gpu(&self) -> impl Iterator<Item = (ClientId, Key)> {
        let on_gpu = self.held.iter().filter(|job| job.runs_on == RunsOn::Gpu);
        on_gpu.map(|job| (job.charge.client, Key::clone(&job.runner)))
    }

    /// Every lease of ours: running, held and unsettled.
    pub(super) fn leases(&self) -> HashSet<LeaseNo> {
        let running = self.running.keys().copied();
        let held = self.held.iter().map(|job| job.lease.no);
        running.chain(held).chain(self.unsettled.keys().copied()).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use chrono::{DateTime, Utc};
    use foreman_ollama::Route;
    use foreman_store::{JobId, Lease, WorkerId};
    use tokio::sync::watch;
    use tokio::time::Instant;

    use super::*;
    use crate::membership::liveness::Spell;
    use crate::runner::fate::Past;
    use crate::runner::job::{Body, Leave};
    use crate::scheduling::plan::Charge;

    const ONE: &str = "one:latest";
    const CLOUD: &str = "far:120b-cloud";

    fn key(text: &str) -> Key {
        Arc::new(text.parse().unwrap())
    }

    fn runs_on(key: &Key) -> RunsOn {
        if key.model().is_cloud() { RunsOn::Cloud } else { RunsOn::Gpu }
    }

    fn lease(number: i64) -> Lease {
        Lease { job_id: JobId::generate(), no: LeaseNo(number) }
    }

    /// A claimed job under this lease number. Spells need a runtime.
    fn job(number: i64, key: Key) -> Job {
        Job {
            lease: lease(number),
            attempt: 1,
            charge: Charge::nothing(ClientId::generate()),
            runs_on: runs_on(&key),
            runner: key,
            rewrite: None,
            route: Route::Chat,
            api: None,
            past: Past::default(),
            model_label: String::new(),
            body: Body::InPostgres(0),
            eligible_at: DateTime::<Utc>::UNIX_EPOCH,
            spell: Spell::begin(WorkerId::generate(), Instant::now()).0,
            leave: Leave::Ask,
        }
    }

    /// An attempt that runs under this lease number, and what it hears of a stop.
    fn running(number: i64, key: Key) -> (Running, watch::Receiver<Option<Abort>>) {
        let (abort, aborted) = watch::channel(None);
        let running = Running {
            lease: lease(number),
            charge: Charge::nothing(ClientId::generate()),
            runs_on: runs_on(&key),
            runner: key,
            on_gpu_since: None,
            gpu_seconds: None,
            past: Past::default(),
            model_label: String::new(),
            load: None,
            abort,
        };
        (running, aborted)
    }

    fn numbers(jobs: impl IntoIterator<Item = Job>) -> Vec<LeaseNo> {
        jobs.into_iter().map(|job| job.lease.no).collect()
    }

    #[tokio::test]
    async fn held_jobs_get_free_slots_in_the_order_of_their_claims() {
        let mut ledger = Ledger::new(2);
        (1..=3).for_each(|number| ledger.hold(job(number, key(ONE))));
        assert_eq!(ledger.slots_to_fill(), 0, "three jobs for two slots");
        for number in [1, 2] {
            assert_eq!(numbers(ledger.take_next()), [LeaseNo(number)]);
            ledger.begun(running(number, key(ONE)).0);
        }
        assert!(ledger.take_next().is_none(), "both slots are in use");
        assert!(ledger.ended(LeaseNo(1)).is_some());
        assert_eq!(ledger.slots_to_fill(), 0, "the free slot is for the held job");
        assert_eq!(numbers(ledger.take_next()), [LeaseNo(3)]);
        assert_eq!(ledger.slots_to_fill(), 1);
    }

    #[tokio::test]
    async fn an_answered_job_has_no_slot_and_keeps_claims_back_like_an_unsettled_one() {
        let (mut ledger, now) = (Ledger::new(1), Instant::now());
        let mut clock = GpuClock::new(now);
        for number in 1..=4 {
            assert!(!ledger.waits_for_postgres());
            ledger.hold(job(number, key(ONE)));
            assert_eq!(numbers(ledger.take_next()), [LeaseNo(number)]);
            ledger.begun(running(number, key(ONE)).0);
            assert!(!ledger.is_idle());
            ledger.answered(LeaseNo(number), &mut clock, now);
            assert!(ledger.is_idle() && ledger.runs(&key(ONE)), "its attempt has yet to finish");
        }
        assert!(ledger.waits_for_postgres(), "four of one slot");
        assert!(ledger.ended(LeaseNo(1)).is_some_and(|running| !running.is_in_slot()));
        assert!(!ledger.waits_for_postgres());
    }

    #[tokio::test]
    async fn jobs_that_wait_for_a_load_are_on_the_gpu_from_its_end_on() {
        let (mut ledger, now) = (Ledger::new(2), Instant::now());
        let mut clock = GpuClock::new(now);
        ledger.begun(running(1, key(ONE)).0);
        ledger.begun(running(2, key(CLOUD)).0);
        ledger.loaded(&mut clock, now);
        assert!(ledger.ended(LeaseNo(1)).is_some_and(|running| running.on_gpu_since.is_some()));
        assert!(ledger.ended(LeaseNo(2)).is_some_and(|running| running.on_gpu_since.is_none()), "never");
    }

    #[tokio::test]
    async fn a_load_counts_for_the_first_who_waits_and_its_rest_for_the_next() {
        let (mut ledger, start) = (Ledger::new(3), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut clock = GpuClock::new(start);
        [2, 1, 3].into_iter().for_each(|number| ledger.begun(running(number, key(ONE)).0));
        ledger.load_begins(&key("other:latest"), start);
        ledger.load_begins(&key(ONE), start);
        let first = ledger.ended(LeaseNo(1)).unwrap();
        assert_eq!((first.caused_load(), first.load_time(at(5))), (true, Duration::from_secs(5)));
        ledger.load_goes_on(&key(ONE), at(5));
        ledger.loaded(&mut clock, at(12));
        let [second, third] = [2, 3].map(|number| ledger.ended(LeaseNo(number)).unwrap());
        assert_eq!((second.caused_load(), second.load_time(at(20))), (false, Duration::from_secs(7)));
        assert_eq!((third.caused_load(), third.load_time(at(20))), (false, Duration::ZERO));
    }

    #[test]
    fn claiming_stops_while_too_many_outcomes_or_bytes_are_unsettled() {
        let mut ledger = Ledger::new(2);
        (1..=7).for_each(|number| ledger.settling(LeaseNo(number), 10));
        assert!(!ledger.waits_for_postgres());
        ledger.settling(LeaseNo(8), 10);
        assert!(ledger.waits_for_postgres(), "four per slot");
        (1..=8).for_each(|number| ledger.settled(LeaseNo(number)));
        ledger.settling(LeaseNo(9), MAX_UNSETTLED_BYTES - 1);
        assert!(!ledger.waits_for_postgres());
        ledger.settling(LeaseNo(10), 1);
        assert!(ledger.waits_for_postgres());
        ledger.settled(LeaseNo(10));
        assert!(!ledger.waits_for_postgres());
    }

    #[tokio::test]
    async fn a_lease_is_ours_until_its_outcome_is_settled() {
        let mut ledger = Ledger::new(1);
        ledger.hold(job(1, key(ONE)));
        ledger.begun(running(2, key(ONE)).0);
        ledger.settling(LeaseNo(3), 0);
        assert_eq!(ledger.leases(), HashSet::from([1, 2, 3].map(LeaseNo)));
        ledger.release_except(|_| false);
        assert!(ledger.ended(LeaseNo(2)).is_some());
        assert!(!ledger.is_empty(), "an outcome is on its way");
        ledger.settled(LeaseNo(3));
        assert!(ledger.is_empty() && ledger.leases().is_empty());
    }

    #[tokio::test]
    async fn a_cancel_stops_what_runs_and_removes_what_is_held_and_touches_no_other_job() {
        let mut ledger = Ledger::new(2);
        let ((stopped, first), (spared, second)) = (running(1, key(ONE)), running(2, key(ONE)));
        ledger.begun(stopped);
        ledger.begun(spared);
        ledger.hold(job(3, key(ONE)));
        ledger.hold(job(4, key(ONE)));
        assert_eq!(numbers(ledger.cancel(&[1, 3, 99].map(LeaseNo))), [LeaseNo(3)]);
        assert_eq!((*first.borrow(), *second.borrow()), (Some(Abort::Cancelled), None));
        assert_eq!(
            ledger.leases(),
            HashSet::from([1, 2, 4].map(LeaseNo)),
            "a stopped attempt has yet to end"
        );
        ledger.stop_all();
        let stopping = Some(Abort::Stopping);
        assert_eq!(
            (*first.borrow(), *second.borrow()),
            (Some(Abort::Cancelled), stopping),
            "the first reason counts"
        );
    }

    #[tokio::test]
    async fn only_gpu_jobs_wait_for_the_gpu_or_keep_it_busy() {
        let mut ledger = Ledger::new(2);
        ledger.begun(running(1, key(CLOUD)).0);
        ledger.hold(job(2, key(CLOUD)));
        assert!(!ledger.gpu_is_busy());
        assert_eq!(ledger.held_for_gpu().count(), 0);
        ledger.hold(job(3, key(ONE)));
        assert_eq!(ledger.held_for_gpu().map(|(_, key)| key).collect::<Vec<_>>(), [key(ONE)]);
        assert!(ledger.needs(&key(CLOUD)) && ledger.needs(&key(ONE)) && !ledger.needs(&key("two:latest")));
        ledger.begun(running(4, key(ONE)).0);
        assert!(ledger.gpu_is_busy());
    }
}
