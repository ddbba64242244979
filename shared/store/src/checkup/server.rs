//! The Postgres server: what it guarantees, what our role may do, and which transaction holds it up.

use std::time::Duration;

use crate::db::clock::seconds;
use crate::db::connect::Store;
use crate::db::error::StoreError;

/// The Postgres that answers, with its settings and limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// As in `150014`.
    pub version: i32,
    pub database: String,
    pub role: String,
    pub encoding: String,
    /// A standby, which can be read but not written.
    pub in_recovery: bool,
    pub fsync: bool,
    pub full_page_writes: bool,
    /// The setting of our role.
    pub synchronous_commit: String,
    pub autovacuum: bool,
    /// Connections for ordinary roles: `max_connections` without the reserved ones.
    pub connections: i32,
    /// Connections to any database at this moment.
    pub connected: i64,
    /// `idle_in_transaction_session_timeout` of our role; zero if there is none.
    pub idle_in_transaction: Duration,
}

/// What the role may do, and which rights it lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rights {
    /// The schema that gets new tables, if the role sees any schema.
    pub schema: Option<String>,
    pub may_create: bool,
    /// The owner of the tables, if there are tables.
    pub owner: Option<String>,
    /// Whether the role has the rights of the tables' owner.
    pub as_owner: bool,
    /// The tables on which the role lacks a right, each with the missing ones of SELECT, INSERT, UPDATE and DELETE.
    pub missing: Vec<(String, Vec<String>)>,
}

/// The transaction that has been open longest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenTransaction {
    pub pid: i32,
    pub role: String,
    pub application: String,
    /// As `pg_stat_activity` reports it, such as `idle in transaction`.
    pub state: String,
    pub age: Duration,
}

impl Store {
    pub async fn server(&self) -> Result<Server, StoreError> {
        let row = sqlx::query!(
            r#"-- server
            SELECT current_setting('server_version_num')::int AS "version!", current_database()::text AS "database!",
                   current_user::text AS "role!", pg_is_in_recovery() AS "in_recovery!",
                   (SELECT pg_encoding_to_char(encoding)::text FROM pg_database
                    WHERE datname = current_database()) AS "encoding!",
                   current_setting('fsync')::boolean AS "fsync!",
                   current_setting('full_page_writes')::boolean AS "full_page_writes!",
                   current_setting('synchronous_commit') AS "synchronous_commit!",
                   current_setting('autovacuum')::boolean AS "autovacuum!",
                   current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
                       - coalesce(current_setting('reserved_connections', true)::int, 0) AS "connections!",
                   (SELECT sum(numbackends)::bigint FROM pg_stat_database) AS "connected!",
                   (SELECT setting::float8 / 1000 FROM pg_settings
                    WHERE name = 'idle_in_transaction_session_timeout') AS "idle_in_transaction!""#
        )
        .fetch_one(self.once())
        .await?;
        Ok(Server {
            version: row.version,
            database: row.database,
            role: row.role,
            encoding: row.encoding,
            in_recovery: row.in_recovery,
            fsync: row.fsync,
            full_page_writes: row.full_page_writes,
            synchronous_commit: row.synchronous_commit,
            autovacuum: row.autovacuum,
            connections: row.connections,
            connected: row.connected,
            idle_in_transaction: seconds(row.idle_in_transaction),
        })
    }

    /// What the role may do in the schema that has the tables, or that would get them.
    pub async fn rights(&self) -> Result<Rights, StoreError> {
        let mut conn = self.open().await?;
        let role = sqlx::query!(
            r#"-- rights
            SELECT current_schema()::text AS schema,
                   coalesce(has_schema_privilege(current_schema(), 'CREATE'), false) AS "may_create!",
                   (SELECT pg_get_userbyid(relowner)::text FROM pg_class WHERE oid = to_regclass('job')) AS owner,
                   coalesce((SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = to_regclass('job')), true)
                       AS "as_owner!""#
        )
        .fetch_one(&mut conn)
        .await?;
        // Our tables are those beside `job` that have the same owner. Other tables in this schema are not ours to
        // judge.
        let missing = sqlx::query!(
            r#"-- missing_rights
            SELECT c.relname::text AS "table!", array_agg(p.name ORDER BY p.name) AS "missing!"
            FROM pg_class c
            JOIN pg_class job ON job.oid = to_regclass('job') AND c.relnamespace = job.relnamespace
                             AND c.relowner = job.relowner
            CROSS JOIN unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS p (name)
            WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relname <> '_sqlx_migrations'
              AND NOT has_table_privilege(c.oid, p.name)
            GROUP BY c.relname ORDER BY c.relname"#
        )
        .fetch_all(&mut conn)
        .await?;
        conn.done().await?;
        Ok(Rights {
            schema: role.schema,
            may_create: role.may_create,
            owner: role.owner,
            as_owner: role.as_owner,
            missing: missing.into_iter().map(|row| (row.table, row.missing)).collect(),
        })
    }

    /// The oldest open transaction on this database, except our own. Without the right `pg_read_all_stats` only
    /// transactions of our own role are visible.
    pub async fn oldest_open_transaction(&self) -> Result<Option<OpenTransaction>, StoreError> {
        let row = sqlx::query!(
            r#"-- oldest_open_transaction
            SELECT pid AS "pid!", coalesce(usename, '')::text AS "role!", coalesce(application_name, '') AS "application!",
                   coalesce(state, '') AS "state!", extract(epoch FROM clock_timestamp() - xact_start)::float8 AS "age!"
            FROM pg_stat_activity
            WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()
              AND xact_start IS NOT NULL
            ORDER BY xact_start LIMIT 1"#
        )
        .fetch_optional(self.once())
        .await?;
        Ok(row.map(|row| OpenTransaction {
            pid: row.pid,
            role: row.role,
            application: row.application,
            state: row.state,
            age: seconds(row.age),
        }))
    }
}
