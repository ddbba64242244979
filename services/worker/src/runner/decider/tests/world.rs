//! The world of the decider: Postgres, Ollama and the tasks around the floor, played in virtual time by one script.
//!
//! The world keeps a calendar of happenings. It takes one happening after the other, tells the decider the event that
//! follows, lets it decide, carries out its actions as the floor would, and checks the rules.

mod ollama;
mod postgres;
mod unloading;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use foreman_ollama::{FailureKind, LoadKey, ModelName};
use foreman_store::{ClientId, Exit, Holder, JobId, LeaseNo, Phase, WorkerId, ulid_floor};
use tokio::sync::watch;
use tokio::time::{Instant, advance};

use super::script::{Disturbance, JobPlan, Script};
use crate::config;
use crate::membership::liveness::Spell;
use crate::runner::decider::claims::Reply;
use crate::runner::decider::{Action, Decider, Event};
use crate::runner::fate::{Abort, Look};
use crate::runner::signal::{Signal, Unload};
use crate::scheduling::key::Key;
use crate::scheduling::samples;
use ollama::failed;

/// The last key runs in Ollama's cloud and needs no load.
const KEYS: [&str; 6] = [
    "one:latest num_ctx=any",
    "one:latest num_ctx=8192",
    "one:latest",
    "two:latest",
    "three:latest",
    "far:120b-cloud",
];

/// The world fails if it takes longer than this. Every job and every stop needs much less.
const LONGEST: Duration = Duration::from_secs(3 * 3_600);
/// An entry of the calendar.
#[derive(Debug)]
enum Happening {
    Ready(usize),
    Scan,
    Renewal,
    Reply(Reply),
    LoadEnds {
        number: usize,
        fails: bool,
    },
    UnloadEnds {
        number: usize,
        fails: bool,
    },
    /// The worker reads which unloads Postgres has.
    UnloadsRead,
    AttemptBegins(LeaseNo),
    AttemptEnds(LeaseNo),
    Written(LeaseNo, Exit),
    /// The host watch has looked at Ollama.
    Looked,
    Disturbed(Disturbance),
    HostBack,
    SpellBack {
        is_rescued: bool,
    },
    HolderBack,
    SoftStop,
    HardStop,
    /// It is time to decide again, although nothing has happened.
    Tick,
}

/// The room in which a job stands in Postgres.
#[derive(Debug, PartialEq, Eq)]
enum Room {
    Ready,
    Waiting,
    Leased(LeaseNo, Phase),
    Ended,
}

#[derive(Debug)]
struct Job {
    plan: JobPlan,
    id: JobId,
    room: Room,
    failures: u8,
    /// Whether a caller has a part of its answer.
    given_out: bool,
    cancel: bool,
}

/// An attempt in flight.
#[derive(Debug)]
struct InFlight {
    job: usize,
    key: Key,
    abort: watch::Receiver<Option<Abort>>,
    spell: Spell,
    /// The load that it waits for.
    load: Option<usize>,
    has_begun: bool,
    /// Whether its request went out before it was recorded that it begins.
    sends_ahead: bool,
    /// Whether Ollama's answer has ended.
    is_answered: bool,
}

pub(super) struct World {
    script: Script,
    decider: Decider,
    start: Instant,
    /// When the last job has come and the last disturbance is over.
    calm_from: Duration,
    /// The calendar. The number keeps the order of entries for the same moment.
    happenings: BTreeMap<(Duration, usize), Happening>,
    number: usize,
    jobs: Vec<Job>,
    keys: Vec<Key>,
    clients: Vec<ClientId>,
    leases: i64,
    settled: BTreeSet<LeaseNo>,
    /// Jobs may be ready that the decider has not heard of. It may be idle beside them until the next scan.
    scan_is_old: bool,
    spell: Option<(Spell, watch::Sender<Instant>)>,
    worker: WorkerId,
    holds_host: bool,
    host_is_up: bool,
    /// What is loaded, the latest at the end.
    resident: Vec<Key>,
    /// Every load that an attempt waits for, the newest at the end.
    loads: Vec<(usize, Key)>,
    /// What operators want unloaded, as Postgres has it.
    unloads: BTreeMap<ModelName, DateTime<Utc>>,
    /// The unload under way, with its number.
    unload: Option<(usize, Unload)>,
    in_flight: HashMap<LeaseNo, InFlight>,
    is_stopping: bool,
    question_is_out: bool,
}

