//! A connection that one loop keeps for itself. Its statements are planned once on this connection, not once per
//! connection of the pool. It also saves the round trip with which the pool pings each returned connection.
//!
//! Must never be kept after a unit of work that failed, because the failure may have left any state on it.

use std::{sync::Arc, time::Duration};

use sqlx::{ConnectOptions as _, Connection as _, PgConnection, postgres::PgConnectOptions};
use tokio::{
    sync::{Mutex, OwnedMutexGuard},
    time::{Instant, timeout},
};

use crate::db::deadline::{ACQUIRE_TIMEOUT, TRIAL_WITHIN, TRUSTED_IDLE};

/// The same as for the pool's connections: it bounds the memory that a server process accumulates.
const LONGEST_LIFE: Duration = Duration::from_secs(30 * 60);

#[derive(Debug, Clone)]
pub(crate) struct OwnConnection {
    options: PgConnectOptions,
    kept: Arc<Mutex<Option<Kept>>>,
}

#[derive(Debug)]
struct Kept {
    connection: PgConnection,
    made: Instant,
    used: Instant,
}

/// The connection while a unit of work uses it.
#[derive(Debug)]
pub(crate) struct Borrowed {
    pub(crate) connection: PgConnection,
    made: Instant,
    place: OwnedMutexGuard<Option<Kept>>,
}

impl OwnConnection {
    pub(crate) fn new(options: PgConnectOptions) -> Self {
        Self { options, kept: Arc::default() }
    }

    /// The kept connection, or a new one if the kept one is old or does not answer.
    pub(crate) async fn borrow(&self) -> Result<Borrowed, sqlx::Error> {
        let borrow = async {
            let mut place = Arc::clone(&self.kept).lock_owned().await;
            if let Some(Kept { mut connection, made, used }) = place.take()
                && made.elapsed() < LONGEST_LIFE
                && (used.elapsed() < TRUSTED_IDLE || answers(&mut connection).await)
            {
                return Ok(Borrowed { connection, made, place });
            }
            Ok(Borrowed { connection: self.options.connect().await?, made: Instant::now(), place })
        };
        timeout(ACQUIRE_TIMEOUT, borrow).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
    }
}

/// Whether a connection that was idle still leads to Postgres.
pub(crate) async fn answers(connection: &mut PgConnection) -> bool {
    matches!(timeout(TRIAL_WITHIN, connection.ping()).await, Ok(Ok(())))
}

impl Borrowed {
    /// Keeps the connection for the next unit of work.
    pub(crate) fn give_back(mut self) {
        *self.place = Some(Kept { connection: self.connection, made: self.made, used: Instant::now() });
    }
}
