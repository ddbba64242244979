//! A connection for one unit of work. Its user need not know whether it leads to Postgres directly or through a
//! transaction pooler. Every statement on it has a deadline.
//!
//! Must never be used again after a statement on it passed its deadline or was broken off: such a connection is
//! closed, so that no later work waits for whatever the statement waits for.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::{FutureExt, Stream, StreamExt, future::BoxFuture, stream, stream::BoxStream};
use sqlx::{
    AssertSqlSafe, Either, Execute, Executor, PgConnection, Postgres, SqlStr,
    error::BoxDynError,
    pool::PoolConnection,
    postgres::{PgArguments, PgQueryResult, PgRow, PgStatement, PgTypeInfo},
};
use tokio::{
    runtime,
    time::{Sleep, sleep, timeout},
};

use crate::db::deadline::{Deadline, TRIAL_WITHIN};
use crate::db::error;
use crate::db::own_connection::Borrowed;

/// A connection taken from the pool, or the own connection of a loop. Statements run on `&mut conn`.
/// [`done`](Self::done) ends the unit of work; dropping the connection without it rolls an open transaction back.
#[derive(Debug)]
pub struct Conn {
    /// `None` only after the unit of work has ended.
    line: Option<Line>,
    in_transaction: bool,
    deadline: Deadline,
    /// False while a statement runs, and after one was broken off or met an error that makes the connection unsafe to
    /// reuse.
    sound: bool,
    named_statements: bool,
}

#[derive(Debug)]
enum Line {
    Pooled(PoolConnection<Postgres>),
    Own(Borrowed),
}

impl Line {
    fn raw(&mut self) -> &mut PgConnection {
        match self {
            Self::Pooled(connection) => connection,
            Self::Own(borrowed) => &mut borrowed.connection,
        }
    }
}

impl Conn {
    pub(crate) fn pooled(
        connection: PoolConnection<Postgres>,
        deadline: Deadline,
        named_statements: bool,
    ) -> Self {
        Self::new(Line::Pooled(connection), deadline, named_statements)
    }

    pub(crate) fn own(borrowed: Borrowed, deadline: Deadline) -> Self {
        Self::new(Line::Own(borrowed), deadline, true)
    }

    fn new(line: Line, deadline: Deadline, named_statements: bool) -> Self {
        Self { line: Some(line), in_transaction: false, deadline, sound: true, named_statements }
    }

    /// Begins a transaction. Its statements have the same deadline at Postgres as here.
    pub(crate) async fn begin(&mut self, begin: &str) -> Result<(), sqlx::Error> {
        // Set before the answer, because the transaction may have begun even if no answer comes.
        self.in_transaction = true;
        let begin = format!("{begin}; {}", self.deadline.settings());
        sqlx::raw_sql(AssertSqlSafe(begin)).execute(&mut *self).await?;
        Ok(())
    }

    pub(crate) fn deadline(&self) -> Deadline {
        self.deadline
    }

    /// Ends the unit of work and commits an open transaction.
    pub async fn done(mut self) -> Result<(), sqlx::Error> {
        if self.in_transaction {
            sqlx::raw_sql("COMMIT").execute(&mut self).await?;
            self.in_transaction = false;
        }
        if self.sound
            && let Some(Line::Own(borrowed)) = self.line.take_if(|line| matches!(line, Line::Own(_)))
        {
            borrowed.give_back();
        }
        Ok(())
    }

    /// What one statement needs: the connection, and the place to record that the connection is sound again.
    fn statement(&mut self) -> Result<(&mut PgConnection, Statement<'_>), sqlx::Error> {
        let limit = self.deadline.at_client();
        match &mut self.line {
            Some(line) if self.sound => {
                self.sound = false;
                Ok((line.raw(), Statement { limit, sound: &mut self.sound }))
            }
            // The caller went on after a failure that it should have returned.
            _ => Err(io::Error::new(
                io::ErrorKind::NotConnected,
                "the connection was given up after a failed statement",
            )
            .into()),
        }
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        // An own connection is closed here; only `done` keeps it.
        let Some(Line::Pooled(connection)) = self.line.take() else { return };
        match runtime::Handle::try_current() {
            Ok(runtime) if self.sound => {
                runtime.spawn(give_back(connection, self.in_transaction));
            }
            // Detached and dropped, the connection is closed at once and its place in the pool is free.
            _ => drop(connection.detach()),
        }
    }
}

