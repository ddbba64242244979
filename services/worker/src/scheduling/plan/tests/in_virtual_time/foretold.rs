//! A forecast, and what the host then does. They are equal where every run takes as long as usual and no job comes.

use foreman_store::Forecast;

use super::*;
use crate::scheduling::plan::forecast::{Read, Start, UnderWay};

/// A forecast to make in the middle of a run.
#[derive(Debug)]
pub(super) struct Forecasting {
    at: Duration,
    made: Option<Made>,
}

#[derive(Debug)]
struct Made {
    at: Duration,
    /// How many jobs had begun by then.
    begun: usize,
    forecast: Forecast,
}

impl Host<'_> {
    /// Makes the forecast when its time has come. A scan comes before it, as it does each second, and the host decides
    /// again after it: the plan may have waited for a group of which a full claim had brought the last job.
    pub(super) fn foretell(&mut self) {
        if self.forecasting.as_ref().is_none_or(|asked| asked.made.is_some() || self.now < asked.at) {
            return;
        }
        self.scan();
        let start = self.snapshot();
        let groups = start.groups().into_iter().map(|group| self.read(group)).collect();
        let forecast = start.foretell(groups, || true).forecast;
        let made = Made { at: self.now, begun: self.seen.begun.len(), forecast };
        self.forecasting.as_mut().unwrap().made = Some(made);
        while self.claim() {}
    }

    fn read(&self, group: Group) -> Read {
        let is_in = |(_, key, job): &&(JobId, Key, Job)| {
            let of = (client(job.client as u128), user(job.user), job.priority, job.sync);
            *key == group.key && of == (group.client, group.user.clone(), group.priority, group.sync)
        };
        let jobs = self.ready.iter().filter(is_in).map(|(id, ..)| *id).collect();
        Read { group, jobs, has_more: false }
    }

    fn snapshot(&self) -> Start {
        let under_way = |charge: &Charge, runner: &Key, since| UnderWay {
            charge: charge.clone(),
            runner: Key::clone(runner),
            runs_on: RunsOn::Gpu,
            since,
        };
        let running =
            self.running.iter().map(|(_, _, charge, runner, since)| under_way(charge, runner, Some(*since)));
        let load = self.loading.as_ref();
        let waiting = load.iter().flat_map(|(_, runner, jobs)| jobs.iter().map(move |job| (runner, &job.1)));
        let waiting = waiting.map(|(runner, charge)| under_way(charge, runner, None));
        Start {
            plan: self.plan.clone(),
            now: self.time(),
            slots: self.workload.slots,
            gpu: self.clock.clone(),
            residency: self.residency.clone(),
            loading: load
                .map(|(end, runner, _)| (Key::clone(runner), self.start + *end - self.load_of(runner))),
            running: running.chain(waiting).collect(),
            held: Vec::new(),
        }
    }

    /// Measures every model before the first job comes: the loads, the runs, and the automatic context.
    fn measure(&mut self, run: Duration) {
        for model in 0..self.workload.loads.len() {
            for context in ["", " num_ctx=1024", " num_ctx=8192"] {
                let runner = key(&format!("m{model}:latest{context}"));
                self.plan.loaded(&runner, self.load_of(&runner), self.start);
                self.plan.has_context(&runner, if context.is_empty() { AUTOMATIC } else { 8_192 });
                self.plan.ran(&runner, run, run.as_secs_f64());
            }
        }
    }
}

/// Jobs that come within five seconds and all run for the same time.
fn alike() -> impl Strategy<Value = Workload> {
    (workloads(4), millis(1..3_000)).prop_map(|(mut workload, run)| {
        for job in &mut workload.jobs {
            job.at = Duration::from_millis(u64::try_from(job.at.as_millis()).unwrap() % 5_000);
            job.context = job.context.filter(|_| job.user == 0).map(|_| 8_192);
            job.run = run;
        }
        workload.jobs.sort();
        workload
    })
}

