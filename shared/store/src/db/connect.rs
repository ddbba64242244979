//! How a process reaches Postgres: one pool for its work, and now and then a connection of its own.

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

use crate::db::conn::Conn;
use crate::db::deadline::{ACQUIRE_TIMEOUT, Deadline, LOCK_WAIT, TRUSTED_IDLE};
use crate::db::error::StoreError;
use crate::db::moment::Clock;
use crate::db::own_connection::{OwnConnection, answers};
use crate::db::wake::Wakeups;

/// Our statements name the rows they want by key. A plan made while a table was empty, or thought to be, scans it or
/// hashes it whole, and a prepared statement keeps that plan while the table grows: an accept then waits 284 ms
/// instead of 6.7. So plans that read whole tables are the last choice here, and none is worth compiling. Nor are those that
/// gather rows in a bitmap: they lose the index's order, and where one row is wanted they read and sort all that may follow.
///
/// Nor do our plans depend on the values, yet an array that is known looks cheaper than one that is not, so that
/// Postgres would plan every execution anew: 4.8 ms for a `GET /jobs/{id}` that runs in 0.9.
const PLANNER: [(&str, &str); 6] = [
    ("enable_seqscan", "off"),
    ("enable_bitmapscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("jit", "off"),
    ("plan_cache_mode", "force_generic_plan"),
];

/// Without these a server process stays for hours where its client has vanished without a word, and works on where its
/// client has hung up.
const TO_A_CLIENT_THAT_IS_GONE: [(&str, &str); 5] = [
    // A silent client is asked after 10 s, and given up 15 s later.
    ("tcp_keepalives_idle", "10s"),
    ("tcp_keepalives_interval", "5s"),
    ("tcp_keepalives_count", "3"),
    // What we are sent and do not acknowledge for this long never reaches us.
    ("tcp_user_timeout", "20s"),
    // While a statement runs, this often it is looked whether its client is still there.
    ("client_connection_check_interval", "2s"),
];

/// Where Postgres is and how it is spoken to.
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
    /// `url` may lead through a transaction pooler (then say `pgbouncer`), `direct_url` must not.
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
        // A pooler refuses settings at the start of a connection, our library's own among them. Through it each transaction
        // makes the planner's settings and its own deadlines: without the former a `GET /jobs/{id}` is compiled for 2 s.
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

    /// For one who only looks: nothing can be written, no statement outlives its bound, and a pooler may stand in
    /// between whether anybody said so or not.
    pub fn for_checkup(url: &str, direct_url: Option<&str>) -> Result<Self, sqlx::Error> {
        let usual = Self::new(url, direct_url, 2, true)?;
        Ok(Self { begin: "BEGIN READ ONLY".into(), deadline: Deadline::CHECKUP, ..usual })
    }
}

/// A handle on one Postgres; clones share its pool.
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
    /// A store whose connections are made when they are first needed: Postgres may come later than we do.
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

    /// A handle with a connection of its own beside the pool, for a loop that runs the same few statements over and over.
    /// Behind a transaction pooler nobody has one, and the handle is like any other.
    pub fn on_own_connection(&self) -> Self {
        self.with_own(self.pooled.clone())
    }

    /// The same for one whose writes nobody was promised, and who would find all of them still to be done: Postgres does not
    /// wait for the disk before it says that they are committed. A crash may undo the last of them (half a second's at the
    /// default of `wal_writer_delay`), but none that a later commit, which did wait, could have seen.
    pub fn on_own_unflushed_connection(&self) -> Self {
        self.with_own(self.pooled.clone().options([("synchronous_commit", "off")]))
    }

    fn with_own(&self, options: PgConnectOptions) -> Self {
        Self { own: (!self.pgbouncer).then(|| OwnConnection::new(options)), ..self.clone() }
    }

    /// A handle whose statements have `factor` times as long for the bytes that they carry. For whoever was not answered
    /// in time: what did not get through once would not the next time either.
    pub fn on_slower_line(&self, factor: u32) -> Self {
        Self { deadline: self.deadline.on_slower_line(factor), ..self.clone() }
    }

    /// What this process has learned of Postgres' time.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The wake-ups of this process. Writes tell of themselves; somebody must [carry](Wakeups::run) them to the others.
    pub fn wakeups(&self) -> &Wakeups {
        &self.wakeups
    }

    /// A connection on which each statement commits by itself, and has the usual deadline. Through a transaction pooler
    /// the whole unit is one transaction, or the server could change between preparing a statement and running it.
    pub(crate) async fn open(&self) -> Result<Conn, StoreError> {
        self.unit(self.deadline, self.pgbouncer).await
    }

    /// The same for statements that carry so many bytes, there or back: their deadline is later by the time that a slow
    /// line needs for that. Where that is much later, the unit is one transaction.
    pub(crate) async fn open_for(&self, bytes: u64) -> Result<Conn, StoreError> {
        let deadline = self.deadline.carrying(bytes);
        self.unit(deadline, self.pgbouncer || !deadline.is_usual()).await
    }

    /// The same for upkeep that may go over a whole table: one transaction, with minutes for each statement.
    pub(crate) async fn open_for_upkeep(&self) -> Result<Conn, StoreError> {
        self.unit(Deadline::UPKEEP, true).await
    }

    /// A connection with a transaction begun on it.
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
        // Nothing was asked yet, whatever failed.
        open.await.map_err(StoreError::unreached)
    }

    /// A connection outside the pool and past any pooler, for what belongs to a session: migrations, LISTEN.
    pub(crate) async fn connect_directly(&self) -> Result<PgConnection, StoreError> {
        let connected = timeout(ACQUIRE_TIMEOUT, self.direct.connect()).await;
        connected.unwrap_or(Err(sqlx::Error::PoolTimedOut)).map_err(StoreError::unreached)
    }

    /// A pool of one connection past any pooler, as a listener wants it.
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

    /// Asks Postgres for its time, and returns how far it is ahead of this machine by this answer.
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

    /// Closes the pool once its connections are back.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}
