//! The secrets that sign a client's webhooks. A client that has one never gets an unsigned webhook: where its secret
//! cannot be read the webhook waits.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use foreman_store::{ClientId, Seal, Store, StoreError, UnsealError};
use foreman_webhook::SigningSecret;
use foreman_webhook::secret::SecretError;

/// How long what was read is used: a rotated secret signs this much later.
const USED_FOR: Duration = Duration::from_secs(2);

/// How the webhooks of one client are signed.
#[derive(Debug, Clone)]
pub(super) enum Signing {
    /// With these, the newest first; with none if neither the client nor this installation has one.
    With(Arc<[SigningSecret]>),
    /// Not to be sent: there is a secret, and it cannot be read.
    Withheld(Arc<Unreadable>),
}

/// Why a client's secret cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreadable {
    #[error(
        "a client's signing secret cannot be unsealed; give the worker the FOREMAN_SECRET_KEY it was made with, \
         its webhooks wait for that"
    )]
    Sealed(#[source] UnsealError),
    #[error(
        "a client's signing secret is stored in no form that signs; rotate it with `foreman client rotate`"
    )]
    Malformed(#[source] SecretError),
}

#[derive(Debug)]
pub(super) struct Secrets {
    seal: Option<Seal>,
    /// For clients without a secret of their own.
    installation: Arc<[SigningSecret]>,
    read: HashMap<ClientId, (Signing, Instant)>,
}

impl Secrets {
    pub(super) fn new(seal: Option<Seal>, installation: Option<SigningSecret>) -> Self {
        Self { seal, installation: installation.into_iter().collect(), read: HashMap::new() }
    }

    /// How the webhooks of these clients are signed, by one statement for those that were not read just now.
    pub(super) async fn of(
        &mut self,
        store: &Store,
        clients: impl Iterator<Item = ClientId>,
    ) -> Result<HashMap<ClientId, Signing>, StoreError> {
        let now = Instant::now();
        self.read.retain(|_, (_, until)| *until > now);
        let clients: Vec<ClientId> = clients.collect();
        let mut unread: Vec<ClientId> =
            clients.iter().copied().filter(|one| !self.read.contains_key(one)).collect();
        unread.sort_unstable();
        unread.dedup();
        if !unread.is_empty() {
            let mut stored = store.signing_secrets(self.seal.as_ref(), &unread).await?;
            for client in unread {
                let signing = match stored.remove(&client) {
                    Some(secrets) => self.signing(secrets),
                    None => Signing::With(Arc::clone(&self.installation)),
                };
                self.read.insert(client, (signing, now + USED_FOR));
            }
        }
        let signing = |client: ClientId| Some((client, self.read.get(&client)?.0.clone()));
        Ok(clients.into_iter().filter_map(signing).collect())
    }

    fn signing(&self, secrets: Result<Vec<String>, UnsealError>) -> Signing {
        let parsed = secrets.map_err(Unreadable::Sealed).and_then(|texts| {
            let parsed: Result<Arc<[SigningSecret]>, _> =
                texts.iter().map(|text| SigningSecret::parse(text)).collect();
            parsed.map_err(Unreadable::Malformed)
        });
        match parsed {
            Ok(none) if none.is_empty() => Signing::With(Arc::clone(&self.installation)),
            Ok(own) => Signing::With(own),
            Err(unreadable) => Signing::Withheld(Arc::new(unreadable)),
        }
    }
}
