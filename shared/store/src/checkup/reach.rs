//! Whether a Postgres can be reached, whether a pooler stands before it, and if it cannot be reached, why.

use sqlx::{ConnectOptions as _, Connection as _, PgConnection, Row as _, postgres::PgConnectOptions};

use crate::db::connect::ConnectOptions;

/// How often two connections compare their server processes. A busy transaction pooler may give them different
/// servers now and then. Without a pooler they never share a server.
const LOOKS: usize = 4;

/// Where a URL leads, without its password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseAddress {
    /// A host name, an address, or the directory of a socket.
    pub host: String,
    pub port: u16,
    pub role: String,
    pub database: String,
}

/// Why there is no connection. The text gives only the reason; the advice depends on the address.
#[derive(Debug, thiserror::Error)]
pub enum Unreachable {
    #[error("nobody answers there ({0})")]
    NoAnswer(std::io::Error),
    #[error("no trusted TLS connection to it is possible ({0})")]
    Tls(Box<dyn std::error::Error + Send + Sync>),
    #[error("the password is wrong")]
    Password,
    #[error("it does not admit this role ({0})")]
    NotAdmitted(String),
    #[error("there is no such database")]
    NoDatabase,
    #[error("all of its connections are taken")]
    Full,
    #[error("it is starting or stopping")]
    NotReady,
    /// The error of a pooler that does not know a setting with which a connection starts.
    #[error("a pooler refuses the settings with which a connection starts ({0})")]
    Pooler(String),
    #[error("{0}")]
    Other(sqlx::Error),
}

/// A Postgres that answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reached {
    /// Whether a transaction pooler stands between us and Postgres.
    pub pooled: bool,
    /// Equal for two ways to the same database, and different for two databases.
    pub database: String,
}

impl ConnectOptions {
    /// Where `DATABASE_URL` leads.
    pub fn address(&self) -> DatabaseAddress {
        let options = &self.pooled;
        let host = match options.get_socket() {
            Some(socket) => socket.display().to_string(),
            None => options.get_host().to_owned(),
        };
        let role = options.get_username();
        let database = options.get_database().unwrap_or(role);
        DatabaseAddress {
            host,
            port: options.get_port(),
            role: role.to_owned(),
            database: database.to_owned(),
        }
    }

    /// Connects as a service would, and hangs up.
    pub async fn try_once(&self) -> Result<(), Unreachable> {
        let connection = self.pooled.connect().await.map_err(Unreachable::from)?;
        connection.close().await.map_err(Unreachable::from)
    }

    /// Connects by `DATABASE_URL`.
    pub async fn reach(&self) -> Result<Reached, Unreachable> {
        Ok(reach(&self.pooled).await?)
    }

    /// Connects by `DATABASE_DIRECT_URL`.
    pub async fn reach_directly(&self) -> Result<Reached, Unreachable> {
        Ok(reach(&self.direct).await?)
    }
}

async fn reach(options: &PgConnectOptions) -> Result<Reached, sqlx::Error> {
    let (mut one, mut other) = (options.connect().await?, options.connect().await?);
    let mut pooled = false;
    for _ in 0..LOOKS {
        pooled |= server_process(&mut one).await? == server_process(&mut other).await?;
    }
    // A role may lack the right to read this. Then two databases of the same name count as the same database.
    let system =
        sqlx::raw_sql("SELECT system_identifier::text FROM pg_control_system()").fetch_one(&mut one).await;
    let system: String = system.and_then(|row| row.try_get(0)).unwrap_or_default();
    let name = sqlx::raw_sql("SELECT current_database()::text").fetch_one(&mut one).await?;
    let name: String = name.try_get(0)?;
    one.close().await?;
    other.close().await?;
    Ok(Reached { pooled, database: format!("{system}/{name}") })
}

/// Sent as one message, so that a pooler cannot change servers in the middle.
async fn server_process(connection: &mut PgConnection) -> Result<i32, sqlx::Error> {
    sqlx::raw_sql("SELECT pg_backend_pid()").fetch_one(connection).await?.try_get(0)
}

impl From<sqlx::Error> for Unreachable {
    fn from(error: sqlx::Error) -> Self {
        use sqlx::Error as E;
        match error {
            E::Io(error) => Self::NoAnswer(error),
            E::Tls(error) => Self::Tls(error),
            E::Database(refused) => {
                let said = refused.message().to_owned();
                match refused.code().as_deref() {
                    Some("28P01") => Self::Password,
                    // 28000: the role does not exist, or pg_hba.conf does not admit it from here. 42501: no CONNECT
                    // right.
                    Some("28000" | "42501") => Self::NotAdmitted(said),
                    Some("3D000") => Self::NoDatabase,
                    Some("53300") => Self::Full,
                    Some("57P01" | "57P02" | "57P03") => Self::NotReady,
                    _ if said.contains("startup parameter") => Self::Pooler(said),
                    _ => Self::Other(E::Database(refused)),
                }
            }
            error => Self::Other(error),
        }
    }
}
