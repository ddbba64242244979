//! Who has a secret gets no webhook without its signature. (That somebody else's library verifies the signatures is
//! shown beside the README's lines.)

use std::slice::from_ref;
use std::time::Duration;

use foreman_store::{ClientId, EndpointSettings, JobRequest, NewJob, Scope, Seal, StoreError};
use foreman_tests::{Db, Received, Receiver, endpoint_at, eventually};
use foreman_webhook::{SigningSecret, sign};

use super::{dispatcher, job_to, logged};

/// 32 bytes, as `FOREMAN_SECRET_KEY` and as the store has them.
const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

fn seal() -> Seal {
    Seal::new(&std::array::from_fn(|byte| byte as u8))
}

fn job_of(client: ClientId, db: &Db, url: &str) -> NewJob {
    db.job(JobRequest { client, ..job_to(db, url).request })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_whose_secret_cannot_be_read_waits_unsent_until_it_can() {
    let (db, receiver) = (Db::fresh().await, Receiver::start().await);
    let client = db.store.create_client(&seal(), "tenant", false).await.unwrap().client;
    db.accept_all(&[job_of(client, &db, &receiver.url("/"))]).await;
    let mut keyless = dispatcher(&db, &[]).await;
    eventually("a failure that is told", async || {
        match keyless.metric(r#"foreman_background_errors_total{task="dispatch"}"#).await {
            0.0 => Err("none"),
            _ => Ok(()),
        }
    })
    .await;
    eventually("a delivery that waits", async || {
        let waits: i64 = db
            .value("SELECT count(*) FROM webhook_delivery WHERE attempts = 0 AND claim_no IS NULL AND next_attempt_at > now()")
            .await;
        if waits == 1 { Ok(()) } else { Err(waits) }
    })
    .await;
    assert!(keyless.process.log().contains("FOREMAN_SECRET_KEY"), "the log names the mend");
    assert_eq!(receiver.count(), 0);
    keyless.process.terminate().await;

    db.run("UPDATE webhook_delivery SET next_attempt_at = now()").await;
    let _dispatcher = dispatcher(&db, &[("FOREMAN_SECRET_KEY", KEY)]).await;
    assert_eq!(logged(&db, 1).await, ["1 1 delivered"]);
    let webhook = &receiver.received()[0];
    assert!(webhook.header("webhook-signature").starts_with("v1,"));
    assert!(webhook.header("x-foreman-signature").starts_with("sha256="));
}

/// The signature of this webhook with this secret alone.
fn signature(webhook: &Received, secret: &str) -> String {
    let secret = SigningSecret::parse(secret).unwrap();
    let timestamp = webhook.header("webhook-timestamp").parse().unwrap();
    let headers = sign::headers(from_ref(&secret), webhook.header("webhook-id"), timestamp, &webhook.body);
    headers.into_iter().find(|(name, _)| *name == "webhook-signature").unwrap().1
}

/// As `docs/operations.md` tells whoever has lost `FOREMAN_SECRET_KEY`.
#[tokio::test(flavor = "multi_thread")]
async fn after_the_key_was_lost_new_secrets_and_new_headers_let_the_webhooks_go() {
    const DAY: Duration = Duration::from_secs(24 * 3_600);
    let (db, receiver) = (Db::fresh().await, Receiver::start().await);
    let lost = Seal::new(&[7; 32]);
    let client = db.store.create_client(&lost, "tenant", false).await.unwrap().client;
    let token = |value: &str| vec![("x-token".to_owned(), value.to_owned())];
    let mut endpoints = Vec::new();
    for (path, headers) in [("/plain", Vec::new()), ("/headers", token("old"))] {
        let settings = endpoint_at(&receiver.url(path));
        let made = db.store.create_endpoint(&lost, client, &settings, &headers).await.unwrap().unwrap();
        endpoints.push(made.endpoint.id);
    }
    let own = db.store.rotate_client(&seal(), "tenant").await.unwrap().secret;
    let mut secrets = vec![("/own", own)];
    for (path, id) in ["/plain", "/headers"].into_iter().zip(&endpoints) {
        let rotated = db.store.rotate_endpoint(&seal(), Scope::Everyone, *id, DAY).await.unwrap().unwrap();
        secrets.push((path, rotated.secret));
    }
    db.accept_all(&[job_of(client, &db, &receiver.url("/own"))]).await;
    let dispatcher = dispatcher(&db, &[("FOREMAN_SECRET_KEY", KEY)]).await;
    assert_eq!(logged(&db, 2).await.len(), 2, "all but the one with headers");
    eventually("a webhook that waits for its headers", async || {
        let waits = "SELECT count(*) FROM webhook_delivery WHERE attempts = 0 AND next_attempt_at > now()";
        match db.value::<i64>(waits).await {
            1 => Ok(()),
            waits => Err(waits),
        }
    })
    .await;
    let log = dispatcher.process.log();
    assert!(log.contains("foreman webhook update"), "the log names the mend: {log}");
    // Each loop of the dispatcher reads secrets, and tells it once of each receiver.
    let told = log.matches("from before the last rotation").count();
    assert!((2..=6).contains(&told), "{told} lines in {log}");

    let renew = |_: &mut EndpointSettings| Ok::<_, StoreError>(());
    let fresh = token("new");
    db.store.change_endpoint(Scope::Everyone, endpoints[1], Some((&seal(), &fresh)), renew).await.unwrap();
    db.run("UPDATE webhook_delivery SET next_attempt_at = now()").await;
    logged(&db, 3).await;
    for (path, secret) in secrets {
        let received = receiver.received();
        let webhook = received.iter().find(|webhook| webhook.path == path).unwrap();
        assert_eq!(webhook.header("webhook-signature"), signature(webhook, &secret), "{path}");
        assert_eq!(webhook.header("x-token"), if path == "/headers" { "new" } else { "" });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_secret_is_rotated_both_sign() {
    let (db, receiver) = (Db::fresh().await, Receiver::start().await);
    let client = db.store.create_client(&seal(), "tenant", false).await.unwrap().client;
    db.store.rotate_client(&seal(), "tenant").await.unwrap();
    db.accept_all(&[job_of(client, &db, &receiver.url("/"))]).await;
    let _dispatcher = dispatcher(&db, &[("FOREMAN_SECRET_KEY", KEY)]).await;
    logged(&db, 1).await;
    let signatures: Vec<String> =
        receiver.received()[0].header("webhook-signature").split(' ').map(str::to_owned).collect();
    assert_eq!(signatures.len(), 2);
    assert_ne!(signatures[0], signatures[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_secret_webhooks_go_unsigned_and_that_is_counted() {
    let (db, receiver) = (Db::fresh().await, Receiver::start().await);
    db.accept_all(&[job_to(&db, &receiver.url("/"))]).await;
    let dispatcher = dispatcher(&db, &[]).await;
    logged(&db, 1).await;
    let webhook = &receiver.received()[0];
    assert_eq!((webhook.header("webhook-signature"), webhook.header("x-foreman-signature")), ("", ""));
    assert_ne!(webhook.header("webhook-id"), "");
    assert_eq!(dispatcher.metric("foreman_deliveries_unsigned_total").await, 1.0);
}