impl World {
    pub(super) fn new(script: Script) -> Self {
        let turns = config::Turns { models_together: script.room, ..samples::turns() };
        let start = Instant::now();
        let of_disturbance = |(at, what): &(Duration, Disturbance)| match what {
            Disturbance::HostAway(long)
            | Disturbance::SpellLost(long)
            | Disturbance::Rescued(long)
            | Disturbance::HolderLost(long) => *at + *long,
            Disturbance::Cancel(_) | Disturbance::NothingResident | Disturbance::UnloadAsked(_) => *at,
        };
        let last_job = script.jobs.iter().map(|job| job.at).max().unwrap_or_default();
        let calm_from =
            script.disturbances.iter().map(of_disturbance).max().unwrap_or_default().max(last_job);
        let jobs = script.jobs.iter().enumerate().map(|(number, plan)| Job {
            id: ulid_floor(DateTime::<Utc>::UNIX_EPOCH + plan.at + Duration::from_secs(number as u64 * 100)),
            plan: plan.clone(),
            room: Room::Waiting,
            failures: 0,
            given_out: false,
            cancel: false,
        });
        let mut world = Self {
            decider: Decider::new(script.slots, &turns, 5, start),
            start,
            calm_from,
            happenings: BTreeMap::new(),
            number: 0,
            jobs: jobs.collect(),
            keys: KEYS.iter().map(|key| Arc::new(key.parse::<LoadKey>().unwrap())).collect(),
            clients: (0..3).map(|_| ClientId::generate()).collect(),
            leases: 0,
            settled: BTreeSet::new(),
            scan_is_old: false,
            spell: None,
            worker: WorkerId::generate(),
            holds_host: true,
            host_is_up: true,
            resident: Vec::new(),
            loads: Vec::new(),
            unloads: BTreeMap::new(),
            unload: None,
            in_flight: HashMap::new(),
            is_stopping: false,
            question_is_out: false,
            script,
        };
        world.begin_spell();
        world.enter_script();
        world
    }

    /// Enters the script into the calendar.
    fn enter_script(&mut self) {
        let jobs =
            self.script.jobs.iter().enumerate().map(|(number, job)| (job.at, Happening::Ready(number)));
        let disturbances =
            self.script.disturbances.iter().map(|(at, what)| (*at, Happening::Disturbed(*what)));
        let stop =
            self.script.stop.iter().flat_map(|(soft, grace)| {
                [(*soft, Happening::SoftStop), (*soft + *grace, Happening::HardStop)]
            });
        let all: Vec<_> = jobs.chain(disturbances).chain(stop).collect();
        all.into_iter().for_each(|(at, happening)| self.at(at, happening));
        self.after(0, Happening::Looked);
        self.after(0, Happening::Scan);
        self.after(5_000, Happening::Renewal);
        self.after(2_000, Happening::UnloadsRead);
    }

