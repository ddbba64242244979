//! Sync calls while processes are killed, frozen and stopped: each call ends, none is taken for another, and none runs again
//! after its caller had a word of it.

use std::time::Duration;

use foreman_tests::{Api, Cluster, Db, Signal, Worker, eventually, within};
use ollama_sim::{Config, Sim};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::callers::{Became, Over, callers, count, none_ran_again};
use super::{call, requests};

/// Streams that are open at the same time.
const CALLS: usize = 200;

/// An answer takes a tenth of a second, so most calls wait when something happens.
const ORDERS: &str = "sim:tokens=10 sim:token-delay=10ms";

/// All calls together, however slow the machine is. A call that hangs would wait for ever.
const ALL_END: Duration = Duration::from_secs(75);

/// Two apis, a worker that holds the Ollama and one that stands by.
struct Place {
    db: Db,
    sim: Sim,
    epoch: Instant,
    apis: [Api; 2],
    worker: Worker,
    _standby: Worker,
}

impl Place {
    async fn new() -> Self {
        Self::on(Db::fresh().await, "2s").await
    }

    async fn on(db: Db, ttl: &str) -> Self {
        let epoch = Instant::now();
        let sim = Sim::start(Config { parallel: 4, ..Config::default() }).await.unwrap();
        let worker =
            [("FOREMAN_WORKER_SLOTS", "4"), ("FOREMAN_LEASE_TTL", ttl), ("FOREMAN_SHUTDOWN_GRACE", "10s")];
        let api = [("FOREMAN_CLIENT_MAX_STREAMS", "1000"), ("FOREMAN_SHUTDOWN_GRACE", "5s")];
        let first = Worker::start(&db, &sim.url(), &worker).await;
        eventually("a holder of the host", async || {
            let held: i64 = db.value("SELECT count(*) FROM host WHERE holder IS NOT NULL").await;
            if held == 1 { Ok(()) } else { Err("nobody") }
        })
        .await;
        let (one, two) = tokio::join!(Api::start(&db, &api), Api::start(&db, &api));
        let standby = Worker::start(&db, &sim.url(), &worker).await;
        Self { db, sim, epoch, apis: [one, two], worker: first, _standby: standby }
    }

    /// Starts the calls, and returns when some are answered and some run.
    async fn calls(&self) -> JoinSet<Over> {
        let apis = [self.apis[0].url.as_str(), self.apis[1].url.as_str()];
        let callers = callers(&apis, CALLS, ORDERS);
        self.all_wait().await;
        self.sim.until(|log| log.completed >= 8 && log.running() >= 3).await;
        callers
    }

    /// Returns when every call has a job.
    async fn all_wait(&self) {
        within(Duration::from_secs(60), "a job for each call", async || {
            let jobs: i64 = self.db.value("SELECT count(*) FROM job").await;
            if jobs == i64::try_from(CALLS).unwrap() { Ok(()) } else { Err(format!("{jobs} jobs")) }
        })
        .await;
    }

    /// Waits for all calls and proves what is true after every disaster.
    async fn all_end(&self, callers: JoinSet<Over>) -> Vec<Over> {
        let calls = timeout(ALL_END, callers.join_all()).await.expect("no call hangs");
        self.db.every_job_ends().await;
        self.db.every_job_has_one_room().await;
        none_ran_again(&calls, &self.sim.log(), self.epoch);
        calls
    }
}

