//! Tells where a waiting job stands: how many jobs go before it, when it is expected to begin, and why it waits. What the
//! hosts foretell is read once for all requests that ask.
//!
//! Must never tell something that nobody has told: what is not known is left out.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use foreman_ollama::ModelName;
use foreman_runtime::{background_error, stalls};
use foreman_store::{
    ClientId, Forecast, ForeseenGroup, HeldBack, JobId, JobState, JobView, PublishedForecast, Store,
};
use foreman_webhook::rfc3339;

use crate::intake::inventory::{Inventory, Readiness};
use crate::shared_reading::SharedReading;

/// A reading is used for this long. Hosts tell something new once a second at most.
const USE_FOR: Duration = Duration::from_millis(500);

/// A forecast older than this is not believed any more. Its host makes a new one every ten seconds at the latest.
const MAX_AGE: TimeDelta = TimeDelta::seconds(30);

const GONE: &str =
    "no host has the model any more: the job fails soon, unless somebody pulls the model again";
const NOT_UP: &str = "no host is up that has the model";
const DRAINED: &str = "an operator has drained every host that has the model";

/// Reads the forecasts when somebody asks and the last reading is too old.
pub(crate) struct Forecasts {
    store: Store,
    last: SharedReading<Reading>,
}

/// What the hosts foretell.
#[derive(Debug, Default)]
pub(crate) struct Reading(Vec<Host>);

#[derive(Debug)]
struct Host {
    at: DateTime<Utc>,
    forecast: Forecast,
    places: HashMap<JobId, InLine>,
}

/// Where a job stands in the line of a host.
#[derive(Debug, Clone, Copy)]
struct InLine {
    /// Its number in the forecast, from 0. So many jobs go before it.
    before: usize,
    /// How many of these are its own client's.
    own: usize,
}

/// A job that may be waiting.
#[derive(Debug)]
pub(crate) struct QueuedJob {
    pub(crate) job: JobId,
    pub(crate) client: ClientId,
    /// As Ollama compares it.
    pub(crate) model: String,
    /// The moment from which on it may run.
    pub(crate) eligible_at: DateTime<Utc>,
    /// Whether it has had an attempt.
    pub(crate) is_retry: bool,
}

/// What is told of a job that waits. All of it is left out where nobody knows, and of a job that does not wait.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Prospect {
    /// 1 for the job that is next.
    pub(crate) position: Option<u64>,
    pub(crate) eta: Option<DateTime<Utc>>,
    pub(crate) waiting_for: Option<String>,
}

impl Prospect {
    /// Whether somebody who was told the other should be told this. A time that has moved by little is no news.
    pub(crate) fn differs(&self, other: &Self) -> bool {
        let little = TimeDelta::seconds(2);
        let has_moved = match (self.eta, other.eta) {
            (Some(eta), Some(before)) => (eta - before).abs() > little,
            (eta, before) => eta.is_some() != before.is_some(),
        };
        has_moved || (self.position, &self.waiting_for) != (other.position, &other.waiting_for)
    }
}

impl Forecasts {
    pub(crate) fn new(store: Store) -> Self {
        Self { store, last: SharedReading::new(USE_FOR, 0) }
    }

    /// What the hosts foretell now. Nothing if that cannot be read: a job is shown without it.
    pub(crate) async fn read(&self) -> Arc<Reading> {
        let read = async {
            let now = self.store.clock().now();
            let read = stalls::round("forecasts", stalls::USUAL, self.store.forecasts()).await;
            let published = read.unwrap_or_else(|error| {
                background_error!("forecasts", error, "jobs are shown without position and eta");
                Vec::new()
            });
            let fresh = published.into_iter().filter(|published| now - published.at < MAX_AGE);
            Ok::<_, Infallible>(Reading(fresh.map(Host::new).collect()))
        };
        let Ok(reading) = self.last.get(read).await;
        reading
    }
}

impl Host {
    fn new(PublishedForecast { at, forecast }: PublishedForecast) -> Self {
        let mut own: HashMap<ClientId, usize> = HashMap::new();
        let mut places = HashMap::with_capacity(forecast.jobs.len());
        for (before, foreseen) in forecast.jobs.iter().enumerate() {
            let Some(group) = forecast.groups.get(foreseen.group) else { continue };
            let own = own.entry(group.client).or_default();
            places.insert(foreseen.job, InLine { before, own: *own });
            *own += 1;
        }
        Self { at, forecast, places }
    }

