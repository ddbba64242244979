//! Who has a secret gets no webhook without its signature. (That somebody else's library verifies the signatures is
//! shown beside the README's lines.)

use foreman_store::{ClientId, JobRequest, NewJob, Seal};
use foreman_tests::{Db, Receiver, eventually};

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
