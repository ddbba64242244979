//! The secrets: whether each is set, can be used, and is the one that the database was used with.
//!
//! No secret is ever shown, except the whsec_ form of the webhook secret where `--show-secrets` asks for it.

use std::collections::BTreeSet;

use foreman_runtime::config::SecretKeys;
use foreman_store::{ClientSecret, EndpointSecrets, SealedSecret, Store, StoreError, UnsealError};
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

/// Whether the key opens what the webhooks of clients and endpoints need.
pub(super) async fn stored(store: &Store, keys: Option<&SecretKeys>) -> Result<Vec<Finding>, StoreError> {
    let seal = keys.map(seal);
    let mut found = of_clients(&store.client_secrets(seal.as_ref()).await?);
    found.extend(of_endpoints(&store.endpoint_secrets(seal.as_ref()).await?));
    Ok(found)
}

/// Names that a finding tells. Of more it tells the number.
const NAMED: usize = 5;

/// What cannot be opened of these values, each with the name of its owner. `sealed` says of how many owners the values are sealed,
/// and `renew` is the command that makes a new value for one of them.
fn unopened<'a>(
    values: impl Iterator<Item = (&'a str, &'a SealedSecret)> + Clone,
    sealed: impl Fn(usize) -> String,
    whose: &str,
    renew: impl Fn(&str) -> String,
) -> Vec<Finding> {
    let mut found = Vec::new();
    for failure in [UnsealError::NoKey, UnsealError::OtherKey, UnsealError::Damaged] {
        let failed = values.clone().filter(|(_, secret)| secret.unsealed == Err(failure));
        let (mut names, mut key_ids) = (Vec::new(), BTreeSet::new());
        for (name, secret) in failed {
            names.push(name);
            key_ids.extend(secret.key_id.as_deref());
        }
        let Some(first) = names.first() else { continue };
        let key_ids = key_ids.into_iter().collect::<Vec<_>>().join(" and ");
        let renew = renew(first);
        let (why, mend) = match failure {
            UnsealError::NoKey => (
                ", and FOREMAN_SECRET_KEY is not set".to_owned(),
                format!("set FOREMAN_SECRET_KEY to the key with the id {key_ids}"),
            ),
            UnsealError::OtherKey => (
                format!(" with another FOREMAN_SECRET_KEY (id {key_ids})"),
                format!("set that key again for api and worker; if it is lost: {renew}"),
            ),
            UnsealError::Damaged => (", and damaged".to_owned(), renew),
        };
        let sealed = sealed(names.len());
        let more = names.len().saturating_sub(NAMED);
        names.truncate(NAMED);
        let mut names = names.join(", ");
        if more > 0 {
            names.push_str(&format!(" and {more} more"));
        }
        found.push(Finding::trouble(format!("{sealed}{why}; {whose} {names} wait."), mend));
    }
    found
}

fn of_clients(clients: &[ClientSecret]) -> Vec<Finding> {
    let mut found = unopened(
        clients.iter().filter_map(|client| Some((client.client.as_str(), client.secret.as_ref()?))),
        |count| plural(count, "client's secret is sealed", "clients' secrets are sealed"),
        "the webhooks of",
        |name| format!("foreman client rotate {name}"),
    );
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
    found
}

fn of_endpoints(endpoints: &[EndpointSecrets]) -> Vec<Finding> {
    let ids: Vec<String> = endpoints.iter().map(|one| one.endpoint.to_string()).collect();
    let named = || ids.iter().map(String::as_str).zip(endpoints);
    let mut found = unopened(
        named().map(|(id, one)| (id, &one.secret)),
        |count| plural(count, "endpoint's secret is sealed", "endpoints' secrets are sealed"),
        "the webhooks to",
        |id| format!("foreman webhook rotate {id}"),
    );
    found.extend(unopened(
        named().filter_map(|(id, one)| Some((id, one.headers.as_ref()?))),
        |count| format!("The headers of {} are sealed", plural(count, "endpoint", "endpoints")),
        "the webhooks to",
        |id| format!("foreman webhook update {id} --header 'NAME: VALUE'"),
    ));
    if found.is_empty() && !endpoints.is_empty() {
        let count = plural(endpoints.len(), "endpoint", "endpoints");
        found.push(Finding::ok(format!("FOREMAN_SECRET_KEY opens the secrets and headers of {count}.")));
    }
    found
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
        let mend = "foreman secrets rotate  (with that key as FOREMAN_PREVIOUS_SECRET_KEY; if it is lost, make new secrets)";
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