    fn begins(&self, place: InLine) -> Option<DateTime<Utc>> {
        let ms = self.forecast.jobs.get(place.before)?.begins_in_ms?;
        self.at.checked_add_signed(TimeDelta::milliseconds(i64::try_from(ms).ok()?))
    }

    fn group(&self, place: InLine) -> Option<&ForeseenGroup> {
        self.forecast.groups.get(self.forecast.jobs.get(place.before)?.group)
    }

    /// Whether the job stands behind all jobs that this host has foreseen.
    fn ends_before(&self, job: &QueuedJob) -> bool {
        let is_of_it = |group: &ForeseenGroup| group.client == job.client && group.model == job.model;
        // A forecast that was made at the same moment may not have seen the job.
        let is_older = job.eligible_at + TimeDelta::seconds(5) < self.at;
        !self.forecast.is_whole
            && !self.forecast.jobs.is_empty()
            && is_older
            && self.forecast.groups.iter().any(is_of_it)
    }
}

impl QueuedJob {
    /// `None` for a job that does not wait.
    pub(crate) fn of(job: &JobView) -> Option<Self> {
        (job.state == JobState::Queued).then(|| Self {
            job: job.id,
            client: job.client,
            model: ModelName::canonical(&job.model),
            eligible_at: job.eligible_at,
            is_retry: job.attempt > 0,
        })
    }
}

impl Reading {
    /// What is known of this job now.
    pub(crate) fn prospect(&self, job: &QueuedJob, inventory: &Inventory, now: DateTime<Utc>) -> Prospect {
        let readiness = inventory.readiness(&job.model);
        let takes_jobs = readiness.is_some_and(|model| model.takes_jobs);
        if job.eligible_at > now {
            let at = rfc3339(job.eligible_at);
            let waiting_for =
                if job.is_retry { format!("its next attempt, at {at}") } else { format!("its time, {at}") };
            let eta = takes_jobs.then_some(job.eligible_at);
            return Prospect { position: None, eta, waiting_for: Some(waiting_for) };
        }
        if !takes_jobs {
            let waiting_for = readiness.map(|model| why_not_run(model).to_owned());
            return Prospect { waiting_for, ..Prospect::default() };
        }
        let places = self.0.iter().filter_map(|host| Some((host, *host.places.get(&job.job)?)));
        let Some((host, place)) = places.clone().min_by_key(|(_, place)| place.before) else {
            let longest =
                self.0.iter().filter(|host| host.ends_before(job)).map(|host| host.forecast.jobs.len());
            let waiting_for = longest.min().map(|jobs| format!("at least {jobs} jobs go before it"));
            return Prospect { waiting_for, ..Prospect::default() };
        };
        Prospect {
            position: u64::try_from(place.before + 1).ok(),
            eta: together(places.map(|(host, place)| host.begins(place)), now),
            waiting_for: host.reason(place, |model| inventory.label(model)),
        }
    }
}

/// Why a job waits whose model no host can run now.
fn why_not_run(model: Readiness) -> &'static str {
    match model {
        Readiness { is_gone: true, .. } => GONE,
        Readiness { is_up: false, .. } => NOT_UP,
        Readiness { .. } => DRAINED,
    }
}

/// When hosts that have the same jobs before them come to a job together: each alone would come to it at its own time,
/// so in the same time all of them do more. `None` if one of them cannot tell.
fn together(times: impl Iterator<Item = Option<DateTime<Utc>>>, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let mut rate = 0.0;
    for time in times {
        let wait = (time? - now).as_seconds_f64();
        if wait <= 0.0 {
            return Some(now);
        }
        rate += 1.0 / wait;
    }
    now.checked_add_signed(TimeDelta::from_std(Duration::try_from_secs_f64(1.0 / rate).ok()?).ok()?)
}

impl Host {
    /// Why the job at this place waits, in a plain sentence.
    fn reason(&self, place: InLine, label: impl Fn(&str) -> String) -> Option<String> {
        let Forecast { loading, running, jobs, .. } = &self.forecast;
        let group = self.group(place)?;
        let model = label(&group.model);
        match group.held_back {
            Some(HeldBack::AtCeiling(1)) => {
                return Some("its client has its ceiling of 1 running job".to_owned());
            }
            Some(HeldBack::AtCeiling(most)) => {
                return Some(format!("its client has its ceiling of {most} running jobs"));
            }
            Some(HeldBack::OverBudget) => {
                return Some("its client is past its GPU budget of the day, so others go first".to_owned());
            }
            None => {}
        }
        let loads = jobs.get(place.before)?.loads;
        if place.before > 0 {
            return Some(before(place));
        }
        match (loads, loading, running) {
            (0, Some(loading), _) if *loading == group.model => {
                Some("a load of its model that runs now".to_owned())
            }
            (1.., _, Some(running)) if *running != group.model => {
                Some(format!("{model} is loaded next, after the jobs of {} that run now", label(running)))
            }
            (1.., _, Some(_)) => Some(format!("{model} is loaded again for it, after its jobs that run now")),
            (_, Some(loading), _) => {
                Some(format!("it is next, after the load of {} that runs now", label(loading)))
            }
            (0, None, Some(_)) => Some("it is next, when a job that runs now ends".to_owned()),
            _ => None,
        }
    }
}

