//! Changing and deleting an endpoint.

use crate::client::scope::Scope;
use crate::client::seal::Seal;
use crate::db::connect::Store;
use crate::db::error::StoreError;
use crate::db::wake::Write;
use crate::id::EndpointId;
use crate::webhook::endpoint::secret::sealed_headers;
use crate::webhook::endpoint::{
    EndpointHeaders, EndpointSettings, EndpointView, find_endpoints, lock_endpoint,
};

impl Store {
    /// Lets `change` change the settings of an endpoint, and stores the result. `change` is called once, with the endpoint
    /// locked. If it fails, nothing is changed. With `headers` these take the place of the old ones, sealed with this seal: nothing
    /// else needs one. `None` without such an endpoint.
    ///
    /// A receiver with another URL, and one that is enabled again, counts as never tried. What it has had of its rate limit counts
    /// on.
    pub async fn change_endpoint<E: From<StoreError>>(
        &self,
        scope: Scope,
        id: EndpointId,
        headers: Option<(&Seal, &EndpointHeaders)>,
        change: impl FnOnce(&mut EndpointSettings) -> Result<(), E>,
    ) -> Result<Option<EndpointView>, E> {
        let mut conn = self.open_transaction().await?;
        if lock_endpoint(&mut conn, scope, id).await?.is_none() {
            return Ok(None);
        }
        let Some(found) = find_endpoints(&mut conn, scope, Some(id), EndpointId::MAX, 1).await?.pop() else {
            return Ok(None);
        };
        let before = found.settings;
        let mut after = before.clone();
        change(&mut after)?;
        let (names, sealed) = headers.map(|(seal, headers)| sealed_headers(seal, id, headers)).unzip();
        let is_another = before.url != after.url || (before.is_disabled && !after.is_disabled);
        sqlx::query!(
            r#"-- change_endpoint
            WITH changed AS (
                UPDATE webhook_endpoint
                SET url = $2, origin = $3, description = $4, events = $5, models = $6, rate_limit = $7,
                    disabled_at = CASE WHEN $8 THEN coalesce(disabled_at, now()) END,
                    disabled_because = CASE WHEN $8 THEN coalesce(disabled_because, 'asked') END,
                    header_names = CASE WHEN $9 THEN $10 ELSE header_names END,
                    headers = CASE WHEN $9 THEN $11 ELSE headers END,
                    updated_at = now()
                WHERE id = $1
            )
            UPDATE webhook_lane
            SET origin = $3, healthy = NULL, failures = 0, not_before = NULL, last_error = NULL
            WHERE id = $1 AND $12"#,
            id.uuid(),                                    // $1 id
            after.url,                                    // $2 url
            after.origin,                                 // $3 origin
            after.description,                            // $4 description
            after.event_names() as Option<Vec<String>>,   // $5 events
            after.models.as_deref() as Option<&[String]>, // $6 models
            after.rate_limit,                             // $7 rate_limit
            after.is_disabled,                            // $8 whether it is disabled
            headers.is_some(),                            // $9 whether the headers change
            names.as_deref().unwrap_or_default(),         // $10 header_names
            sealed.flatten(),                             // $11 headers
            is_another,                                   // $12 whether it counts as never tried
        )
        .execute(&mut conn)
        .await
        .map_err(StoreError::from)?;
        conn.done().await.map_err(StoreError::from)?;
        self.tell([Write::EndpointChanged]);
        Ok(self.endpoint(scope, id).await?)
    }

    /// Deletes an endpoint. Returns whether there was one. Its deliveries that wait end as `endpoint_deleted` by and by, and
    /// nothing holds that up: neither that it was disabled, nor a limit, nor how it answered.
    pub async fn delete_endpoint(&self, scope: Scope, id: EndpointId) -> Result<bool, StoreError> {
        let deleted = sqlx::query!(
            r#"-- delete_endpoint
            WITH gone AS (
                UPDATE webhook_endpoint
                SET deleted_at = now(), updated_at = now(), disabled_at = NULL, disabled_because = NULL, rate_limit = NULL
                WHERE id = $1 AND deleted_at IS NULL AND ($2::uuid IS NULL OR client_id = $2)
                RETURNING id
            ), lane AS (
                UPDATE webhook_lane l SET not_before = NULL FROM gone WHERE l.id = gone.id
            )
            SELECT id FROM gone"#,
            id.uuid(),
            scope.client(),
        )
        .fetch_optional(self.once())
        .await?;
        if deleted.is_some() {
            self.tell([Write::EndpointChanged]);
        }
        Ok(deleted.is_some())
    }

    /// Forgets deleted endpoints of which no delivery is left, at most `limit`. Returns how many.
    ///
    /// The relay might have read an endpoint just before it was deleted, so one stays for a day.
    pub async fn prune_endpoints(&self, limit: i64) -> Result<u64, StoreError> {
        let pruned = sqlx::query!(
            r#"-- prune_endpoints
            WITH over AS MATERIALIZED (
                SELECT w.id FROM webhook_endpoint w
                WHERE w.deleted_at < now() - interval '1 day'
                  AND NOT EXISTS (SELECT FROM webhook_delivery d WHERE d.lane_id = w.id)
                LIMIT $1 FOR UPDATE SKIP LOCKED
            )
            DELETE FROM webhook_endpoint w USING over WHERE w.id = over.id"#,
            limit,
        )
        .execute(self.once())
        .await?;
        Ok(pruned.rows_affected())
    }
}