    pub(super) async fn run(mut self) {
        loop {
            self.decide();
            let has_ended = self.jobs.iter().all(|job| job.room == Room::Ended);
            let is_done = has_ended && self.unloads.is_empty() && self.is_calm();
            if self.decider.is_over() {
                break;
            }
            if is_done && !self.is_stopping && self.in_flight.is_empty() {
                self.at(self.now(), Happening::SoftStop);
            }
            let ((at, _), happening) = self.happenings.pop_first().expect("something always happens");
            assert!(at < LONGEST, "at a standstill: {:?}", self.jobs);
            advance((self.start + at).saturating_duration_since(Instant::now())).await;
            self.happens(happening);
        }
        if !self.decider.is_out_of_time() {
            let held: Vec<_> = self.jobs.iter().filter(|job| matches!(job.room, Room::Leased(..))).collect();
            assert!(held.is_empty(), "the process ends and leaves leases behind: {held:?}");
        }
        assert!(self.in_flight.is_empty(), "the process ends before its attempts");
        if self.script.stop.is_none() {
            assert!(self.jobs.iter().all(|job| job.room == Room::Ended), "not every job has ended");
            assert!(self.unloads.is_empty(), "not every unload was carried out");
        }
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn at(&mut self, at: Duration, happening: Happening) {
        self.number += 1;
        self.happenings.insert((at, self.number), happening);
    }

    fn after(&mut self, millis: u64, happening: Happening) {
        self.at(self.now() + Duration::from_millis(millis), happening);
    }

    fn is_calm(&self) -> bool {
        self.now() > self.calm_from
    }

    fn decide(&mut self) {
        let now = Instant::now();
        self.stand();
        let begins = self.decider.begins(now);
        let others = self.decider.decide(|| ulid_floor(DateTime::<Utc>::MAX_UTC), now);
        for action in begins.into_iter().chain(others) {
            match action {
                Action::Ask(question) => self.ask(question),
                Action::Begin { attempt, loading, .. } => self.begin(&attempt, loading),
                Action::Settle(leaving) => {
                    assert!(self.settled.insert(leaving.lease.no), "a lease is settled twice");
                    self.after(2, Happening::Written(leaving.lease.no, leaving.exit));
                }
                Action::Unload(unload) => self.begin_unload(unload),
                Action::LookAtHost => self.after(1, Happening::Looked),
                // The scans of this world come soon enough.
                Action::LookForJobs => {}
            }
        }
        if !self.decider.wants_load() {
            // The floor drops its handle, so only the loads that attempts wait for go on.
            let in_flight = &self.in_flight;
            self.loads.retain(|(number, _)| in_flight.values().any(|one| one.load == Some(*number)));
        }
        if let Some(at) = self.decider.decides_again_at(now) {
            self.at(at - self.start, Happening::Tick);
        }
        self.check(now);
    }

    /// The rules of the floor. They hold after each decision.
    fn check(&self, now: Instant) {
        let in_slots = self.in_flight.values().filter(|one| !one.is_answered).count();
        assert!(in_slots <= self.script.slots, "more in flight than slots");
        let keys: BTreeSet<&Key> = self.on_gpu().collect();
        let (running, loading): (Vec<&Key>, Vec<&Key>) =
            keys.into_iter().partition(|key| self.resident.contains(*key));
        assert!(running.is_empty() || loading.is_empty(), "a load beside requests in flight");
        assert!(loading.len() <= 1, "two loads at a time");
        assert!(self.unload.is_none() || self.loads.is_empty(), "an unload beside a load");
        let ledger = &self.decider.ledger;
        let is_free = in_slots < self.script.slots;
        assert!(!is_free || ledger.holds_nothing(), "a job is held beside a free slot");
        // What is to be unloaded waits, and so does what must be loaded while something is unloaded.
        let unloading: BTreeSet<&ModelName> = self.decider.host.unloads.models(now).collect();
        let may_run = |job: &&Job| !unloading.contains(self.keys[job.plan.key].model());
        let waits = self.jobs.iter().filter(|job| job.room == Room::Ready).filter(may_run).count();
        let may_ask = self.decider.claims.may_ask(now) && !ledger.waits_for_postgres();
        let can_work =
            self.decider.right(now).is_some() && may_ask && !self.scan_is_old && self.unload.is_none();
        assert!(!can_work || !self.in_flight.is_empty() || waits == 0, "idle while {waits} jobs wait");
    }

    fn stand(&mut self) {
        let holder = self.holds_host.then(|| self.holder());
        let spell = self.spell.as_ref().map(|(spell, _)| spell.clone()).filter(Spell::goes_on);
        self.decider.learn_authority(holder, spell);
    }

    fn holder(&self) -> Holder {
        Holder { worker: self.worker, host: "host".to_owned(), fence: 1 }
    }

    fn begin_spell(&mut self) {
        let until = Instant::now() + LONGEST;
        self.spell = Some(Spell::begin(self.worker, until));
    }

    fn tell(&mut self, event: Event) {
        self.stand();
        self.decider.learn(event, Instant::now());
    }

    fn signal(&mut self, signal: Signal) {
        self.tell(Event::Signal(signal));
    }

    fn job(&self, id: JobId) -> usize {
        self.jobs.iter().position(|job| job.id == id).expect("only jobs of the script are claimed")
    }

    fn happens(&mut self, happening: Happening) {
        match happening {
            Happening::Ready(job) => self.is_ready(job),
            Happening::Scan => {
                self.scan();
                self.after(1_000, Happening::Scan);
            }
            Happening::Renewal => {
                if self.spell.is_some() {
                    self.tell(Event::Renewed);
                }
                self.after(5_000, Happening::Renewal);
            }
            Happening::Reply(reply) => {
                self.question_is_out = false;
                self.tell(Event::Replied(reply));
            }
            Happening::LoadEnds { number, fails } => self.load_ends(number, fails),
            Happening::UnloadEnds { number, fails } => self.unload_ends(number, fails),
            Happening::UnloadsRead => {
                self.tell_unloads();
                self.after(2_000, Happening::UnloadsRead);
            }
            Happening::AttemptBegins(no) => self.attempt_begins(no),
            Happening::AttemptEnds(no) => self.attempt_ends(no),
            Happening::Written(no, exit) => self.written(no, exit),
            Happening::Looked => {
                if self.host_is_up {
                    let models = self.keys.iter().map(|key| key.model().clone()).collect();
                    self.signal(Signal::HostUp(models));
                }
            }
            Happening::Disturbed(disturbance) => self.disturbed(disturbance),
            Happening::HostBack => {
                self.host_is_up = true;
                self.after(0, Happening::Looked);
            }
            Happening::SpellBack { is_rescued } => {
                if is_rescued {
                    self.worker = WorkerId::generate();
                    for own in self.own_leases() {
                        let job = self.job(own.lease.job_id);
                        // Its api cancels a job that lost its worker in the middle of an answer.
                        self.jobs[job].given_out = false;
                        self.back_to_queue(job);
                    }
                }
                self.begin_spell();
                self.tell(Event::Renewed);
            }
            Happening::HolderBack => self.holds_host = true,
            Happening::SoftStop => {
                self.is_stopping = true;
                self.tell(Event::SoftStop);
            }
            Happening::HardStop => self.tell(Event::HardStop),
            Happening::Tick => {}
        }
        self.abort_attempts();
        assert!(!self.decider.is_out_of_time() || self.in_flight.is_empty(), "an attempt outlives the grace");
    }

    fn disturbed(&mut self, disturbance: Disturbance) {
        match disturbance {
            Disturbance::HostAway(long) => {
                self.host_is_up = false;
                (self.resident, self.loads) = (Vec::new(), Vec::new());
                self.break_off_unload();
                let all: Vec<LeaseNo> = self.in_flight.keys().copied().collect();
                all.into_iter().for_each(|no| self.end(no, failed(FailureKind::MayPass, Look::Away)));
                self.signal(Signal::HostAway);
                self.at(self.now() + long, Happening::HostBack);
            }
            Disturbance::Cancel(job) => {
                let Some(job) = self.jobs.get_mut(job) else { return };
                match job.room {
                    Room::Ready | Room::Waiting => job.room = Room::Ended,
                    Room::Leased(no, _) => {
                        job.cancel = true;
                        self.signal(Signal::CancelAsked(vec![no]));
                    }
                    Room::Ended => {}
                }
            }
            Disturbance::UnloadAsked(key) => self.ask_for_unload(key),
            Disturbance::SpellLost(long) => self.lose_spell(long, false),
            Disturbance::Rescued(long) => self.lose_spell(long, true),
            Disturbance::HolderLost(long) => {
                self.holds_host = false;
                self.at(self.now() + long, Happening::HolderBack);
            }
            Disturbance::NothingResident => {
                if self.loads.is_empty() && self.on_gpu().next().is_none() {
                    self.resident.clear();
                    self.signal(Signal::NothingResident);
                }
            }
        }
    }

    fn lose_spell(&mut self, long: Duration, is_rescued: bool) {
        if let Some((_, until)) = self.spell.take() {
            until.send_replace(Instant::now());
            self.at(self.now() + long, Happening::SpellBack { is_rescued });
        }
    }
}
