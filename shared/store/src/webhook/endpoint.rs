//! Registered endpoints: receivers that a client sets up once, for all of its jobs.
//!
//! An endpoint's id is the id of its lane too. Must never give out a secret, except to whoever made or rotated it.

pub(crate) mod change;
pub(crate) mod deliveries;
pub(crate) mod recover;
pub(crate) mod secret;

use std::fmt;

use chrono::{DateTime, Utc};
use sqlx::{Executor, Postgres};

use crate::client::credentials::new_secret;
use crate::client::scope::Scope;
use crate::client::seal::Seal;
use crate::db::conn::Conn;
use crate::db::connect::Store;
use crate::db::error::StoreError;
use crate::id::{ClientId, EndpointId};
use crate::job::state::{JobState, states};
use crate::webhook::endpoint::secret::{hint, sealed_headers};
use crate::webhook::receiver::{Receiver, SecretOwner};

/// How many endpoints a client may have. The relay looks at all of them for each event.
pub const MAX_ENDPOINTS: i64 = 100;

/// What a client says about an endpoint. Every value is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointSettings {
    pub url: String,
    /// `scheme://host:port` of the URL.
    pub origin: String,
    pub description: String,
    /// The states to tell of; `None` for all of them.
    pub events: Option<Vec<JobState>>,
    /// The models whose jobs to tell of, by their canonical names; `None` for all of them.
    pub models: Option<Vec<String>>,
    /// Webhooks per second; `None` for no limit.
    pub rate_limit: Option<i32>,
    /// A disabled endpoint gathers its webhooks.
    pub is_disabled: bool,
}

/// Headers of the client's own, as names and values. Their values are stored sealed.
pub type EndpointHeaders = Vec<(String, String)>;

/// An endpoint as its owner sees it.
#[derive(Debug)]
pub struct EndpointView {
    pub id: EndpointId,
    pub settings: EndpointSettings,
    pub header_names: Vec<String>,
    /// The last characters of the secret.
    pub secret_hint: String,
    /// Until when the secret from before the last rotation signs too.
    pub previous_until: Option<DateTime<Utc>>,
    pub disabled_at: Option<DateTime<Utc>>,
    /// `asked` or `gone`.
    pub disabled_because: Option<String>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

/// An endpoint, and its secret as `whsec_…`.
pub struct EndpointWithSecret {
    pub endpoint: EndpointView,
    pub secret: String,
}

impl fmt::Debug for EndpointWithSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EndpointWithSecret").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

impl Store {
    /// Makes an endpoint with a new secret. `None` if the client has [`MAX_ENDPOINTS`] already.
    pub async fn create_endpoint(
        &self,
        seal: &Seal,
        client: ClientId,
        settings: &EndpointSettings,
        headers: &EndpointHeaders,
    ) -> Result<Option<EndpointWithSecret>, StoreError> {
        let id = EndpointId::generate();
        let secret = new_secret();
        let (names, sealed) = sealed_headers(seal, id, headers);
        let mut conn = self.open_transaction().await?;
        // The lock lets one create of a client count at a time, so the limit holds.
        sqlx::query!(
            "-- lock_endpoints_of_client
            SELECT pg_advisory_xact_lock(hashtextextended('foreman endpoints of ' || $1::uuid::text, 0))",
            client.uuid()
        )
        .execute(&mut conn)
        .await?;
        let made = sqlx::query!(
            r#"-- create_endpoint
            INSERT INTO webhook_endpoint (id, client_id, description, url, origin, events, models, header_names, headers,
                                          rate_limit, secret, secret_hint, disabled_at, disabled_because)
            SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12,
                   CASE WHEN $13 THEN now() END, CASE WHEN $13 THEN 'asked' END
            WHERE (SELECT count(*) FROM webhook_endpoint WHERE client_id = $2 AND deleted_at IS NULL) < $14"#,
            id.uuid(),                                       // $1 id
            client.uuid(),                                   // $2 client_id
            settings.description,                            // $3 description
            settings.url,                                    // $4 url
            settings.origin,                                 // $5 origin
            settings.event_names() as Option<Vec<String>>,   // $6 events
            settings.models.as_deref() as Option<&[String]>, // $7 models
            &names,                                          // $8 header_names
            sealed,                                          // $9 headers
            settings.rate_limit,                             // $10 rate_limit
            seal.seal(id.uuid(), &secret),                   // $11 secret
            hint(&secret),                                   // $12 secret_hint
            settings.is_disabled,                            // $13 whether it is disabled
            MAX_ENDPOINTS,                                   // $14 the limit
        )
        .execute(&mut conn)
        .await?;
        conn.done().await?;
        if made.rows_affected() == 0 {
            return Ok(None);
        }
        let endpoint = self.endpoint(Scope::Client(client), id).await?;
        Ok(endpoint.map(|endpoint| EndpointWithSecret { endpoint, secret }))
    }

