//! The request of a job that waits for a slot goes out the moment a slot is free, before it is recorded that the job works.

use foreman_store::JobId;
use foreman_tests::{Api, Db, Worker, eventually};
use ollama_sim::{Config, Outcome, Sim};

use crate::chat;

/// A host whose job is at Ollama, while Postgres cannot record that the job works.
struct Ahead {
    db: Db,
    sim: Sim,
    api: Api,
    _worker: Worker,
    job: JobId,
    lock: Option<sqlx::Transaction<'static, sqlx::Postgres>>,
}

impl Ahead {
    async fn new() -> Self {
        let db = Db::fresh().await;
        let sim = Sim::start(Config::default()).await.unwrap();
        let api = Api::start(&db, &[]).await;
        let worker = Worker::start(&db, &sim.url(), &[("FOREMAN_WORKER_SLOTS", "1")]).await;
        let first = api.submit(&chat("hello")).await;
        api.get(&format!("/jobs/{first}?wait=30")).await;
        // Runs are known to be short, so the next job but one is claimed ahead.
        api.submit(&chat("before sim:tokens=100 sim:token-delay=10ms")).await;
        sim.until(|log| log.running() == 1).await;
        let job: JobId =
            api.submit(&chat("ahead sim:tokens=300 sim:token-delay=10ms")).await.parse().unwrap();
        let may_begin = format!("SELECT may_begin FROM job_lease WHERE job_id = '{}'", job.uuid());
        eventually("a lease that may begin", async || match db.values::<bool>(&may_begin).await[..] {
            [true] => Ok(()),
            ref leases => Err(format!("{leases:?}")),
        })
        .await;
        let mut lock = db.pool.begin().await.unwrap();
        let of_the_lease = format!(
            "SET LOCAL idle_in_transaction_session_timeout = 0;
             SELECT FROM job_lease WHERE job_id = '{}' FOR UPDATE",
            job.uuid()
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(of_the_lease)).execute(&mut *lock).await.unwrap();
        sim.until(|log| log.completed == 2 && log.running() == 1).await;
        assert_eq!(db.history(job).await, ["queued"], "it is at Ollama, and nobody has recorded that");
        Self { db, sim, api, _worker: worker, job, lock: Some(lock) }
    }

    /// From now on it can be recorded that the job works, but its lease was changed before.
    async fn release(&mut self, change: &str) {
        let mut lock = self.lock.take().expect("the lease is released once");
        let change = format!("UPDATE job_lease SET {change} WHERE job_id = '{}'", self.job.uuid());
        sqlx::raw_sql(sqlx::AssertSqlSafe(change)).execute(&mut *lock).await.unwrap();
        lock.commit().await.unwrap();
    }

    async fn request_was_dropped(&self) {
        self.sim.until(|log| log.in_flight() == 0).await;
        let outcome = self.sim.look(|log| log.runs().last().and_then(|run| run.outcome.clone()));
        assert_eq!(outcome, Some(Outcome::HungUp));
    }

    async fn history(&self) -> Vec<String> {
        self.db.history(self.job).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_outcome_is_written_before_the_job_is_recorded_as_working() {
    let mut ahead = Ahead::new().await;
    ahead.sim.until(|log| log.completed == 3).await;
    assert_eq!(ahead.history().await, ["queued"]);
    ahead.release("cancel = false").await;
    ahead.db.every_job_ends().await;
    assert_eq!(ahead.history().await, ["queued", "loading", "working", "done"]);
    assert_eq!(ahead.sim.look(|log| log.runs().len()), 3, "each was sent once");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_slot_of_an_answered_job_waits_for_no_record() {
    let mut ahead = Ahead::new().await;
    ahead.api.submit(&chat("next sim:tokens=300 sim:token-delay=10ms")).await;
    ahead.sim.until(|log| log.completed == 3 && log.running() == 1).await;
    assert_eq!(
        ahead.history().await,
        ["queued"],
        "its successor is at Ollama, and nobody has recorded that it works"
    );
    ahead.release("cancel = false").await;
    ahead.db.every_job_ends().await;
    assert_eq!(ahead.sim.look(|log| (log.runs().len(), log.max_running)), (4, 1), "each ran once, and alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_that_comes_before_the_record_ends_the_request() {
    let mut ahead = Ahead::new().await;
    ahead.release("cancel = true").await;
    ahead.request_was_dropped().await;
    ahead.db.every_job_ends().await;
    assert_eq!(ahead.history().await, ["queued", "cancelled"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_request_of_a_lease_that_another_holder_has_by_now_ends() {
    let mut ahead = Ahead::new().await;
    ahead.release("lease_no = nextval('lease_no')").await;
    ahead.request_was_dropped().await;
    assert_eq!(ahead.history().await, ["queued"], "it is another's job now");
}
