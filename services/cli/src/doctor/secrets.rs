//! The secrets: whether each is set, can be used, and is the one that the database was used with.
//!
//! No secret is ever shown, except the whsec_ form of the webhook secret where `--show-secrets` asks for it.

use std::collections::BTreeSet;

use foreman_runtime::config::SecretKeys;
use foreman_store::{ClientSecret, SealedSecret, Store, StoreError, UnsealError};
use foreman_webhook::SigningSecret;
use foreman_webhook::secret::PREFIX;

use super::finding::{Finding, plural};
use super::installation::Installation;
use crate::database::seal;

/// Standard Webhooks asks for as much.
const LEAST_SECRET_BYTES: usize = 24;

const NEW_KEY: &str = "head -c 32 /dev/urandom | base64";

/// The key that the environment has, without the database.
pub(super) fn key(site: &Installation) -> (Finding, Option<SecretKeys>) {
    match (site.secret_keys(), site.is_open()) {
        (Err(error), _) => (Finding::trouble(format!("{error:#}."), NEW_KEY), None),
        (_, Err(error)) => (Finding::trouble(format!("{error}."), "write it as required or off"), None),
        (Ok(Some(keys)), _) => {
            let id = seal(&keys).key_id();
            (Finding::ok(format!("FOREMAN_SECRET_KEY is set; its id is {id}.")), Some(keys))
        }
        (Ok(None), Ok(is_open)) => {
            let mend = format!(
                "export FOREMAN_SECRET_KEY=\"$({NEW_KEY})\"  (once, and the same for api and worker)"
            );
            let finding = if is_open {
                Finding::note(
                    "FOREMAN_SECRET_KEY is not set: no client can be made, and api and worker talk on loopback only.",
                    mend,
                )
            } else {
                Finding::trouble(
                    "FOREMAN_SECRET_KEY is not set: callers need keys, and no client can be made.",
                    mend,
                )
            };
            (finding, None)
        }
    }
}

/// Whether the key opens the clients' secrets.
pub(super) async fn clients(store: &Store, keys: Option<&SecretKeys>) -> Result<Vec<Finding>, StoreError> {
    let seal = keys.map(seal);
    let clients = store.client_secrets(seal.as_ref()).await?;
    let mut found = Vec::new();
    for failure in [UnsealError::NoKey, UnsealError::OtherKey, UnsealError::Damaged] {
        let mut names = Vec::new();
        let mut key_ids = BTreeSet::new();
        for ClientSecret { client, secret } in &clients {
            if let Some(SealedSecret { key_id, unsealed }) = secret
                && *unsealed == Err(failure)
            {
                names.push(client.as_str());
                key_ids.extend(key_id.as_deref());
            }
        }
        let Some(first) = names.first() else { continue };
        let key_ids = key_ids.into_iter().collect::<Vec<_>>().join(" and ");
        let rotate = format!("foreman client rotate {first}");
        let (why, mend) = match failure {
            UnsealError::NoKey => (
                ", and FOREMAN_SECRET_KEY is not set".to_owned(),
                format!("set FOREMAN_SECRET_KEY to the key with the id {key_ids}"),
            ),
            UnsealError::OtherKey => (
                format!(" with another FOREMAN_SECRET_KEY (id {key_ids})"),
                format!("set that key again for api and worker; if it is lost: {rotate}"),
            ),
            UnsealError::Damaged => (", and damaged".to_owned(), rotate),
        };
        let sealed = plural(names.len(), "client's secret is sealed", "clients' secrets are sealed");
        let names = names.join(", ");
        found.push(Finding::trouble(format!("{sealed}{why}; the webhooks of {names} wait."), mend));
    }
    let without: Vec<_> = clients
        .iter()
        .filter(|client| client.secret.is_none())
        .map(|client| client.client.as_str())
        .collect();
    if let Some(first) = without.first() {
        found.push(Finding::note(
            format!("No secret signs the webhooks of {}.", without.join(", ")),
            format!("foreman client rotate {first}"),
        ));
    }
    if found.is_empty() {
        found.push(match clients.len() {
            0 => Finding::ok("No client has a secret yet."),
            many => {
                let opens = plural(many, "client's secret", "clients' secrets");
                Finding::ok(format!("FOREMAN_SECRET_KEY opens {opens}."))
            }
        });
    }
    Ok(found)
}

