//! The world of the decider: Postgres, Ollama and the tasks around the floor, played in virtual time by one script.
//!
//! The world keeps a calendar of happenings. It takes one happening after the other, tells the decider the event that
//! follows, lets it decide, carries out its actions as the floor would, and checks the rules.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use foreman_ollama::{FailureKind, Join, LoadKey, Route};
use foreman_store::{
    Claimed, ClientId, Exit, Holder, JobId, Lease, LeaseNo, OwnLease, Phase, WorkerId, ulid_floor,
};
use tokio::sync::watch;
use tokio::time::{Instant, advance};

use super::super::claims::{Question, Reply};
use super::super::{Action, Decider, Event, Loading};
use crate::config;
use crate::membership::liveness::Spell;
use crate::runner::attempt::{Attempt, Finished};
use crate::runner::fate::{Abort, Ending, Failed, Look, reason};
use crate::runner::signal::Signal;
use crate::scheduling::backlog::Group;
use crate::scheduling::key::Key;

/// The last key runs in Ollama's cloud and needs no load.
const KEYS: [&str; 4] = ["one:latest", "one:latest num_ctx=8192", "two:latest", "far:120b-cloud"];

/// The world fails if it takes longer than this. Every job and every stop needs much less.
const LONGEST: Duration = Duration::from_secs(3 * 3_600);

#[derive(Debug, Clone)]
pub(super) struct Script {
    pub(super) slots: usize,
    pub(super) jobs: Vec<JobPlan>,
    /// How long each load takes, and whether it fails. The list repeats. No load fails once the world is calm.
    pub(super) loads: Vec<(Duration, bool)>,
    /// When and how each question is answered. The list repeats. Once the world is calm, every answer is quick and good.
    pub(super) claims: Vec<(Duration, Claiming)>,
    pub(super) disturbances: Vec<(Duration, Disturbance)>,
    /// When the process is told to stop, and after how long its grace is nearly over.
    pub(super) stop: Option<(Duration, Duration)>,
}

