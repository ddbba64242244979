//! One statement as a unit of work of its own: one call takes a connection, runs the statement and ends the unit. So
//! no caller can forget to end the unit; through a transaction pooler that would silently undo a write.
//!
//! Must never be used for many large rows, because all rows are in memory before the first one is decoded. Must never
//! be used to measure the time of an answer, because the wait for a connection would be part of the measured time. In
//! both cases open the unit of work by hand.

use futures_util::{
    FutureExt, StreamExt, TryFutureExt, TryStreamExt, future::BoxFuture, stream, stream::BoxStream,
};
use sqlx::{
    Either, Execute, Executor, Postgres, SqlStr,
    postgres::{PgQueryResult, PgRow, PgStatement, PgTypeInfo},
};

use crate::db::conn::Conn;
use crate::db::connect::Store;
use crate::db::error::StoreError;

/// Runs one statement on a connection taken for this statement alone.
#[derive(Debug)]
pub(crate) struct Once<'s> {
    store: &'s Store,
    bytes: u64,
}

impl Store {
    /// For one statement that is a unit of work by itself.
    pub(crate) fn once(&self) -> Once<'_> {
        self.once_for(0)
    }

    /// The same for a statement that carries this many bytes, in either direction.
    pub(crate) fn once_for(&self, bytes: u64) -> Once<'_> {
        Once { store: self, bytes }
    }
}

impl Once<'_> {
    async fn run<T>(
        self,
        statement: impl AsyncFnOnce(&mut Conn) -> Result<T, sqlx::Error>,
    ) -> Result<T, sqlx::Error> {
        let mut conn = self.store.open_for(self.bytes).await.map_err(StoreError::through_sqlx)?;
        let answer = statement(&mut conn).await?;
        conn.done().await?;
        Ok(answer)
    }
}

impl<'c> Executor<'c> for Once<'c> {
    type Database = Postgres;

    /// Collects all rows and ends the unit of work before it yields the first row.
    fn fetch_many<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        self.run(async |conn: &mut Conn| conn.fetch_many(query).try_collect::<Vec<_>>().await)
            .map_ok(|rows| stream::iter(rows).map(Ok))
            .try_flatten_stream()
            .boxed()
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        self.run(async |conn: &mut Conn| conn.fetch_optional(query).await).boxed()
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement, sqlx::Error>>
    where
        'c: 'e,
    {
        self.run(async |conn: &mut Conn| conn.prepare_with(sql, parameters).await).boxed()
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<sqlx::Describe<Postgres>, sqlx::Error>>
    where
        'c: 'e,
    {
        self.run(async |conn: &mut Conn| conn.describe(sql).await).boxed()
    }
}
