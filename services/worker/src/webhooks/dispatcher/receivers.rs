//! Where claimed deliveries go: to which URL, signed with which secrets, with which headers, or why not yet. Every attempt gets
//! its receiver from here, whatever kind of receiver that is. A webhook is never sent unsigned where its receiver has a secret:
//! it waits while that secret cannot be read, and while its headers cannot. A secret from before a rotation is left out then.

use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use foreman_runtime::background_error;
use foreman_store::{Receiver, Seal, SecretOwner, Store, StoreError, StoredSigning, UnsealError};
use foreman_webhook::guard::Asker;
use foreman_webhook::secret::SecretError;
use foreman_webhook::{ReceiverUrl, SigningSecret};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

/// How long secrets that were read are used, unless their endpoint is changed. A client's rotated secret signs this much later.
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
    pub(super) signing: Arc<Signing>,
    /// On whose behalf names are looked up.
    pub(super) asker: Asker,
}

/// What the webhooks to a receiver are sent with.
#[derive(Debug)]
pub(super) struct Signing {
    /// The newest first; none if neither the receiver nor this installation has one.
    pub(super) secrets: Vec<SigningSecret>,
    /// The client's own. Their values may be secrets.
    pub(super) headers: HeaderMap,
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
        "a signing secret cannot be unsealed, and its webhooks wait; give the worker the FOREMAN_SECRET_KEY it was made with, \
         or make a new secret with `foreman client rotate` or `foreman webhook rotate`"
    )]
    Sealed(#[source] UnsealError),
    #[error(
        "the headers of an endpoint cannot be unsealed, and its webhooks wait; give the worker the FOREMAN_SECRET_KEY they were \
         stored with, or set them anew with `foreman webhook update ID --header`"
    )]
    Headers(#[source] UnsealError),
    #[error(
        "a signing secret is stored in no form that signs; rotate it with `foreman client rotate` or `foreman webhook rotate`"
    )]
    Malformed(#[source] SecretError),
}

#[derive(Debug)]
pub(super) struct Receivers {
    seal: Option<Seal>,
    /// For owners without a secret of their own.
    installation: Option<SigningSecret>,
    known: HashMap<SecretOwner, Known>,
    /// Whose previous secret was found unreadable and told of. After a rotation nobody need do anything about it.
    told: HashSet<SecretOwner>,
}

#[derive(Debug)]
struct Known {
    /// `None` if it is unreadable.
    signing: Option<Arc<Signing>>,
    /// As [`Receiver`] has it.
    changed_at: Option<DateTime<Utc>>,
    until: Instant,
}

impl Receivers {
    pub(super) fn new(seal: Option<Seal>, installation: Option<SigningSecret>) -> Self {
        Self { seal, installation, known: HashMap::new(), told: HashSet::new() }
    }

    /// Reads what is needed for these receivers and was not read just now, in one statement.
    pub(super) async fn read<'a>(
        &mut self,
        task: &'static str,
        store: &Store,
        receivers: impl Iterator<Item = &'a Receiver>,
    ) -> Result<(), StoreError> {
        let now = Instant::now();
        self.known.retain(|_, known| known.until > now);
        let is_known = |receiver: &Receiver| {
            self.known.get(&receiver.signed_by).is_some_and(|known| known.changed_at == receiver.changed_at)
        };
        let mut unknown: Vec<SecretOwner> =
            receivers.filter(|receiver| !is_known(receiver)).map(|receiver| receiver.signed_by).collect();
        unknown.sort_unstable();
        unknown.dedup();
        if unknown.is_empty() {
            return Ok(());
        }
        let mut stored = store.signing_secrets(self.seal.as_ref(), &unknown).await?;
        let mut unreadable = None;
        for owner in unknown {
            let stored = stored.remove(&owner).unwrap_or_default();
            if let Some(Err(why)) = stored.previous
                && self.told.insert(owner)
            {
                let why: &dyn Error = &why;
                tracing::warn!(
                    error = why,
                    ?owner,
                    "a secret from before the last rotation cannot be unsealed; webhooks go out without its signature"
                );
            }
            let changed_at = stored.changed_at;
            let signing = match self.parse(stored) {
                Ok(signing) => Some(Arc::new(signing)),
                Err(why) => {
                    unreadable = Some(why);
                    None
                }
            };
            self.known.insert(owner, Known { signing, changed_at, until: now + USED_FOR });
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
        // The endpoint was changed between the claim and the reading. It is claimed again as it is now: what was stored for one URL
        // must never go to another.
        if known.changed_at != receiver.changed_at {
            return Err(Withheld { wait: Duration::ZERO });
        }
        let signing = known.signing.clone().ok_or(Withheld { wait: UNREADABLE_FOR })?;
        // Not of the endpoint: a client with many of them would take all look-ups.
        let asker = Asker::of(receiver.client);
        Ok(Address { url: ReceiverUrl::parse(&receiver.url).ok(), signing, asker })
    }

    fn parse(&self, stored: StoredSigning) -> Result<Signing, Unreadable> {
        let secret = stored.secret.transpose().map_err(Unreadable::Sealed)?;
        let secret =
            secret.map(|text| SigningSecret::parse(&text)).transpose().map_err(Unreadable::Malformed)?;
        let previous = stored.previous.and_then(Result::ok).and_then(|text| SigningSecret::parse(&text).ok());
        let headers = stored.headers.map_err(Unreadable::Headers)?;
        let mut secrets: Vec<SigningSecret> = secret.into_iter().chain(previous).collect();
        if secrets.is_empty() {
            secrets.extend(self.installation.clone());
        }
        // The api has checked them before it stored them.
        let headers = headers.iter().filter_map(|(name, value)| {
            Some((name.parse::<HeaderName>().ok()?, HeaderValue::from_str(value).ok()?))
        });
        Ok(Signing { secrets, headers: headers.collect() })
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use foreman_store::{ClientId, EndpointId};

    use super::*;

    #[test]
    fn what_was_read_before_or_after_a_change_of_the_endpoint_is_not_used_with_the_claim() {
        let (endpoint, claimed) = (EndpointId::generate(), Utc::now());
        let receiver = Receiver {
            lane: endpoint.into(),
            client: ClientId::generate(),
            url: "https://a.example/".to_owned(),
            signed_by: endpoint.into(),
            endpoint: Some(endpoint),
            changed_at: Some(claimed),
        };
        let mut receivers = Receivers::new(None, None);
        for (read, is_used) in [(-1, false), (0, true), (1, false)] {
            let known = Known {
                signing: Some(Arc::new(Signing { secrets: Vec::new(), headers: HeaderMap::new() })),
                changed_at: Some(claimed + TimeDelta::microseconds(read)),
                until: Instant::now() + USED_FOR,
            };
            receivers.known.insert(receiver.signed_by, known);
            let wait = receivers.address(&receiver).err().map(|withheld| withheld.wait);
            assert_eq!(wait, (!is_used).then_some(Duration::ZERO), "{read} µs after the claim's");
        }
    }
}