/// The calls of one api.
fn calls_of(api: usize, calls: &[Over]) -> Vec<&Over> {
    calls.iter().filter(|call| call.number % 2 == api).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_killed_costs_only_the_answers_that_had_begun() {
    let mut place = Place::new().await;
    let callers = place.calls().await;
    place.worker.process.kill().await;
    let calls = place.all_end(callers).await;
    let (answers, errors, broken) = count(&calls);
    assert_eq!(broken, 0, "{calls:?}");
    assert!(errors <= 4, "more errors than slots: {answers} answers, {calls:?}");
}

/// A janitor removes the row of a dead worker when its TTL is over. So whoever is told while the row is there is told within the
/// TTL, however slow the machine is.
#[tokio::test(flavor = "multi_thread")]
async fn the_callers_of_a_killed_worker_are_told_within_its_ttl() {
    let mut place = Place::on(Db::fresh().await, "20s").await;
    let mut answers = Vec::new();
    for (path, mut body) in requests(true).into_iter().take(4) {
        let words = "sim:fault=hang@1";
        if body["messages"].is_null() {
            body["prompt"] = words.into();
        } else {
            body["messages"][0]["content"] = words.into();
        }
        let mut answer = call(&place.apis[answers.len() % 2].url, path, &body).await;
        answer.chunk().await.unwrap().unwrap();
        answers.push(answer);
    }
    let holder: String = place.db.value("SELECT holder::text FROM host").await;
    place.worker.process.kill().await;
    for answer in answers {
        let rest = answer.text().await.unwrap();
        assert!(rest.contains("the worker that ran the model was lost"), "{rest}");
    }
    let is_there = format!("SELECT EXISTS (SELECT FROM worker WHERE id = '{holder}')");
    assert!(place.db.value::<bool>(&is_there).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_that_is_killed_takes_only_its_own_callers_with_it() {
    let mut place = Place::new().await;
    let callers = place.calls().await;
    place.apis[0].process.kill().await;
    let calls = place.all_end(callers).await;
    assert!(calls_of(1, &calls).iter().all(|call| call.became == Became::Answer), "{calls:?}");
    let fits = |call: &&Over| matches!(call.became, Became::Answer | Became::Broken);
    assert!(calls_of(0, &calls).iter().all(fits), "{calls:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn worker_and_api_killed_together_leave_nothing_behind() {
    let mut place = Place::new().await;
    let callers = place.calls().await;
    tokio::join!(place.worker.process.kill(), place.apis[0].process.kill());
    let calls = place.all_end(callers).await;
    assert!(calls_of(1, &calls).iter().all(|call| call.became != Became::Broken), "{calls:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_that_is_killed_and_comes_back_leaves_no_call_without_an_end() {
    let cluster = Cluster::durable().await;
    let place = Place::on(Db::on(&cluster).await, "4s").await;
    let callers = place.calls().await;
    cluster.kill();
    cluster.start_again().await;
    let calls = place.all_end(callers).await;
    let (_, _, broken) = count(&calls);
    assert_eq!(broken, 0, "{calls:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_frozen_beyond_its_ttl_gives_no_word_of_what_runs_elsewhere() {
    let place = Place::new().await;
    let callers = place.calls().await;
    place.worker.process.signal(Signal::SIGSTOP);
    // The standby has taken over, and works.
    let completed = place.sim.look(|log| log.completed);
    place.sim.until(|log| log.completed >= completed + 8).await;
    place.worker.process.signal(Signal::SIGCONT);
    let calls = place.all_end(callers).await;
    let (answers, errors, broken) = count(&calls);
    assert_eq!(broken, 0, "{calls:?}");
    assert!(errors <= 8, "{answers} answers, {calls:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_told_to_stop_finishes_its_calls_and_is_not_kept_by_those_who_listen() {
    let mut place = Place::new().await;
    let callers = place.calls().await;
    place.worker.process.terminate().await;
    let calls = place.all_end(callers).await;
    assert_eq!(count(&calls), (CALLS, 0, 0), "{calls:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_told_to_stop_ends_its_calls_within_its_grace() {
    let mut place = Place::new().await;
    let callers = place.calls().await;
    // The calls of one api may all come before those of the other. So wait until some of its own are next, and begin soon.
    let next_own = "SELECT count(*) FROM (SELECT substring(body FROM 'call-([0-9]+)')::int AS number \
        FROM job_ready JOIN job ON job.id = job_id ORDER BY job_id LIMIT 20) AS next WHERE number % 2 = 0";
    within(Duration::from_secs(20), "calls of the first api that are next", async || {
        let next: i64 = place.db.value(next_own).await;
        if next >= 4 { Ok(()) } else { Err(next) }
    })
    .await;
    let told = Instant::now();
    place.apis[0].process.terminate().await;
    let calls = place.all_end(callers).await;
    assert!(calls_of(1, &calls).iter().all(|call| call.became == Became::Answer), "{calls:?}");
    let begun_since = |call: &&Over| call.became == Became::Answer && call.first_word > Some(told);
    assert!(calls_of(0, &calls).iter().any(begun_since), "{calls:?}");
}