#[derive(Debug, Clone)]
pub(super) struct JobPlan {
    /// When the job becomes ready.
    pub(super) at: Duration,
    pub(super) client: usize,
    pub(super) key: usize,
    pub(super) run: Duration,
    /// How often the job fails before it succeeds.
    pub(super) failures: u8,
    /// Whether it fails because Ollama cannot be reached, which costs it no attempt.
    pub(super) host_is_to_blame: bool,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Claiming {
    /// A claim brings as many jobs as it may.
    Full,
    /// A claim brings at most this many jobs, as if others held the rows.
    AtMost(usize),
    /// The claim is committed, but its answer is lost.
    LostAfterCommit,
    /// The claim is not committed, and the worker cannot know that.
    LostBeforeCommit,
    /// Postgres says that nothing was claimed.
    Refused,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Disturbance {
    /// Ollama is away for this long.
    HostAway(Duration),
    /// Somebody cancels the job with this number.
    Cancel(usize),
    /// Renewals fail for this long, and no janitor notices.
    SpellLost(Duration),
    /// Renewals fail for this long, and a janitor takes all leases away. The worker goes on under a new id.
    Rescued(Duration),
    /// This worker does not hold the host for this long.
    HolderLost(Duration),
    /// Ollama unloads its model by itself.
    NothingResident,
}

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
    resident: Option<Key>,
    /// Every load that an attempt waits for, the newest at the end.
    loads: Vec<(usize, Key)>,
    in_flight: HashMap<LeaseNo, InFlight>,
    is_stopping: bool,
    question_is_out: bool,
}

impl World {
    pub(super) fn new(script: Script) -> Self {
        let turns = config::Turns { max_model_wait: Duration::from_secs(600), load_share: 0.1 };
        let start = Instant::now();
        let of_disturbance = |(at, what): &(Duration, Disturbance)| match what {
            Disturbance::HostAway(long)
            | Disturbance::SpellLost(long)
            | Disturbance::Rescued(long)
            | Disturbance::HolderLost(long) => *at + *long,
            Disturbance::Cancel(_) | Disturbance::NothingResident => *at,
        };
        let last_job = script.jobs.iter().map(|job| job.at).max().unwrap_or_default();
        let calm_from =
            script.disturbances.iter().map(of_disturbance).max().unwrap_or_default().max(last_job);
        let jobs = script.jobs.iter().enumerate().map(|(number, plan)| Job {
            id: ulid_floor(DateTime::<Utc>::UNIX_EPOCH + plan.at + Duration::from_secs(number as u64 * 100)),
            plan: plan.clone(),
            room: Room::Waiting,
            failures: 0,
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
            resident: None,
            loads: Vec::new(),
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
    }

    pub(super) async fn run(mut self) {
        loop {
            self.decide();
            let is_done = self.jobs.iter().all(|job| job.room == Room::Ended);
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
        for action in self.decider.decide(ulid_floor(DateTime::<Utc>::MAX_UTC), now) {
            match action {
                Action::Ask(question) => self.ask(question),
                Action::Begin { attempt, loading, .. } => self.begin(&attempt, loading),
                Action::Settle(leaving) => {
                    assert!(self.settled.insert(leaving.lease.no), "a lease is settled twice");
                    self.after(2, Happening::Written(leaving.lease.no, leaving.exit));
                }
                Action::LookAtHost => self.after(1, Happening::Looked),
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
        assert!(self.in_flight.len() <= self.script.slots, "more in flight than slots");
        let keys: BTreeSet<&Key> = self.on_gpu().collect();
        assert!(keys.len() <= 1, "a switch with requests in flight");
        let ledger = &self.decider.ledger;
        let is_free = self.in_flight.len() < self.script.slots;
        assert!(!is_free || ledger.holds_nothing(), "a job is held beside a free slot");
        let waits = self.jobs.iter().filter(|job| job.room == Room::Ready).count();
        let may_ask = self.decider.claims.may_ask(now) && !ledger.waits_for_postgres();
        let can_work = self.decider.right(now).is_some() && may_ask && !self.scan_is_old;
        assert!(!can_work || !self.in_flight.is_empty() || waits == 0, "idle while {waits} jobs wait");
    }

    fn on_gpu(&self) -> impl Iterator<Item = &Key> {
        self.in_flight.values().map(|one| &one.key).filter(|key| !key.model().is_cloud())
    }

    fn stand(&mut self) {
        let holder = self.holds_host.then(|| self.holder());
        let spell = self.spell.as_ref().map(|(spell, _)| spell.clone()).filter(Spell::goes_on);
        self.decider.learn_standing(holder, spell);
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

    /// A question takes effect in Postgres at once. Its answer comes when the script says so.
    fn ask(&mut self, question: Question) {
        assert!(!self.question_is_out, "two questions at a time");
        self.question_is_out = true;
        let calm = (Duration::from_millis(1), Claiming::Full);
        let nth = self.number % self.script.claims.len();
        let (delay, how) = if self.is_calm() { calm } else { self.script.claims[nth] };
        let reply = match (question, how) {
            (_, Claiming::Refused) => Reply::Failed { may_have_claimed: false },
            (Question::OwnLeases { known, .. }, Claiming::Full | Claiming::AtMost(_)) => {
                Reply::OwnLeases { known, leases: self.own_leases() }
            }
            (Question::OwnLeases { .. }, _) => Reply::Failed { may_have_claimed: false },
            (Question::Jobs { .. }, Claiming::LostBeforeCommit) => Reply::Failed { may_have_claimed: true },
            (Question::Jobs { holder, spell, order }, _) => {
                let limit =
                    if let Claiming::AtMost(limit) = how { limit.min(order.limit) } else { order.limit };
                // A claim proves that the worker lives and holds the host.
                let may = self.holds_host && holder.worker == self.worker;
                let jobs = if may { self.claim(&order, limit) } else { Vec::new() };
                self.scan_is_old |= jobs.len() < order.limit;
                match how {
                    Claiming::LostAfterCommit => Reply::Failed { may_have_claimed: true },
                    _ => Reply::Claimed { order, spell, jobs },
                }
            }
        };
        self.at(self.now() + delay, Happening::Reply(reply));
    }

    fn claim(&mut self, order: &crate::scheduling::plan::Order, limit: usize) -> Vec<Claimed> {
        let mut claimed = Vec::new();
        for offer in &order.offers {
            let mut at_most = offer.at_most;
            for job in &mut self.jobs {
                let client = self.clients[job.plan.client];
                let is_offered = client == offer.client && self.keys[job.plan.key] == order.key;
                let is_ready = job.room == Room::Ready && job.id >= offer.lower_bound;
                if is_offered && is_ready && at_most > 0 && claimed.len() < limit {
                    at_most -= 1;
                    self.leases += 1;
                    let no = LeaseNo(self.leases);
                    let phase = if order.begins { Phase::Working } else { Phase::Held };
                    job.room = Room::Leased(no, phase);
                    claimed.push(Claimed {
                        lease: Lease { job_id: job.id, no },
                        client,
                        attempt: 1,
                        failures: job.failures.into(),
                        max_attempts: None,
                        priority: 0,
                        load_key: order.key.as_str().to_owned(),
                        model_label: String::new(),
                        path: Route::Chat.path().to_owned(),
                        bytes: 2,
                        body: Some("{}".to_owned()),
                        begun: order.begins,
                        traceparent: None,
                        eligible_at: DateTime::<Utc>::UNIX_EPOCH,
                    });
                }
            }
        }
        claimed
    }

    fn own_leases(&self) -> Vec<OwnLease> {
        let leased = self.jobs.iter().filter_map(|job| match job.room {
            Room::Leased(no, phase) => Some((job.id, no, phase)),
            _ => None,
        });
        leased
            .map(|(job_id, no, phase)| OwnLease {
                lease: Lease { job_id, no },
                phase,
                model_label: String::new(),
            })
            .collect()
    }

    fn begin(&mut self, attempt: &Attempt, loading: Loading) {
        let has_spell = self.spell.is_some() && attempt.spell.goes_on();
        let may = has_spell && self.holds_host && self.host_is_up && !self.is_stopping;
        assert!(may, "an attempt begins without the right to");
        let key = Key::clone(&attempt.key);
        let is_on_gpu = !key.model().is_cloud();
        let load = match loading {
            Loading::NotNeeded => {
                assert!(!is_on_gpu || self.resident.as_ref() == Some(&key), "its model is not loaded");
                None
            }
            Loading::UnderWay => Some(self.loads.last().expect("a load is under way").0),
            Loading::New => {
                assert!(is_on_gpu, "what runs in the cloud needs no load");
                Some(self.load(Key::clone(&key)))
            }
        };
        let job = self.job(attempt.lease.job_id);
        let (abort, spell) = (attempt.abort.clone(), attempt.spell.clone());
        let one = InFlight { job, key, abort, spell, load, has_begun: attempt.begun };
        let before = self.in_flight.insert(attempt.lease.no, one);
        assert!(before.is_none(), "a lease has two attempts");
        self.after(1, Happening::AttemptBegins(attempt.lease.no));
    }

    fn load(&mut self, key: Key) -> usize {
        self.number += 1;
        let number = self.number;
        let (long, fails) = self.script.loads[number % self.script.loads.len()];
        let fails = fails && !self.is_calm();
        self.resident = None;
        self.loads.push((number, key));
        self.at(self.now() + long, Happening::LoadEnds { number, fails });
        number
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
                    let leased: Vec<_> = self.own_leases();
                    leased.iter().for_each(|own| self.back_to_queue(self.job(own.lease.job_id)));
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

    fn is_ready(&mut self, job: usize) {
        if self.jobs[job].room == Room::Waiting {
            self.jobs[job].room = Room::Ready;
            self.scan_is_old = true;
        }
    }

    fn back_to_queue(&mut self, job: usize) {
        self.jobs[job].room = if self.jobs[job].cancel { Room::Ended } else { Room::Ready };
        self.scan_is_old = true;
    }

    fn scan(&mut self) {
        let mut groups: BTreeMap<(usize, usize), JobId> = BTreeMap::new();
        for job in self.jobs.iter().filter(|job| job.room == Room::Ready) {
            let lowest = groups.entry((job.plan.key, job.plan.client)).or_insert(job.id);
            *lowest = job.id.min(*lowest);
        }
        let groups = groups.into_iter().map(|((key, client), lowest)| {
            (Key::clone(&self.keys[key]), Group { client: self.clients[client], priority: 0, lowest })
        });
        let groups = groups.collect();
        // A claim under way may take jobs that this scan has seen.
        self.scan_is_old = self.question_is_out;
        self.signal(Signal::Scanned(groups));
        let cancelled = self.jobs.iter().filter(|job| job.cancel).filter_map(|job| match job.room {
            Room::Leased(no, _) => Some(no),
            _ => None,
        });
        let cancelled: Vec<_> = cancelled.collect();
        if !cancelled.is_empty() {
            self.signal(Signal::CancelAsked(cancelled));
        }
    }

    fn load_ends(&mut self, number: usize, fails: bool) {
        let Some(nth) = self.loads.iter().position(|load| load.0 == number) else { return };
        let (_, key) = self.loads.remove(nth);
        if fails {
            self.signal(Signal::LoadFailed { key });
        } else {
            self.resident = Some(Key::clone(&key));
            self.signal(Signal::Loaded { key, took: Duration::from_secs(1) });
        }
        let waiting: Vec<LeaseNo> =
            self.in_flight.iter().filter(|(_, one)| one.load == Some(number)).map(|(no, _)| *no).collect();
        for no in waiting {
            if fails {
                self.end(no, failed(FailureKind::MayPass, Look::NothingNew));
            } else if let Some(one) = self.in_flight.get_mut(&no) {
                one.load = None;
                if one.has_begun {
                    self.run_job(no);
                }
            }
        }
    }

    /// Postgres answers whether the job may begin.
    fn attempt_begins(&mut self, no: LeaseNo) {
        let Some(one) = self.in_flight.get_mut(&no) else { return };
        let job = &mut self.jobs[one.job];
        match job.room {
            Room::Leased(held, _) if held == no && job.cancel && !one.has_begun => {
                self.end(no, Ending::Cancelled);
            }
            Room::Leased(held, _) if held == no => {
                one.has_begun = true;
                job.room = Room::Leased(no, Phase::Working);
                if one.load.is_none() {
                    self.run_job(no);
                }
            }
            _ => self.end(no, Ending::Stale),
        }
    }

    fn run_job(&mut self, no: LeaseNo) {
        let long = self.jobs[self.in_flight[&no].job].plan.run;
        self.at(self.now() + long, Happening::AttemptEnds(no));
    }

    fn attempt_ends(&mut self, no: LeaseNo) {
        let Some(one) = self.in_flight.get(&no) else { return };
        let job = &mut self.jobs[one.job];
        if job.failures < job.plan.failures {
            job.failures += 1;
            let kind =
                if job.plan.host_is_to_blame { FailureKind::Unreachable } else { FailureKind::MayPass };
            self.end(no, failed(kind, Look::NothingNew));
        } else {
            self.end(no, done());
        }
    }

    fn end(&mut self, no: LeaseNo, ending: Ending) {
        self.in_flight.remove(&no).expect("an attempt ends once");
        self.tell(Event::Ended(no, Finished { ending, ran: Some(Duration::from_millis(50)) }));
    }

    /// Ends each attempt that the decider has stopped, or whose spell has ended.
    fn abort_attempts(&mut self) {
        let why = |one: &InFlight| one.abort.borrow().or((!one.spell.goes_on()).then_some(Abort::Fenced));
        let aborted: Vec<_> = self.in_flight.iter().filter_map(|(no, one)| Some((*no, why(one)?))).collect();
        aborted.into_iter().for_each(|(no, abort)| self.end(no, Ending::Aborted(abort)));
    }

    fn written(&mut self, no: LeaseNo, exit: Exit) {
        let held = self.jobs.iter().position(|job| matches!(job.room, Room::Leased(held, _) if held == no));
        if let Some(job) = held {
            match exit {
                Exit::HandBack { .. } => self.back_to_queue(job),
                Exit::Retry { wait, .. } if !self.jobs[job].cancel => {
                    self.jobs[job].room = Room::Waiting;
                    self.at(self.now() + wait, Happening::Ready(job));
                }
                _ => self.jobs[job].room = Room::Ended,
            }
        }
        self.signal(Signal::Settled(no));
    }

    fn disturbed(&mut self, disturbance: Disturbance) {
        match disturbance {
            Disturbance::HostAway(long) => {
                self.host_is_up = false;
                (self.resident, self.loads) = (None, Vec::new());
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
            Disturbance::SpellLost(long) => self.lose_spell(long, false),
            Disturbance::Rescued(long) => self.lose_spell(long, true),
            Disturbance::HolderLost(long) => {
                self.holds_host = false;
                self.at(self.now() + long, Happening::HolderBack);
            }
            Disturbance::NothingResident => {
                if self.loads.is_empty() && self.on_gpu().next().is_none() {
                    self.resident = None;
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

fn failed(kind: FailureKind, look: Look) -> Ending {
    Ending::Failed(Failed { kind, look, reason: reason("x", "x") })
}

fn done() -> Ending {
    let mut join = Join::new(Route::Chat, 1 << 10);
    let line = br#"{"model":"m","message":{"role":"assistant","content":"x"},"done":true}"#;
    join.push(line).unwrap();
    Ending::Done(join.finish().unwrap())
}
