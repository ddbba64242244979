//! The secrets of endpoints, and their headers, which may be secrets too: rotated and sealed.

use std::time::Duration;

use crate::client::credentials::new_secret;
use crate::client::scope::Scope;
use crate::client::seal::Seal;
use crate::db::connect::Store;
use crate::db::error::StoreError;
use crate::id::EndpointId;
use crate::webhook::endpoint::{EndpointHeaders, EndpointWithSecret};

/// How many characters of a secret are shown, so that people can tell which one they have.
const HINT_CHARS: usize = 4;

impl Store {
    /// Gives an endpoint a new secret. The current one signs too for `overlap`; one from before it ends at once. `None`
    /// without such an endpoint.
    pub async fn rotate_endpoint(
        &self,
        seal: &Seal,
        scope: Scope,
        id: EndpointId,
        overlap: Duration,
    ) -> Result<Option<EndpointWithSecret>, StoreError> {
        let secret = new_secret();
        let rotated = sqlx::query!(
            "-- rotate_endpoint
            UPDATE webhook_endpoint
            SET previous_secret = CASE WHEN $4::float8 > 0 THEN secret END,
                previous_until = CASE WHEN $4::float8 > 0 THEN now() + make_interval(secs => $4) END,
                secret = $3, secret_hint = $5, updated_at = now()
            WHERE id = $1 AND deleted_at IS NULL AND ($2::uuid IS NULL OR client_id = $2)",
            id.uuid(),
            scope.client(),
            seal.seal(id.uuid(), &secret),
            overlap.as_secs_f64(),
            hint(&secret),
        )
        .execute(self.once())
        .await?;
        if rotated.rows_affected() == 0 {
            return Ok(None);
        }
        let endpoint = self.endpoint(scope, id).await?;
        Ok(endpoint.map(|endpoint| EndpointWithSecret { endpoint, secret }))
    }
}

pub(crate) fn hint(secret: &str) -> String {
    secret.chars().skip(secret.chars().count() - HINT_CHARS).collect()
}

/// The names of these headers, and sealed all of them; nothing to seal where there are none.
pub(crate) fn sealed_headers(
    seal: &Seal,
    id: EndpointId,
    headers: &EndpointHeaders,
) -> (Vec<String>, Option<Vec<u8>>) {
    let names = headers.iter().map(|(name, _)| name.clone()).collect();
    let sealed = (!headers.is_empty()).then(|| {
        let text = serde_json::to_string(headers).expect("pairs of texts always serialise");
        seal.seal(id.uuid(), &text)
    });
    (names, sealed)
}
