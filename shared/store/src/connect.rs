//! How a process reaches Postgres: one pool for its work, and now and then a connection of its own.

use std::{str::FromStr, time::Duration};

use sqlx::{
    ConnectOptions as _, Connection, PgConnection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tracing::log::LevelFilter;

use crate::{Clock, Conn, StoreError, own_connection::OwnConnection};

/// How long a caller waits for a connection before it is told that Postgres is away.
pub(crate) const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection that lay idle for longer is tried before it is used: Postgres may have restarted meanwhile. Under
/// load none lies idle for so long, and the trial costs nothing.
pub(crate) const TRUSTED_IDLE: Duration = Duration::from_secs(1);

/// Our statements name the rows they want by key. A plan made while a table was empty, or thought to be, scans it or
/// hashes it whole, and a prepared statement keeps that plan while the table grows: an accept then waits 284 ms
/// instead of 6.7. So plans that read whole tables are the last choice here, and none is worth compiling.
///
/// Nor do our plans depend on the values, yet an array that is known looks cheaper than one that is not, so that
/// Postgres would plan every execution anew: 4.8 ms for a `GET /jobs/{id}` that runs in 0.9.
const PLANNER: [(&str, &str); 5] = [
    ("enable_seqscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("jit", "off"),
    ("plan_cache_mode", "force_generic_plan"),
];

/// How the transactions of a checkup begin. Whoever waits for its answer waits no longer than this.
const BEGIN_CHECKUP: &str = "BEGIN READ ONLY; SET LOCAL statement_timeout = '20s'";

/// Where Postgres is and how it is spoken to.
#[derive(Debug, Clone)]
pub struct ConnectOptions {
    pub(crate) pooled: PgConnectOptions,
    pub(crate) direct: PgConnectOptions,
    pool_size: u32,
    pgbouncer: bool,
    begin: &'static str,
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
        let direct = direct_url.map_or_else(|| Ok(pooled.clone()), parse)?;
        // A pooler refuses settings at the start of a connection, our library's own among them; through it every
        // statement is planned anew anyway.
        let pooled = if pgbouncer { pooled.extra_float_digits(None) } else { pooled.options(PLANNER) };
        Ok(Self { pooled, direct, pool_size, pgbouncer, begin: "BEGIN" })
    }

    /// For one who only looks: nothing can be written, no statement outlives its bound, and a pooler may stand in
    /// between whether anybody said so or not.
    pub fn for_checkup(url: &str, direct_url: Option<&str>) -> Result<Self, sqlx::Error> {
        Ok(Self { begin: BEGIN_CHECKUP, ..Self::new(url, direct_url, 2, true)? })
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
    /// The statement that begins a transaction.
    begin: &'static str,
    clock: Clock,
}

impl Store {
    /// A store whose connections are made when they are first needed: Postgres may come later than we do.
    pub fn new(options: ConnectOptions) -> Self {
        let ConnectOptions { pooled, direct, pool_size, pgbouncer, begin } = options;
        let pool = PgPoolOptions::new()
            .max_connections(pool_size)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .test_before_acquire(false)
            .before_acquire(|connection, meta| {
                Box::pin(async move {
                    if meta.idle_for > TRUSTED_IDLE {
                        connection.ping().await?;
                    }
                    Ok(true)
                })
            })
            .connect_lazy_with(pooled.clone());
        Self { pool, own: None, pooled, direct, pgbouncer, begin, clock: Clock::default() }
    }

    /// A handle with a connection of its own beside the pool, for a loop that runs the same few statements over and over.
    /// Behind a transaction pooler nobody has one, and the handle is like any other.
    pub fn on_own_connection(&self) -> Self {
        let own = (!self.pgbouncer).then(|| OwnConnection::new(self.pooled.clone()));
        Self { own, ..self.clone() }
    }

    /// What this process has learned of Postgres' time.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// A connection on which each statement commits by itself. Through a transaction pooler the whole unit is one
    /// transaction, or the server could change between preparing a statement and running it.
    pub(crate) async fn open(&self) -> Result<Conn, StoreError> {
        match &self.own {
            _ if self.pgbouncer => self.open_transaction().await,
            Some(own) => Ok(Conn::own(own.borrow().await?)),
            None => Ok(Conn::autocommit(self.pool.acquire().await?)),
        }
    }

    /// A connection with a transaction begun on it.
    pub async fn open_transaction(&self) -> Result<Conn, StoreError> {
        Ok(Conn::transaction(self.pool.begin_with(self.begin).await?, !self.pgbouncer))
    }

    /// A connection outside the pool and past any pooler, for what belongs to a session: migrations, LISTEN.
    pub(crate) async fn connect_directly(&self) -> Result<PgConnection, StoreError> {
        Ok(self.direct.connect().await?)
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
        let mut conn = self.open().await?;
        sqlx::query_scalar!("SELECT 1 AS one").fetch_one(&mut conn).await?;
        Ok(conn.done().await?)
    }

    /// Closes the pool once its connections are back.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}
