//! This process in Postgres: a row that says that it lives. While it does, somebody waits for its sync calls; after its death
//! a janitor cancels them.

use std::time::Duration;

use foreman_runtime::background::jittered;
use foreman_runtime::{background_error, stalls};
use foreman_store::{ApiId, Store};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// An api that is silent for this long counts as dead. Its callers are gone then: their connections ended with it.
const TTL: Duration = Duration::from_secs(10);

/// A call that has lost its worker runs again soon only if its api has renewed its row within the last second.
const RENEW_EVERY: Duration = Duration::from_millis(500);

/// Records the process before it takes its first call.
pub(crate) async fn register(store: &Store, api: ApiId) -> Result<(), foreman_store::StoreError> {
    store.renew_api(api, TTL).await
}

/// Renews the row until the last call is over, and then deletes it.
pub(crate) async fn keep(store: &Store, api: ApiId, last_call: &CancellationToken) {
    while last_call.run_until_cancelled(sleep(jittered(RENEW_EVERY))).await.is_some() {
        if let Err(error) = stalls::round("api_process", stalls::USUAL, store.renew_api(api, TTL)).await {
            background_error!("api_process", error, "this api could not say that it lives");
        }
    }
    if let Err(error) = store.deregister_api(api).await {
        background_error!("api_process", error, "this api could not deregister; its row runs out");
    }
}