fn before(InLine { before, own }: InLine) -> String {
    let (jobs, go) = if before == 1 { ("job", "goes") } else { ("jobs", "go") };
    match own {
        own if own == before => format!("{before} {jobs} of this client {go} before it"),
        0 => format!("{before} {jobs} of other clients {go} before it"),
        own => format!("{before} {jobs} {go} before it, {own} of this client"),
    }
}

#[cfg(test)]
mod tests {
    use foreman_store::Foreseen;

    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::seconds(seconds)
    }

    /// Jobs of these groups, one after the other, a second apart.
    fn host(clients: &[ClientId], model: &str, held_back: Option<HeldBack>) -> (Host, Vec<JobId>) {
        let ids: Vec<JobId> = clients.iter().map(|_| JobId::generate()).collect();
        let group = |client: &ClientId| ForeseenGroup { client: *client, model: model.to_owned(), held_back };
        let foreseen = |(nth, job): (usize, &JobId)| Foreseen {
            job: *job,
            group: nth,
            begins_in_ms: Some(1_000 * (nth as u64 + 1)),
            loads: 0,
        };
        let forecast = Forecast {
            loading: None,
            running: Some(model.to_owned()),
            groups: clients.iter().map(group).collect(),
            jobs: ids.iter().enumerate().map(foreseen).collect(),
            is_whole: true,
        };
        (Host::new(PublishedForecast { at: at(0), forecast }), ids)
    }

    fn reason(host: &Host, job: JobId) -> String {
        host.reason(host.places[&job], str::to_owned).unwrap()
    }

    #[test]
    fn jobs_before_a_job_are_counted_and_other_clients_stay_unnamed() {
        let (one, other) = (ClientId::generate(), ClientId::generate());
        let (host, ids) = host(&[one, one, other, one], "a:latest", None);
        assert_eq!(reason(&host, ids[0]), "it is next, when a job that runs now ends");
        assert_eq!(reason(&host, ids[1]), "1 job of this client goes before it");
        assert_eq!(reason(&host, ids[2]), "2 jobs of other clients go before it");
        assert_eq!(reason(&host, ids[3]), "3 jobs go before it, 2 of this client");
    }

    #[test]
    fn what_holds_a_client_back_is_told_before_its_place() {
        let one = ClientId::generate();
        let (ceiling, ids) = host(&[one, one], "a:latest", Some(HeldBack::AtCeiling(2)));
        assert_eq!(reason(&ceiling, ids[1]), "its client has its ceiling of 2 running jobs");
        let (budget, ids) = host(&[one], "a:latest", Some(HeldBack::OverBudget));
        assert_eq!(
            reason(&budget, ids[0]),
            "its client is past its GPU budget of the day, so others go first"
        );
    }

    #[test]
    fn a_load_is_told_to_the_job_that_it_is_for() {
        let (mut one, ids) = host(&[ClientId::generate()], "a:latest", None);
        one.forecast.jobs[0].loads = 1;
        one.forecast.running = Some("b:latest".to_owned());
        assert_eq!(reason(&one, ids[0]), "a:latest is loaded next, after the jobs of b:latest that run now");
        one.forecast.jobs[0].loads = 0;
        (one.forecast.loading, one.forecast.running) = (Some("a:latest".to_owned()), None);
        assert_eq!(reason(&one, ids[0]), "a load of its model that runs now");
    }

    #[test]
    fn hosts_that_have_the_same_jobs_before_them_come_to_a_job_sooner() {
        let told = |times: &[Option<i64>]| together(times.iter().map(|time| time.map(at)), at(10));
        assert_eq!(told(&[Some(16)]), Some(at(16)));
        assert_eq!(told(&[Some(16), Some(16)]), Some(at(13)));
        assert_eq!(told(&[Some(16), Some(9)]), Some(at(10)), "what should have begun begins now");
        assert_eq!(told(&[Some(16), None]), None);
    }
}
