//! The secrets: whether each is there, in a form that can be used, and the one that others were sealed with.
//!
//! None is ever shown, but for the one form of the webhook secret that `--show-secrets` asks for.

use foreman_runtime::config::SecretKey;
use foreman_store::{ClientSecret, Seal, SealedSecret, Store, StoreError, UnsealError};
use foreman_webhook::SigningSecret;
use foreman_webhook::secret::PREFIX;

use super::finding::{Finding, amount, plural};
use super::installation::Installation;

/// Standard Webhooks asks for as much.
const LEAST_SECRET_BYTES: usize = 24;

const NEW_KEY: &str = "head -c 32 /dev/urandom | base64";

/// The key that the environment has, without the database.
pub(super) fn key(site: &Installation) -> (Finding, Option<SecretKey>) {
    match (site.secret_key(), site.is_open()) {
        (Err(error), _) => (Finding::trouble(format!("{error:#}."), NEW_KEY), None),
        (_, Err(error)) => (Finding::trouble(format!("{error}."), "write it as required or off"), None),
        (Ok(Some(key)), _) => {
            let id = Seal::new(key.bytes()).key_id();
            (Finding::ok(format!("FOREMAN_SECRET_KEY is set; its id is {id}.")), Some(key))
        }
        (Ok(None), Ok(true)) => (
            Finding::note(
                "FOREMAN_SECRET_KEY is not set: no client can be made, and api and worker talk on loopback only.",
                format!(
                    "export FOREMAN_SECRET_KEY=\"$({NEW_KEY})\"  (once, and the same for api and worker)"
                ),
            ),
            None,
        ),
        (Ok(None), Ok(false)) => (
            Finding::trouble(
                "FOREMAN_SECRET_KEY is not set: callers need keys, and no client can be made.",
                format!(
                    "export FOREMAN_SECRET_KEY=\"$({NEW_KEY})\"  (once, and the same for api and worker)"
                ),
            ),
            None,
        ),
    }
}

/// Whether the key opens what the clients' secrets were sealed with.
pub(super) async fn clients(store: &Store, key: Option<&SecretKey>) -> Result<Vec<Finding>, StoreError> {
    let seal = key.map(|key| Seal::new(key.bytes()));
    let clients = store.client_secrets(seal.as_ref()).await?;
    let with = |wanted: Option<Result<(), UnsealError>>| {
        let has =
            move |client: &&ClientSecret| client.secret.as_ref().map(|secret| secret.unsealed) == wanted;
        let names: Vec<_> = clients.iter().filter(has).map(|client| client.client.as_str()).collect();
        (!names.is_empty()).then_some(names)
    };
    let mut found = Vec::new();
    if let Some(names) = with(Some(Err(UnsealError::NoKey))) {
        found.push(Finding::trouble(
            format!(
                "{}, and FOREMAN_SECRET_KEY is not set; the webhooks of {} wait.",
                stored(&names),
                names.join(", ")
            ),
            format!(
                "set FOREMAN_SECRET_KEY to the key with the id {}",
                key_ids(&clients, UnsealError::NoKey)
            ),
        ));
    }
    if let Some(names) = with(Some(Err(UnsealError::OtherKey))) {
        found.push(Finding::trouble(
            format!(
                "{} with another FOREMAN_SECRET_KEY (id {}); the webhooks of {} wait.",
                stored(&names),
                key_ids(&clients, UnsealError::OtherKey),
                names.join(", ")
            ),
            format!(
                "set that key again for api and worker; if it is lost: foreman client rotate {}",
                names[0]
            ),
        ));
    }
    if let Some(names) = with(Some(Err(UnsealError::Damaged))) {
        found.push(Finding::trouble(
            format!("{}, and damaged; the webhooks of {} wait.", stored(&names), names.join(", ")),
            format!("foreman client rotate {}", names[0]),
        ));
    }
    if let Some(names) = with(None) {
        found.push(Finding::note(
            format!("No secret signs the webhooks of {}.", names.join(", ")),
            format!("foreman client rotate {}", names[0]),
        ));
    }
    if found.is_empty() {
        found.push(match amount(clients.len()) {
            0 => Finding::ok("No client has a secret yet."),
            many => {
                let opens = plural(many, "client's secret", "clients' secrets");
                Finding::ok(format!("FOREMAN_SECRET_KEY opens {opens}."))
            }
        });
    }
    Ok(found)
}

fn stored(names: &[&str]) -> String {
    plural(amount(names.len()), "client's secret is sealed", "clients' secrets are sealed")
}

/// The keys behind one kind of failure.
fn key_ids(clients: &[ClientSecret], failure: UnsealError) -> String {
    let sealed = clients.iter().filter_map(|client| client.secret.as_ref());
    let mut ids: Vec<_> = sealed
        .filter(|SealedSecret { unsealed, .. }| *unsealed == Err(failure))
        .filter_map(|secret| secret.key_id.as_deref())
        .collect();
    ids.sort_unstable();
    ids.dedup();
    ids.join(" and ")
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
pub(super) async fn unsigned(
    store: &Store,
    secret: Option<&SigningSecret>,
) -> Result<[Finding; 1], StoreError> {
    let receivers = store.receivers_without_secret().await?;
    Ok([match (secret, receivers) {
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
    }])
}
