//! The world's Postgres: it answers the decider's questions and the attempts' begins, writes exits, and knows which jobs
//! are ready.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use foreman_ollama::Route;
use foreman_store::{Claimed, Exit, JobId, Lease, LeaseNo, OwnLease, Permit, Phase, UserName};
use tokio::time::Instant;

use super::{Happening, Room, World};
use crate::runner::decider::claims::{Question, Reply};
use crate::runner::decider::tests::script::{Claiming, JobPlan};
use crate::runner::fate::Ending;
use crate::runner::signal::Signal;
use crate::scheduling::backlog::Group;
use crate::scheduling::key::{Key, RunsOn};
use crate::scheduling::plan::Order;

impl World {
    /// A question takes effect in Postgres at once. Its answer comes when the script says so.
    pub(super) fn ask(&mut self, question: Question) {
        assert!(!self.question_is_out, "two questions at a time");
        self.question_is_out = true;
        let calm = (Duration::from_millis(1), Claiming::Full);
        let nth = self.number % self.script.claims.len();
        let (delay, how) = if self.is_calm() { calm } else { self.script.claims[nth] };
        let reply = match (question, how) {
            (_, Claiming::Refused) => Reply::Failed { may_have_claimed: false },
            (Question::Say { word, .. }, _) => panic!("there is no other host to hear {word:?}"),
            (Question::OwnLeases { known, .. }, Claiming::Full | Claiming::AtMost(_)) => {
                Reply::OwnLeases { known, leases: self.own_leases() }
            }
            (Question::OwnLeases { .. }, _) => Reply::Failed { may_have_claimed: false },
            (Question::Jobs { .. }, Claiming::LostBeforeCommit) => Reply::Failed { may_have_claimed: true },
            (Question::Jobs { holder, spell, order }, _) => {
                self.check_order(&order);
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

    /// A claim is for what may begin soon: otherwise its jobs would be handed back and claimed again, over and over.
    fn check_order(&self, order: &Order) {
        let (runner, host) = (&order.runner, &self.decider.host);
        let mut unloading = host.unloads.models(Instant::now());
        assert!(unloading.all(|model| model != runner.model()), "a claim for a model to be unloaded");
        if order.runs_on == RunsOn::Gpu && !self.decider.plan.is_resident(runner) && !host.loads(runner) {
            assert!(self.unload.is_none(), "a claim beside an unload for what must be loaded");
            assert!(self.on_gpu().next().is_none(), "a claim beside requests for what must be loaded");
        }
    }

    pub(super) fn claim(&mut self, order: &Order, limit: usize) -> Vec<Claimed> {
        let mut claimed = Vec::new();
        for offer in &order.offers {
            let mut at_most = offer.at_most;
            for job in &mut self.jobs {
                let client = self.clients[job.plan.client];
                let (user, sync) = (user(job.plan.user), job.plan.sync);
                let is_offered = (client, &user, sync) == (offer.client, &offer.user, offer.sync)
                    && self.keys[job.plan.key].as_str() == &*offer.load_key;
                let is_ready = job.room == Room::Ready && job.id >= offer.lower_bound;
                if is_offered && is_ready && at_most > 0 && claimed.len() < limit {
                    at_most -= 1;
                    self.leases += 1;
                    let no = LeaseNo(self.leases);
                    let phase = if order.permit == Permit::Begun { Phase::Working } else { Phase::Held };
                    job.room = Room::Leased(no, phase);
                    claimed.push(Claimed {
                        lease: Lease { job_id: job.id, no },
                        client,
                        user,
                        sync,
                        api: None,
                        attempt: 1,
                        failures: job.failures.into(),
                        max_attempts: None,
                        priority: 0,
                        load_key: offer.load_key.to_string(),
                        model_label: String::new(),
                        path: Route::Chat.path().to_owned(),
                        bytes: 2,
                        body: Some("{}".to_owned()),
                        permit: order.permit,
                        traceparent: None,
                        eligible_at: DateTime::<Utc>::UNIX_EPOCH,
                    });
                }
            }
        }
        claimed
    }

    pub(super) fn own_leases(&self) -> Vec<OwnLease> {
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

    /// Postgres answers whether the job may begin.
    pub(super) fn attempt_begins(&mut self, no: LeaseNo) {
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

    pub(super) fn written(&mut self, no: LeaseNo, exit: Exit) {
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

    pub(super) fn is_ready(&mut self, job: usize) {
        if self.jobs[job].room == Room::Waiting {
            self.jobs[job].room = Room::Ready;
            self.scan_is_old = true;
        }
    }

    pub(super) fn back_to_queue(&mut self, job: usize) {
        self.jobs[job].room = if self.jobs[job].cancel { Room::Ended } else { Room::Ready };
        self.scan_is_old = true;
    }

    pub(super) fn scan(&mut self) {
        let mut groups: BTreeMap<(usize, usize, usize, bool), JobId> = BTreeMap::new();
        for job in self.jobs.iter().filter(|job| job.room == Room::Ready) {
            let JobPlan { key, client, user, sync, .. } = job.plan;
            let lowest = groups.entry((key, client, user, sync)).or_insert(job.id);
            *lowest = job.id.min(*lowest);
        }
        let groups = groups.into_iter().map(|((key, client, number, sync), lowest)| {
            let (key, client) = (Key::clone(&self.keys[key]), self.clients[client]);
            Group { key, client, user: user(number), priority: 0, sync, lowest }
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
}

fn user(number: usize) -> UserName {
    number.to_string().parse().unwrap()
}
