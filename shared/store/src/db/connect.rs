//! How a process connects to Postgres: one pool for most of its work, and a connection of its own for each hot loop.
//!
//! Must never require that Postgres is there when the process starts.

use std::{
    str::FromStr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use chrono::TimeDelta;
use sqlx::{
    ConnectOptions as _, PgConnection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::time::timeout;
use tracing::log::LevelFilter;

use crate::db::clock::Clock;
use crate::db::conn::Conn;
use crate::db::deadline::{ACQUIRE_TIMEOUT, Deadline, LOCK_WAIT, TRUSTED_IDLE};
use crate::db::error::StoreError;
use crate::db::own_connection::{OwnConnection, answers};
use crate::db::wake::Wakeups;

/// Planner settings for our statements, which name the rows they want by key.
///
/// A plan that Postgres makes while a table is empty, or seems to be, scans or hashes the whole table. A prepared
/// statement keeps this plan while the table grows: an accept then takes 284 ms instead of 6.7 ms. So these settings
/// make plans that read whole tables the last choice. They also switch off bitmap scans, which lose the order of the
/// index: to find one row, such a plan reads and sorts all the rows that may follow. Compiling a plan (`jit`) never
/// pays here.
///
/// Our plans do not depend on the values of the parameters. But Postgres estimates an array of known values as
/// cheaper than one of unknown values, and would plan each execution anew: 4.8 ms for a `GET /jobs/{id}` that runs in
/// 0.9 ms. So it must use the generic plan.
const PLANNER: [(&str, &str); 6] = [
    ("enable_seqscan", "off"),
    ("enable_bitmapscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("jit", "off"),
    ("plan_cache_mode", "force_generic_plan"),
];

/// Without these settings a server process lives for hours after its client has vanished silently, and works on after
/// its client has hung up.
const TO_A_CLIENT_THAT_IS_GONE: [(&str, &str); 5] = [
    // Postgres probes a silent client after 10 s, and gives it up 15 s later.
    ("tcp_keepalives_idle", "10s"),
    ("tcp_keepalives_interval", "5s"),
    ("tcp_keepalives_count", "3"),
    // Postgres gives the client up when sent bytes stay unacknowledged for this long.
    ("tcp_user_timeout", "20s"),
    // While a statement runs, Postgres checks this often whether the client is still connected.
    ("client_connection_check_interval", "2s"),
];

/// Where Postgres is, and how we connect to it.
#[derive(Debug, Clone)]
pub struct ConnectOptions {
    pub(crate) pooled: PgConnectOptions,
    pub(crate) direct: PgConnectOptions,
    pool_size: u32,
    pgbouncer: bool,
    begin: Arc<str>,
    deadline: Deadline,
}

impl ConnectOptions {
    /// `url` may lead through a transaction pooler; then set `pgbouncer`. `direct_url` must lead to Postgres itself.
    pub fn new(
        url: &str,
        direct_url: Option<&str>,
        pool_size: u32,
        pgbouncer: bool,
    ) -> Result<Self, sqlx::Error> {
        let parse = |url: &str| -> Result<PgConnectOptions, sqlx::Error> {
            Ok(PgConnectOptions::from_str(url)?
                .application_name("foreman")
                .log_statements(LevelFilter::Off)
                .log_slow_statements(LevelFilter::Warn, Duration::from_secs(2)))
        };
        let pooled = parse(url)?;
        let direct = direct_url.map_or_else(|| Ok(pooled.clone()), parse)?.options(TO_A_CLIENT_THAT_IS_GONE);
        // A pooler refuses settings at the start of a connection, including those of sqlx. So each transaction
        // through a pooler sets the planner's settings and its own deadlines. Without the planner's settings Postgres
        // compiles a `GET /jobs/{id}` for 2 s.
        let mut begin = String::from("BEGIN");
        let pooled = if pgbouncer {
            begin.extend(PLANNER.map(|(name, value)| format!("; SET LOCAL {name} = {value}")));
            pooled.extra_float_digits(None)
        } else {
            let (statement, lock) = (Deadline::USUAL.at_server().as_millis(), LOCK_WAIT.as_millis());
            pooled
                .options(PLANNER)
                .options(TO_A_CLIENT_THAT_IS_GONE)
                .options([("statement_timeout", statement), ("lock_timeout", lock)])
        };
        Ok(Self { pooled, direct, pool_size, pgbouncer, begin: begin.into(), deadline: Deadline::USUAL })
    }

    /// Options for `foreman doctor`, which only reads: it can write nothing, each of its statements has a deadline,
    /// and it works through a pooler even if nobody said that there is one.
    pub fn for_checkup(url: &str, direct_url: Option<&str>) -> Result<Self, sqlx::Error> {
        let usual = Self::new(url, direct_url, 2, true)?;
        Ok(Self { begin: "BEGIN READ ONLY".into(), deadline: Deadline::CHECKUP, ..usual })
    }
}

/// A handle on one Postgres. Clones share its pool.
#[derive(Debug, Clone)]
pub struct Store {
    pool: PgPool,
    own: Option<OwnConnection>,
    pooled: PgConnectOptions,
    direct: PgConnectOptions,
    pgbouncer: bool,
    /// The statements that begin a transaction.
    begin: Arc<str>,
    deadline: Deadline,
    clock: Clock,
    wakeups: Wakeups,
}

impl Store {
    /// A store that connects when a connection is first needed, because Postgres may start later than this process.
    pub fn new(options: ConnectOptions) -> Self {
        let ConnectOptions { pooled, direct, pool_size, pgbouncer, begin, deadline } = options;
        let pool = PgPoolOptions::new()
            .max_connections(pool_size)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .test_before_acquire(false)
            .before_acquire(|connection, meta| {
                Box::pin(async move { Ok(meta.idle_for <= TRUSTED_IDLE || answers(connection).await) })
            })
            .connect_lazy_with(pooled.clone());
        Self {
            pool,
            own: None,
            pooled,
            direct,
            pgbouncer,
            begin,
            deadline,
            clock: Clock::default(),
            wakeups: Wakeups::default(),
        }
    }

    /// A handle with a connection of its own beside the pool, for a loop that repeats the same few statements. Behind
    /// a transaction pooler no loop gets one, and this handle uses the pool like any other.
    pub fn on_own_connection(&self) -> Self {
        self.with_own(self.pooled.clone())
    }

    /// Like [`on_own_connection`](Self::on_own_connection), but Postgres does not wait for the disk before it reports
    /// a commit. Use it only for writes that were promised to nobody and that the loop would find and do again. A
    /// crash of Postgres may undo the last of these commits (those of half a second, at the default of
    /// `wal_writer_delay`), but no commit that a later, flushed commit has seen.
    pub fn on_own_unflushed_connection(&self) -> Self {
        self.with_own(unflushed(&self.pooled))
    }

    fn with_own(&self, options: PgConnectOptions) -> Self {
        Self { own: (!self.pgbouncer).then(|| OwnConnection::new(options)), ..self.clone() }
    }

    /// A handle whose statements have `factor` times as much time to carry their bytes. Use it after a statement got
    /// no answer in time: with the same deadline the repetition would fail too.
    pub fn on_slower_line(&self, factor: u32) -> Self {
        Self { deadline: self.deadline.on_slower_line(factor), ..self.clone() }
    }

    /// What this process has learned about Postgres' time.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The wake-ups of this process. Each write announces itself; the process must run [`Wakeups::run`], which
    /// carries the wake-ups to the other processes.
    pub fn wakeups(&self) -> &Wakeups {
        &self.wakeups
    }

    /// A connection on which each statement commits by itself and has the usual deadline. Through a transaction
    /// pooler the whole unit of work is one transaction; otherwise the pooler could change servers between preparing
    /// a statement and running it.
    pub(crate) async fn open(&self) -> Result<Conn, StoreError> {
        self.unit(self.deadline, self.pgbouncer).await
    }

    /// A connection for statements that carry this many bytes, in either direction: their deadline is extended by the
    /// time that a slow line needs for the bytes. If the extension is long, the unit of work is one transaction.
    pub(crate) async fn open_for(&self, bytes: u64) -> Result<Conn, StoreError> {
        let deadline = self.deadline.carrying(bytes);
        self.unit(deadline, self.pgbouncer || !deadline.is_usual()).await
    }

    /// A connection for upkeep that may read a whole table: one transaction, with minutes for each statement.
    pub(crate) async fn open_for_upkeep(&self) -> Result<Conn, StoreError> {
        self.unit(Deadline::UPKEEP, true).await
    }

    /// A connection with an open transaction.
    pub async fn open_transaction(&self) -> Result<Conn, StoreError> {
        self.unit(self.deadline, true).await
    }

    async fn unit(&self, deadline: Deadline, is_transaction: bool) -> Result<Conn, StoreError> {
        let open = async {
            let mut conn = match &self.own {
                Some(own) => Conn::own(own.borrow().await?, deadline),
                None => Conn::pooled(self.pool.acquire().await?, deadline, !self.pgbouncer),
            };
            if is_transaction {
                conn.begin(&self.begin).await?;
            }
            Ok(conn)
        };
        // Whatever failed, Postgres was not asked for anything yet.
        open.await.map_err(StoreError::unreached)
    }

    /// A connection outside the pool that bypasses any pooler, for work that needs a session: migrations and LISTEN.
    pub(crate) async fn connect_directly(&self) -> Result<PgConnection, StoreError> {
        Self::connect(&self.direct).await
    }

    /// Like [`connect_directly`](Self::connect_directly), but Postgres does not wait for the disk before it reports a commit.
    pub(crate) async fn connect_directly_unflushed(&self) -> Result<PgConnection, StoreError> {
        Self::connect(&unflushed(&self.direct)).await
    }

    async fn connect(options: &PgConnectOptions) -> Result<PgConnection, StoreError> {
        let connected = timeout(ACQUIRE_TIMEOUT, options.connect()).await;
        connected.unwrap_or(Err(sqlx::Error::PoolTimedOut)).map_err(StoreError::unreached)
    }

    /// A pool of one connection that bypasses any pooler, because sqlx's listener needs a pool.
    pub(crate) fn direct_pool(&self) -> PgPool {
        PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .connect_lazy_with(self.direct.clone())
    }

    /// Whether Postgres answers.
    pub async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query_scalar!(
            "-- ping
            SELECT 1 AS one"
        )
        .fetch_one(self.once())
        .await?;
        Ok(())
    }

    /// Asks Postgres for its time. Returns how far, by this answer, Postgres is ahead of this machine.
    pub async fn learn_time(&self) -> Result<TimeDelta, StoreError> {
        let mut conn = self.open().await?;
        let asked = SystemTime::now();
        let now = sqlx::query_scalar!(
            r#"-- learn_time
            SELECT clock_timestamp() AS "now!""#
        )
        .fetch_one(&mut conn)
        .await?;
        let offset = self.clock().learn(asked, now);
        conn.done().await?;
        Ok(offset)
    }

    /// Closes the pool after all of its connections have been returned.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

/// With these options Postgres does not wait for the disk before it reports a commit.
fn unflushed(options: &PgConnectOptions) -> PgConnectOptions {
    options.clone().options([("synchronous_commit", "off")])
}