/// Whether a key of before is still needed.
pub(super) async fn sealing(store: &Store, keys: Option<&SecretKeys>) -> Result<Finding, StoreError> {
    let Some(keys) = keys else { return Ok(Finding::ok("No key seals secrets.")) };
    let current = seal(keys).key_id();
    let sealed = store.sealed_by().await?;
    let others: Vec<_> = sealed.iter().filter(|(id, _)| id.as_ref() != Some(&current)).collect();
    let count = others.iter().map(|(_, count)| **count).sum::<usize>();
    if count > 0 {
        let ids: Vec<&str> = others.iter().map(|(id, _)| id.as_deref().unwrap_or("unknown")).collect();
        let values = plural(count, "stored secret is", "stored secrets are");
        let told =
            format!("{values} sealed with another key than FOREMAN_SECRET_KEY (id {}).", ids.join(" and "));
        let mend = "foreman secrets rotate  (with that key as FOREMAN_PREVIOUS_SECRET_KEY)";
        return Ok(Finding::note(told, mend));
    }
    Ok(match keys.previous {
        Some(_) => Finding::note(
            "FOREMAN_PREVIOUS_SECRET_KEY is set, and no stored secret needs it any more.",
            "unset it for every api and worker",
        ),
        None => Finding::ok("FOREMAN_SECRET_KEY has sealed every stored secret."),
    })
}

/// The secret that signs for clients without one of their own, and its form.
pub(super) fn webhook(site: &Installation, show: bool) -> (Vec<Finding>, Option<SigningSecret>) {
    let secret = match site.webhook_secret() {
        Ok(Some(secret)) => secret,
        Ok(None) => return (Vec::new(), None),
        Err(error) => {
            let make = format!("echo \"{PREFIX}$(head -c {LEAST_SECRET_BYTES} /dev/urandom | base64)\"");
            return (vec![Finding::trouble(format!("FOREMAN_WEBHOOK_SECRET: {error:#}."), make)], None);
        }
    };
    let mut found = vec![form(&secret, show)];
    if secret.expose().trim() != secret.expose() {
        found.push(Finding::note(
            "FOREMAN_WEBHOOK_SECRET begins or ends with white space, and every byte of it counts.",
            "take it away, here and for the receivers",
        ));
    }
    (found, Some(secret))
}

fn form(secret: &SigningSecret, show: bool) -> Finding {
    let is_whsec = secret.expose().starts_with(PREFIX);
    match (is_whsec, show) {
        (true, _) => Finding::ok("FOREMAN_WEBHOOK_SECRET is a whsec_ secret, as Standard Webhooks has them."),
        (false, true) => Finding::ok(format!(
            "FOREMAN_WEBHOOK_SECRET is plain text; to a library of Standard Webhooks it is {}",
            secret.equivalent_whsec()
        )),
        (false, false) => Finding::note(
            "FOREMAN_WEBHOOK_SECRET is plain text; a library of Standard Webhooks wants it as whsec_ and base64.",
            "foreman doctor --show-secrets  (prints that form)",
        ),
    }
}

/// Whether webhooks go out unsigned.
pub(super) async fn unsigned(store: &Store, secret: Option<&SigningSecret>) -> Result<Finding, StoreError> {
    let receivers = store.receivers_without_secret().await?;
    Ok(match (secret, receivers) {
        (Some(_), _) => Finding::ok("Every webhook is signed."),
        (None, 0) => Finding::ok("FOREMAN_WEBHOOK_SECRET is not set, and no client needs it."),
        (None, _) => Finding::note(
            format!(
                "Webhooks to {} go out unsigned: their clients have no secret of their own.",
                plural(receivers, "receiver", "receivers")
            ),
            format!(
                "export FOREMAN_WEBHOOK_SECRET=\"{PREFIX}$(head -c {LEAST_SECRET_BYTES} /dev/urandom | base64)\"  (for the workers)"
            ),
        ),
    })
}