    /// One endpoint, unless it is deleted.
    pub async fn endpoint(&self, scope: Scope, id: EndpointId) -> Result<Option<EndpointView>, StoreError> {
        Ok(find_endpoints(self.once(), scope, Some(id), EndpointId::MAX, 1).await?.pop())
    }

    /// At most `limit` endpoints made before `before`, newest first.
    pub async fn endpoints(
        &self,
        scope: Scope,
        before: Option<EndpointId>,
        limit: usize,
    ) -> Result<Vec<EndpointView>, StoreError> {
        find_endpoints(self.once(), scope, None, before.unwrap_or(EndpointId::MAX), limit).await
    }

    /// Where an endpoint's webhooks go, and whose secrets sign them.
    pub async fn endpoint_receiver(&self, id: EndpointId) -> Result<Option<Receiver>, StoreError> {
        let found = sqlx::query!(
            r#"-- endpoint_receiver
            SELECT client_id AS "client: ClientId", url, updated_at FROM webhook_endpoint WHERE id = $1 AND deleted_at IS NULL"#,
            id.uuid()
        )
        .fetch_optional(self.once())
        .await?;
        Ok(found.map(|row| Receiver {
            lane: id.into(),
            client: row.client,
            url: row.url,
            signed_by: SecretOwner::from(id),
            endpoint: Some(id),
            changed_at: Some(row.updated_at),
        }))
    }
}

/// On whichever connection, so that a change can read the endpoint that it has locked.
pub(crate) async fn find_endpoints<'c>(
    executor: impl Executor<'c, Database = Postgres>,
    scope: Scope,
    id: Option<EndpointId>,
    before: EndpointId,
    limit: usize,
) -> Result<Vec<EndpointView>, StoreError> {
    let rows = sqlx::query!(
        r#"-- find_endpoints
        WITH found AS MATERIALIZED (
            (SELECT id FROM webhook_endpoint
             WHERE id = $2 AND deleted_at IS NULL AND ($1::uuid IS NULL OR (client_id = $1) IS TRUE))
            UNION ALL
            (SELECT id FROM webhook_endpoint
             WHERE $2::uuid IS NULL AND client_id BETWEEN $1 AND $1 AND id < $3 AND deleted_at IS NULL
             ORDER BY client_id DESC, id DESC LIMIT $4)
            UNION ALL
            (SELECT id FROM webhook_endpoint
             WHERE $2 IS NULL AND $1 IS NULL AND id < $3 AND deleted_at IS NULL ORDER BY id DESC LIMIT $4)
        )
        SELECT w.id AS "id: EndpointId", url, origin, description, events, models, header_names, rate_limit,
               secret_hint, CASE WHEN previous_until > now() THEN previous_until END AS previous_until,
               disabled_at, disabled_because, created_at, updated_at
        FROM found CROSS JOIN LATERAL (SELECT * FROM webhook_endpoint WHERE id = found.id LIMIT 1) AS w
        ORDER BY w.id DESC"#,
        scope.client(),
        id.map(EndpointId::uuid),
        before.uuid(),
        i64::try_from(limit).unwrap_or(i64::MAX),
    )
    .fetch_all(executor)
    .await?;
    let view = rows.into_iter().map(|row| EndpointView {
        id: row.id,
        settings: EndpointSettings {
            url: row.url,
            origin: row.origin,
            description: row.description,
            events: row.events.as_deref().map(states),
            models: row.models,
            rate_limit: row.rate_limit,
            is_disabled: row.disabled_at.is_some(),
        },
        header_names: row.header_names,
        secret_hint: row.secret_hint,
        previous_until: row.previous_until,
        disabled_at: row.disabled_at,
        disabled_because: row.disabled_because,
        created_at: row.created_at,
        updated_at: row.updated_at,
    });
    Ok(view.collect())
}

/// Locks an endpoint until the transaction ends, and returns whose it is. `None` without such an endpoint.
pub(crate) async fn lock_endpoint(
    conn: &mut Conn,
    scope: Scope,
    id: EndpointId,
) -> Result<Option<ClientId>, StoreError> {
    let client = sqlx::query_scalar!(
        r#"-- lock_endpoint
        SELECT client_id AS "client: ClientId" FROM webhook_endpoint
        WHERE id = $1 AND deleted_at IS NULL AND ($2::uuid IS NULL OR client_id = $2) FOR NO KEY UPDATE"#,
        id.uuid(),
        scope.client(),
    )
    .fetch_optional(conn)
    .await?;
    Ok(client)
}

impl EndpointSettings {
    pub(crate) fn event_names(&self) -> Option<Vec<String>> {
        let events = self.events.as_ref()?;
        Some(events.iter().map(|state| state.as_str().to_owned()).collect())
    }
}