/// Returns a connection to its pool. The pool pings the connection first, and a silent connection would keep its
/// place in the pool for as long as the ping waits; hence the deadline.
async fn give_back(mut connection: PoolConnection<Postgres>, in_transaction: bool) {
    if in_transaction {
        let undone = timeout(TRIAL_WITHIN, sqlx::raw_sql("ROLLBACK").execute(&mut *connection)).await;
        if !matches!(undone, Ok(Ok(_))) {
            drop(connection.detach());
            return;
        }
    }
    // If the deadline breaks this off, the connection is closed and its place in the pool is free.
    let _ = timeout(TRIAL_WITHIN, connection.return_to_pool()).await;
}

/// One running statement. The connection is not sound until the statement has ended.
struct Statement<'c> {
    limit: Duration,
    sound: &'c mut bool,
}

impl Statement<'_> {
    async fn run<T>(self, answer: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
        let answer = timeout(self.limit, answer).await.unwrap_or_else(|_| Err(silence(self.limit)));
        *self.sound = answer.as_ref().err().is_none_or(error::leaves_connection_sound);
        answer
    }
}

/// The rows of a statement.
struct Rows<'c> {
    rows: BoxStream<'c, Result<Either<PgQueryResult, PgRow>, sqlx::Error>>,
    until: Pin<Box<Sleep>>,
    statement: Statement<'c>,
}

impl Stream for Rows<'_> {
    type Item = Result<Either<PgQueryResult, PgRow>, sqlx::Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let Poll::Ready(row) = this.rows.poll_next_unpin(cx) else {
            ready!(this.until.as_mut().poll(cx));
            return Poll::Ready(Some(Err(silence(this.statement.limit))));
        };
        *this.statement.sound = match &row {
            Some(Ok(_)) => false,
            Some(Err(error)) => error::leaves_connection_sound(error),
            None => true,
        };
        Poll::Ready(row)
    }
}

fn silence(limit: Duration) -> sqlx::Error {
    let said = format!("Postgres did not answer within {} s", limit.as_secs());
    io::Error::new(io::ErrorKind::TimedOut, said).into()
}

/// A query whose statement may have to stay unnamed: a pooler may run the next query on another server, which does
/// not know the name.
struct Named<E> {
    query: E,
    named: bool,
}

impl<'q, E: Execute<'q, Postgres>> Execute<'q, Postgres> for Named<E> {
    fn sql(self) -> SqlStr {
        self.query.sql()
    }

    fn statement(&self) -> Option<&PgStatement> {
        self.query.statement()
    }

    fn take_arguments(&mut self) -> Result<Option<PgArguments>, BoxDynError> {
        self.query.take_arguments()
    }

    fn persistent(&self) -> bool {
        self.named && self.query.persistent()
    }
}

impl<'c> Executor<'c> for &'c mut Conn {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let named = self.named_statements;
        match self.statement() {
            Ok((raw, statement)) => {
                let until = Box::pin(sleep(statement.limit));
                Rows { rows: raw.fetch_many(Named { query, named }), until, statement }.boxed()
            }
            Err(error) => stream::iter([Err(error)]).boxed(),
        }
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let named = self.named_statements;
        async move {
            let (raw, statement) = self.statement()?;
            statement.run(raw.fetch_optional(Named { query, named })).await
        }
        .boxed()
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement, sqlx::Error>>
    where
        'c: 'e,
    {
        async move {
            let (raw, statement) = self.statement()?;
            statement.run(raw.prepare_with(sql, parameters)).await
        }
        .boxed()
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<sqlx::Describe<Postgres>, sqlx::Error>>
    where
        'c: 'e,
    {
        async move {
            let (raw, statement) = self.statement()?;
            statement.run(raw.describe(sql)).await
        }
        .boxed()
    }
}
