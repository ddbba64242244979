//! Where claimed deliveries go: to which URL, signed with which secrets, or why not yet. Every attempt gets its receiver
//! from here, whatever kind of receiver that is. A webhook is never sent unsigned where its receiver has a secret: it waits
//! while that secret cannot be read.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use foreman_runtime::background_error;
use foreman_store::{Delivery, Receiver, Seal, SecretOwner, Store, StoreError, UnsealError};
use foreman_webhook::secret::SecretError;
use foreman_webhook::{ReceiverUrl, SigningSecret};

/// How long secrets that were read are used. A rotated secret signs this much later.
const USED_FOR: Duration = Duration::from_secs(2);

/// How long a webhook waits whose secrets are unreadable. Somebody must mend the settings first.
const UNREADABLE_FOR: Duration = Duration::from_secs(30);

/// How long a webhook waits when Postgres did not give out its secrets.
const UNREAD_FOR: Duration = Duration::from_secs(1);

/// Where one delivery goes.
#[derive(Debug)]
pub(super) struct Address {
    /// `None` if what is stored is no URL: the attempt fails.
    pub(super) url: Option<ReceiverUrl>,
    /// The newest first; none if neither the receiver nor this installation has one.
    pub(super) secrets: Arc<[SigningSecret]>,
}

/// The delivery must not be sent yet. Look again after this wait.
#[derive(Debug)]
pub(super) struct Withheld {
    pub(super) wait: Duration,
}

/// Why secrets cannot be used.
#[derive(Debug, thiserror::Error)]
enum Unreadable {
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
pub(super) struct Receivers {
    seal: Option<Seal>,
    /// For owners without a secret of their own.
    installation: Arc<[SigningSecret]>,
    known: HashMap<SecretOwner, Known>,
}

#[derive(Debug)]
struct Known {
    /// `None` if they are unreadable.
    secrets: Option<Arc<[SigningSecret]>>,
    until: Instant,
}

impl Receivers {
    pub(super) fn new(seal: Option<Seal>, installation: Option<SigningSecret>) -> Self {
        Self { seal, installation: installation.into_iter().collect(), known: HashMap::new() }
    }

    /// Reads what is needed for these deliveries and was not read just now, in one statement.
    pub(super) async fn read(
        &mut self,
        task: &'static str,
        store: &Store,
        deliveries: &[Delivery],
    ) -> Result<(), StoreError> {
        let now = Instant::now();
        self.known.retain(|_, known| known.until > now);
        let owners = deliveries.iter().map(|delivery| delivery.receiver.signed_by);
        let mut unknown: Vec<SecretOwner> = owners.filter(|owner| !self.known.contains_key(owner)).collect();
        unknown.sort_unstable();
        unknown.dedup();
        if unknown.is_empty() {
            return Ok(());
        }
        let mut stored = store.signing_secrets(self.seal.as_ref(), &unknown).await?;
        let mut unreadable = None;
        for owner in unknown {
            let secrets = match parse(stored.remove(&owner).unwrap_or_else(|| Ok(Vec::new()))) {
                Ok(none) if none.is_empty() => Some(Arc::clone(&self.installation)),
                Ok(own) => Some(own),
                Err(why) => {
                    unreadable = Some(why);
                    None
                }
            };
            self.known.insert(owner, Known { secrets, until: now + USED_FOR });
        }
        // The cause is the same for most of them, so one stands for all.
        if let Some(why) = unreadable {
            background_error!(task, why);
        }
        Ok(())
    }

    /// Where to send what this receiver gets, after [`read`](Self::read).
    pub(super) fn address(&self, receiver: &Receiver) -> Result<Address, Withheld> {
        let known = self.known.get(&receiver.signed_by).ok_or(Withheld { wait: UNREAD_FOR })?;
        let secrets = known.secrets.clone().ok_or(Withheld { wait: UNREADABLE_FOR })?;
        Ok(Address { url: ReceiverUrl::parse(&receiver.url).ok(), secrets })
    }
}

fn parse(stored: Result<Vec<String>, UnsealError>) -> Result<Arc<[SigningSecret]>, Unreadable> {
    let texts = stored.map_err(Unreadable::Sealed)?;
    let parsed: Result<_, _> = texts.iter().map(|text| SigningSecret::parse(text)).collect();
    parsed.map_err(Unreadable::Malformed)
}
