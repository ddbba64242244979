//! A connection for one unit of work, the same to its user whether Postgres is spoken to directly or through a
//! transaction pooler.

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::BoxStream};
use sqlx::{
    Either, Execute, Executor, PgConnection, Postgres, SqlStr, Transaction,
    error::BoxDynError,
    pool::PoolConnection,
    postgres::{PgArguments, PgQueryResult, PgRow, PgStatement, PgTypeInfo},
};

use crate::own_connection::Borrowed;

/// A connection taken from the pool, or a loop's own. Statements run on `&mut conn`; [`done`](Self::done) ends the unit,
/// and a drop without it undoes what a transaction had begun.
#[derive(Debug)]
pub struct Conn {
    unit: Unit,
    named_statements: bool,
}

#[derive(Debug)]
enum Unit {
    /// Each statement commits by itself.
    Autocommit(PoolConnection<Postgres>),
    /// The same.
    Own(Borrowed),
    Transaction(Transaction<'static, Postgres>),
}

impl Conn {
    pub(crate) fn autocommit(connection: PoolConnection<Postgres>) -> Self {
        Self { unit: Unit::Autocommit(connection), named_statements: true }
    }

    pub(crate) fn own(borrowed: Borrowed) -> Self {
        Self { unit: Unit::Own(borrowed), named_statements: true }
    }

    pub(crate) fn transaction(transaction: Transaction<'static, Postgres>, named_statements: bool) -> Self {
        Self { unit: Unit::Transaction(transaction), named_statements }
    }

    /// Ends the unit: commits what a transaction holds.
    pub async fn done(self) -> Result<(), sqlx::Error> {
        match self.unit {
            Unit::Autocommit(_) => Ok(()),
            Unit::Own(borrowed) => {
                borrowed.give_back();
                Ok(())
            }
            Unit::Transaction(transaction) => transaction.commit().await,
        }
    }

    fn raw(&mut self) -> &mut PgConnection {
        match &mut self.unit {
            Unit::Autocommit(connection) => connection,
            Unit::Own(borrowed) => &mut borrowed.connection,
            Unit::Transaction(transaction) => transaction,
        }
    }
}

/// A query whose statement is not named on the server: a pooler may run the next one on another server, which has
/// never heard of the name.
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
        self.raw().fetch_many(Named { query, named }).boxed()
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let named = self.named_statements;
        self.raw().fetch_optional(Named { query, named }).boxed()
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement, sqlx::Error>>
    where
        'c: 'e,
    {
        self.raw().prepare_with(sql, parameters)
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<sqlx::Describe<Postgres>, sqlx::Error>>
    where
        'c: 'e,
    {
        self.raw().describe(sql)
    }
}
