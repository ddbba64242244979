//! A connection that one loop keeps to itself. What a loop runs over and over is planned once there, and not on each
//! connection of the pool in turn; nor does every statement pay for the round trip with which the pool tries what it
//! gets back. Must never be given back by a unit of work that failed: whatever state that left ends with it.

use std::{sync::Arc, time::Duration};

use sqlx::{ConnectOptions as _, Connection as _, PgConnection, postgres::PgConnectOptions};
use tokio::{
    sync::{Mutex, OwnedMutexGuard},
    time::{Instant, timeout},
};

use crate::db::deadline::{ACQUIRE_TIMEOUT, TRIAL_WITHIN, TRUSTED_IDLE};

/// As the pool has it: what a server process gathers in memory does not stay for ever.
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

/// The connection while a unit of work has it.
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

    /// The connection that is kept, or a new one where that is old or does not answer.
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

/// Whether a connection that lay idle still leads to Postgres.
pub(crate) async fn answers(connection: &mut PgConnection) -> bool {
    matches!(timeout(TRIAL_WITHIN, connection.ping()).await, Ok(Ok(())))
}

impl Borrowed {
    /// Keeps the connection for the next unit of work.
    pub(crate) fn give_back(mut self) {
        *self.place = Some(Kept { connection: self.connection, made: self.made, used: Instant::now() });
    }
}