proptest! {
    #![proptest_config(cases(192))]

    #[test]
    fn a_forecast_is_what_the_host_then_does(
        workload in alike(), at in millis(5_000..60_000), load_share in 0.05..0.9f64, weight in 0.2..5.0f64,
        ceiling in prop::option::of(1..4u32),
    ) {
        let terms = ClientTerms { client: client(1), weight, max_running: ceiling, is_over_budget: false };
        let mut host = workload.host(&without_a_longest_wait(load_share), vec![terms]);
        host.measure(workload.longest_run());
        host.forecasting = Some(Forecasting { at, made: None });
        host.go();
        let Some(Made { at, begun, forecast }) = host.forecasting.and_then(|asked| asked.made) else { return Ok(()) };
        let told = forecast.jobs.iter().map(|job| (job.job, job.begins_in_ms.map(u128::from)));
        let seen = host.seen.begun[begun..].iter().map(|(job, begins)| (*job, Some((*begins - at).as_millis())));
        prop_assert_eq!(told.collect::<Vec<_>>(), seen.collect::<Vec<_>>());
        prop_assert!(forecast.is_whole);
    }
}

#[test]
fn jobs_of_a_model_that_is_to_be_unloaded_begin_after_what_runs_and_a_load() {
    let run = Duration::from_secs(10);
    let job = Job { run, ..Job::default() };
    let jobs = vec![job.clone(), job];
    let workload =
        Workload { slots: 1, room: 1, loads: vec![Duration::from_secs(2)], failing_load: None, jobs };
    let mut host = workload.host(&turns(), Vec::new());
    host.measure(run);
    let jobs = workload.jobs.iter().enumerate();
    host.ready = jobs.map(|(nth, job)| (id_of(nth), load_key(job), job.clone())).collect();
    host.scan();
    host.claim();
    host.now = workload.loads[0];
    host.end_what_ends_now();
    host.plan.are_unloading([key("m0:latest").model().clone()].into());
    let start = host.snapshot();
    let waiting = start.groups().into_iter().map(|group| host.read(group)).collect();
    let forecast = start.foretell(waiting, || true).forecast;
    let told: Vec<_> = forecast.jobs.iter().map(|job| (job.job, job.begins_in_ms, job.loads)).collect();
    assert_eq!(told, [(id_of(1), Some(10_000), 1)]);
}

/// Run it by hand: it prints what a forecast costs.
#[test]
#[ignore = "a measurement, in a release build"]
fn a_forecast_of_a_thousand_jobs_takes_some_milliseconds() {
    for (clients, users, models) in [(1, 1, 1), (4, 1, 5), (100, 1, 10), (1, 2_000, 1)] {
        let job = |nth: usize| Job {
            client: nth % clients,
            user: nth / clients % users,
            model: nth / 3 % models,
            run: Duration::from_millis(500),
            ..Job::default()
        };
        let mut jobs: Vec<Job> = (0..2_000).map(job).collect();
        jobs.sort();
        let loads = vec![Duration::from_secs(10); models];
        let workload = Workload { slots: 1, room: 1, loads, failing_load: None, jobs };
        let mut host = workload.host(&turns(), Vec::new());
        host.measure(Duration::from_millis(500));
        host.ready = workload
            .jobs
            .iter()
            .enumerate()
            .map(|(nth, job)| (id_of(nth), load_key(job), job.clone()))
            .collect();
        host.scan();
        let began = std::time::Instant::now();
        let start = host.snapshot();
        let copied = began.elapsed();
        let groups = start.groups();
        let count = groups.len();
        let waiting = groups.into_iter().map(|group| host.read(group)).collect();
        let began = std::time::Instant::now();
        let jobs = start.foretell(waiting, || true).forecast.jobs.len();
        println!(
            "{clients} clients, {users} users, {models} models, {count} groups: {jobs} jobs in {:?}, the copy {copied:?}",
            began.elapsed()
        );
    }
}
