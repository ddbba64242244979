//! A new, migrated database for each test, handles on it, and what every test may ask of it. A failing test keeps its
//! database and prints how to open it.

mod steps;

use std::{
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use foreman_store::{ClientId, ConnectOptions, JobId, Store};
use sqlx::{
    AssertSqlSafe, PgPool, Postgres,
    postgres::{PgPoolOptions, PgRow},
};

use crate::{
    Line,
    cluster::{self, Cluster, TEMPLATE},
    within,
};

pub use steps::{LOAD_KEY, copy_of, endpoint_at, reason, success};

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
