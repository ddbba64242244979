//! A new, migrated database for each test, with short helpers for frequent steps of the store's tests. A failing test
//! keeps its database and prints how to open it.

use std::collections::HashMap;
use std::{
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use foreman_store::{
    Acceptance, Claimed, ClientId, Completion, ConnectOptions, Credentials, Exit, Heartbeat, Holder,
    HostOffer, JobId, JobRequest, Lease, NewJob, Offer, Permit, Phase, Reason, Rescued, Seal, Settled, Store,
    StoreError, UserName, WorkerId, ulid_floor,
};
use sqlx::{
    AssertSqlSafe, PgPool, Postgres,
    postgres::{PgPoolOptions, PgRow},
};

use crate::{
    Line,
    cluster::{self, Cluster, TEMPLATE},
    within,
};

/// The load key of [`Db::new_job`].
pub const LOAD_KEY: &str = "tiny-a";

/// The Ollama host that [`Db::holder`] holds.
const HOST: &str = "test-host";

const SKEW: &str = "
    CREATE SCHEMA IF NOT EXISTS skew;
    CREATE OR REPLACE FUNCTION skew.now() RETURNS timestamptz LANGUAGE sql STABLE
        RETURN pg_catalog.now() + current_setting('skew.by')::interval;
    CREATE OR REPLACE FUNCTION skew.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE
        RETURN pg_catalog.clock_timestamp() + current_setting('skew.by')::interval;";

const CLOCK: &str = "
    CREATE SCHEMA IF NOT EXISTS clock;
    CREATE TABLE clock.setting AS SELECT interval '0' AS ahead;
    CREATE FUNCTION clock.now() RETURNS timestamptz LANGUAGE sql STABLE
        RETURN pg_catalog.now() + (SELECT ahead FROM clock.setting);
    CREATE FUNCTION clock.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE
        RETURN pg_catalog.clock_timestamp() + (SELECT ahead FROM clock.setting);";

/// The database of one test.
#[derive(Debug)]
pub struct Db {
    pub store: Store,
    /// For assertions that bypass the store.
    pub pool: PgPool,
    /// The client that submits [`Db::new_job`].
    pub client: ClientId,
    name: String,
    url: String,
    home: PathBuf,
}

impl Db {
    /// A database in the cluster that the tests of this process share.
    pub async fn fresh() -> Self {
        Self::on(Cluster::shared().await).await
    }

    /// A database in this cluster.
    pub async fn on(cluster: &Cluster) -> Self {
        Self::copied_from(TEMPLATE, cluster).await
    }

    /// An empty database in this cluster, without the schema.
    pub async fn unmigrated(cluster: &Cluster) -> Self {
        Self::copied_from("template0", cluster).await
    }

    async fn copied_from(template: &str, cluster: &Cluster) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("test_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let mut admin = cluster.admin().await.expect("Postgres answers");
        sqlx::raw_sql(AssertSqlSafe(format!("CREATE DATABASE {name} TEMPLATE {template}")))
            .execute(&mut admin)
            .await
            .expect("the template can be copied");
        let url = cluster.url(&name);
        let options = ConnectOptions::new(&url, None, 16, false).expect("our URL is one");
        let pool = PgPoolOptions::new().max_connections(8).connect_lazy(&url).expect("our URL is one");
        let home = cluster.home().to_path_buf();
        Self { store: Store::new(options), pool, client: ClientId::generate(), name, url, home }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// A line to the server of this database.
    pub async fn line(&self) -> Line {
        let (_, place) = self.url.rsplit_once(':').expect("our URL has a port");
        let (port, _) = place.split_once('/').expect("our URL has a path");
        Line::to(port.parse().expect("a port is a number")).await
    }

    /// A line, and a handle that connects through it with this many connections.
    pub async fn store_behind_a_line(&self, pool_size: u32) -> (Line, Store) {
        let line = self.line().await;
        let options = ConnectOptions::new(&line.url(&self.url), None, pool_size, false);
        (line, Store::new(options.expect("our URL is one")))
    }

    /// The handle of another process on the same database: it has its own pool and clock.
    pub fn another_store(&self) -> Store {
        self.connect(4, &[])
    }

    /// A handle with a single connection, whose caches therefore stay in use.
    pub fn one_connection(&self) -> Store {
        self.connect(1, &[])
    }

    /// A handle that soon gives up waiting for a lock.
    pub fn impatient_store(&self) -> Store {
        self.connect(4, &[("lock_timeout", "1s")])
    }

    /// A handle whose connections have these settings of Postgres.
    fn connect(&self, pool_size: u32, settings: &[(&str, &str)]) -> Store {
        let options: Vec<String> =
            settings.iter().map(|(name, value)| format!("-c%20{name}%3D{value}")).collect();
        let url = format!("{}?options={}", self.url, options.join("%20"));
        Store::new(ConnectOptions::new(&url, None, pool_size, false).expect("our URL is one"))
    }

    /// A handle that sees Postgres' clock ahead by this much, or behind: it finds `now()` and `clock_timestamp()` in
    /// a schema of the test that comes before Postgres' own. It has not asked for the time yet.
    pub async fn skewed_store(&self, ahead: TimeDelta) -> Store {
        self.run(SKEW).await;
        let by = format!("{}s", ahead.num_seconds());
        self.connect(4, &[("search_path", "public,skew,pg_catalog"), ("skew.by", &by)])
    }

    /// The same, after it has asked for the time.
    pub async fn store_at(&self, ahead: TimeDelta) -> Store {
        let store = self.skewed_store(ahead).await;
        store.learn_time().await.expect("Postgres answers");
        store
    }

    /// A handle that sees a clock that [`set_clock`](Self::set_clock) can set at any time. It has not asked for the
    /// time yet.
    pub async fn store_with_a_clock(&self) -> Store {
        self.run(CLOCK).await;
        self.connect(4, &[("search_path", "public,clock,pg_catalog")])
    }

    /// The URL of that clock's database, for a process.
    pub async fn url_with_a_clock(&self) -> String {
        self.run(CLOCK).await;
        format!("{}?options=-c%20search_path%3Dpublic,clock,pg_catalog", self.url)
    }

    /// Sets that clock ahead by this much.
    pub async fn set_clock(&self, ahead: TimeDelta) {
        self.run(&format!("UPDATE clock.setting SET ahead = '{} s'", ahead.num_seconds())).await;
    }

    /// Runs statements without the store. Returns how many rows they touched.
    pub async fn run(&self, sql: &str) -> u64 {
        let done = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&self.pool).await;
        done.unwrap_or_else(|error| panic!("{sql}: {error}")).rows_affected()
    }

    /// The single value that a query returns.
    pub async fn value<T>(&self, sql: &str) -> T
    where
        (T,): for<'r> sqlx::FromRow<'r, PgRow>,
        T: Send + Unpin,
    {
        let found =
            sqlx::query_scalar::<Postgres, T>(AssertSqlSafe(sql.to_owned())).fetch_one(&self.pool).await;
        found.unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// The values of the single column that a query returns.
    pub async fn values<T>(&self, sql: &str) -> Vec<T>
    where
        (T,): for<'r> sqlx::FromRow<'r, PgRow>,
        T: Send + Unpin,
    {
        let found =
            sqlx::query_scalar::<Postgres, T>(AssertSqlSafe(sql.to_owned())).fetch_all(&self.pool).await;
        found.unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// A plain chat job of [`Db::client`] that may be changed before it is accepted.
    pub fn new_job(&self) -> NewJob {
        self.job(self.request())
    }

    /// The same, with an id from the clock of this handle.
    pub fn new_job_by(&self, store: &Store) -> NewJob {
        NewJob { id: store.clock().next_job_id(), ..self.new_job() }
    }

    /// A job with this request.
    pub fn job(&self, request: JobRequest) -> NewJob {
        NewJob {
            id: self.store.clock().next_job_id(),
            request,
            api: None,
            run_at: None,
            expires_at: Utc::now() + TimeDelta::days(7),
            retry_of: None,
            traceparent: None,
            idempotency: None,
        }
    }

    /// The request of a plain chat job of [`Db::client`].
    pub fn request(&self) -> JobRequest {
        JobRequest {
            client: self.client,
            user: UserName::default(),
            model: LOAD_KEY.to_owned(),
            model_label: LOAD_KEY.to_owned(),
            load_key: LOAD_KEY.to_owned(),
            path: "/api/chat".to_owned(),
            body: r#"{"model":"tiny-a","messages":[{"role":"user","content":"hello"}],"stream":true}"#
                .to_owned(),
            priority: 0,
            max_attempts: Some(3),
            metadata: None,
            receiver: None,
        }
    }

    /// Makes a client with a key.
    pub async fn new_client(&self, name: &str, is_admin: bool) -> Credentials {
        let made = self.store.create_client(&Seal::new(&[7; 32]), name, is_admin).await;
        made.expect("the name is new and valid")
    }

    /// Accepts this many plain jobs.
    pub async fn accept(&self, count: usize) -> Vec<JobId> {
        let jobs: Vec<NewJob> = (0..count).map(|_| self.new_job()).collect();
        self.accept_all(&jobs).await
    }

    /// Accepts these jobs. Panics if one of them is refused.
    pub async fn accept_all(&self, jobs: &[NewJob]) -> Vec<JobId> {
        let answers = self.store.accept(jobs).await.expect("the jobs can be accepted");
        answers
            .into_iter()
            .map(|answer| match answer {
                Acceptance::Accepted(job) => job,
                refused => panic!("{refused:?}"),
            })
            .collect()
    }

    /// A live worker with a TTL of 20 s, which takes the test's host over from any other worker.
    pub async fn holder(&self) -> Holder {
        self.holder_of(HOST).await
    }

    /// The same with another host.
    pub async fn holder_of(&self, host: &str) -> Holder {
        let worker = WorkerId::generate();
        let ttl = Duration::from_secs(20);
        self.store
            .register_worker(worker, host, &["run", "janitor"], ttl, None)
            .await
            .expect("a worker row can be written");
        self.run(&format!("UPDATE host SET holder = NULL WHERE id = '{host}'")).await;
        let offer = HostOffer { id: host, url: "http://127.0.0.1:11434", slots: 4, ttl };
        self.store
            .take_host(worker, &offer, &[])
            .await
            .expect("a host row can be written")
            .expect("nobody holds it")
    }

    /// The row of a worker as it is now.
    pub async fn heartbeat(&self, holder: &Holder) -> Heartbeat<WorkerId> {
        let heartbeats = self.store.heartbeats().await.expect("the workers can be read");
        heartbeats.into_iter().find(|one| one.id == holder.worker).expect("the worker has a row")
    }

    /// Rescues the jobs of this worker as if it were dead.
    pub async fn rescue_from(&self, holder: &Holder) -> Rescued {
        let dead = self.heartbeat(holder).await;
        self.store.rescue(&[dead]).await.expect("a rescue gets an answer")
    }

    /// Makes this worker look as if it had been silent for an hour, or as if Postgres' clock had been set.
    pub async fn silence(&self, holder: &Holder) {
        let worker = holder.worker.uuid();
        self.run(&format!("UPDATE worker SET renewed_at = now() - interval '1 hour' WHERE id = '{worker}'"))
            .await;
    }

    /// An offer to take this many of [`Db::client`]'s plain jobs, starting at the first.
    pub fn offer(&self, at_most: i32) -> Offer {
        let lower_bound = ulid_floor(DateTime::UNIX_EPOCH);
        Offer {
            load_key: LOAD_KEY.into(),
            client: self.client,
            user: UserName::default(),
            priority: 0,
            sync: false,
            lower_bound,
            at_most,
        }
    }

    /// Renews this worker's row.
    pub async fn renew(&self, holder: &Holder) {
        let worker = holder.worker.uuid();
        self.run(&format!("UPDATE worker SET renewed_at = now() WHERE id = '{worker}'")).await;
    }

    /// Claims up to `limit` of [`Db::client`]'s plain jobs, and then of its sync calls.
    pub async fn claim(&self, holder: &Holder, limit: usize) -> Vec<Claimed> {
        let offer = self.offer(i32::try_from(limit).expect("a claim is small"));
        let calls = Offer { sync: true, ..offer.clone() };
        self.store.claim(holder, &[offer, calls], limit, Permit::Ask).await.expect("a claim gets an answer")
    }

    /// Claims one plain job and begins it.
    pub async fn start(&self, holder: &Holder) -> Lease {
        let lease = self.claim(holder, 1).await.pop().expect("there is a job to claim").lease;
        self.store.begin(&[(&lease, Phase::Working)]).await.expect("a beginning gets an answer");
        lease
    }

    /// Settles these leases, whose attempts have used nothing.
    pub async fn settle(&self, exits: &[(Lease, Exit)]) -> Result<Vec<Settled>, StoreError> {
        self.store.settle(exits, &HashMap::new()).await
    }

    /// The room of a job. Panics if the job is not in exactly one room.
    pub async fn room(&self, job: JobId) -> String {
        let rooms: Vec<String> = sqlx::query_scalar(
            "SELECT 'ready' FROM job_ready WHERE job_id = $1 UNION ALL
             SELECT 'scheduled' FROM job_scheduled WHERE job_id = $1 UNION ALL
             SELECT 'lease' FROM job_lease WHERE job_id = $1 UNION ALL
             SELECT state FROM job_done WHERE job_id = $1",
        )
        .bind(job)
        .fetch_all(&self.pool)
        .await
        .expect("the rooms can be read");
        let [room] = rooms.as_slice() else { panic!("{job} stands in {rooms:?}") };
        room.clone()
    }

    /// The states of a job in the order of `seq`, which must count from 1 without a gap.
    pub async fn history(&self, job: JobId) -> Vec<String> {
        let events: Vec<(i32, String)> = sqlx::query_as(
            "SELECT seq, state FROM outbox WHERE job_id = $1 UNION ALL
             SELECT seq, state FROM job_event WHERE job_id = $1 ORDER BY seq",
        )
        .bind(job)
        .fetch_all(&self.pool)
        .await
        .expect("the events can be read");
        let numbers: Vec<i32> = events.iter().map(|(seq, _)| *seq).collect();
        assert!(numbers.iter().copied().eq((1..).take(numbers.len())), "{job} has the events {events:?}");
        events.into_iter().map(|(_, state)| state).collect()
    }

    /// Waits until every job has ended.
    pub async fn every_job_ends(&self) {
        within(Duration::from_secs(120), "the end of every job", async || {
            let left: i64 =
                self.value("SELECT (SELECT count(*) FROM job) - (SELECT count(*) FROM job_done)").await;
            if left == 0 { Ok(()) } else { Err(format!("{left} have not ended")) }
        })
        .await;
    }

    /// Postgres' time now.
    pub async fn now(&self) -> DateTime<Utc> {
        self.value("SELECT clock_timestamp()").await
    }

    /// Proves the first rule for every job in the database.
    pub async fn every_job_has_one_room(&self) {
        let misplaced = self.store.misplaced_jobs(10).await.expect("the rooms can be read");
        assert!(misplaced.is_empty(), "in no room or in several: {misplaced:?}");
    }

    /// Panics unless the usage has each ended job and its tokens once, whether it is added up or not.
    pub async fn every_end_is_counted_once(&self) {
        let wrong: Vec<String> = self
            .values(
                "WITH used AS (
                     SELECT client_id, user_name, model, sum(done) AS done, sum(failed) AS failed,
                            sum(cancelled) AS cancelled, sum(expired) AS expired, sum(prompt_tokens) AS prompt,
                            sum(completion_tokens) AS completion
                     FROM (SELECT client_id, user_name, model, done, failed, cancelled, expired, prompt_tokens,
                                  completion_tokens FROM usage_entry
                           UNION ALL
                           SELECT client_id, user_name, model, done, failed, cancelled, expired, prompt_tokens,
                                  completion_tokens FROM usage_hour) AS u
                     GROUP BY client_id, user_name, model
                 ), jobs AS (
                     SELECT j.client_id, j.user_name, split_part(j.load_key, ' ', 1) AS model,
                            count(*) FILTER (WHERE d.state = 'done') AS done,
                            count(*) FILTER (WHERE d.state = 'failed') AS failed,
                            count(*) FILTER (WHERE d.state = 'cancelled') AS cancelled,
                            count(*) FILTER (WHERE d.state = 'expired') AS expired,
                            coalesce(sum(d.prompt_tokens), 0) AS prompt,
                            coalesce(sum(d.completion_tokens), 0) AS completion
                     FROM job j JOIN job_done d ON d.job_id = j.id GROUP BY 1, 2, 3
                 )
                 SELECT used::text || ' for ' || coalesce(jobs::text, 'no ended job')
                 FROM used FULL JOIN jobs USING (client_id, user_name, model)
                 WHERE (coalesce(used.done, 0), coalesce(used.failed, 0), coalesce(used.cancelled, 0),
                        coalesce(used.expired, 0), coalesce(used.prompt, 0), coalesce(used.completion, 0))
                    <> (coalesce(jobs.done, 0), coalesce(jobs.failed, 0), coalesce(jobs.cancelled, 0),
                        coalesce(jobs.expired, 0), coalesce(jobs.prompt, 0), coalesce(jobs.completion, 0))",
            )
            .await;
        assert!(wrong.is_empty(), "{wrong:?}");
    }
}

impl Drop for Db {
    fn drop(&mut self) {
        if thread::panicking() {
            cluster::keep(&self.home, &self.name);
        }
    }
}

/// A success with a tiny result that no test looks at.
pub fn success() -> Exit {
    Exit::Done(Completion {
        completion: br#"{"message":{"role":"assistant","content":"hi"},"done":true}"#.to_vec(),
        content_type: "application/json".to_owned(),
        prompt_tokens: Some(3),
        completion_tokens: Some(1),
    })
}

/// A reason to fail, retry or hand back.
pub fn reason() -> Reason {
    Reason { error: "the runner stopped".to_owned(), code: "runner_stopped".to_owned() }
}

/// The same lease again, for a holder that repeats a settle because the answer was lost.
pub fn copy_of(lease: &Lease) -> Lease {
    Lease { job_id: lease.job_id, no: lease.no }
}
