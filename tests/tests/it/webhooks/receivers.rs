//! Which receivers are called, and that receivers that hang stop nobody else.

use foreman_store::NewJob;
use foreman_tests::{Db, Receiver, ReceiverAnswer, eventually};

use super::{dispatcher, job_to, log, logged};

#[tokio::test(flavor = "multi_thread")]
async fn receivers_that_hang_do_not_stop_the_others() {
    const HANGING: usize = 20;
    let db = Db::fresh().await;
    let healthy = Receiver::start().await;
    let mut hanging = Vec::new();
    for _ in 0..HANGING {
        hanging.push(Receiver::answering(|_, _| ReceiverAnswer::Hang).await);
    }
    let _dispatcher = dispatcher(&db, &[("FOREMAN_WEBHOOK_TIMEOUT", "10m")]).await;
    db.accept_all(&[job_to(&db, &healthy.url("/"))]).await;
    logged(&db, 1).await;

    let to_hanging = hanging.iter().map(|receiver| (0..40).map(|_| job_to(&db, &receiver.url("/"))));
    db.accept_all(&to_hanging.flatten().collect::<Vec<NewJob>>()).await;
    eventually("one attempt at each that hangs", async || {
        let stuck: i64 = db.value("SELECT count(*) FROM webhook_delivery WHERE claim_no IS NOT NULL").await;
        if stuck == 20 { Ok(()) } else { Err(stuck) }
    })
    .await;
    let to_healthy: Vec<NewJob> = (0..200).map(|_| job_to(&db, &healthy.url("/"))).collect();
    db.accept_all(&to_healthy).await;
    logged(&db, 201).await;
    assert_eq!(healthy.count(), 201);
    let stuck: i64 = db.value("SELECT count(*) FROM webhook_delivery WHERE claim_no IS NOT NULL").await;
    assert_eq!(stuck, 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_be_called_is_refused_at_the_dial() {
    let db = Db::fresh().await;
    let receiver = Receiver::start().await;
    let port = receiver.url("").rsplit(':').next().unwrap().to_owned();
    let hosts = ["127.0.0.1", "localhost", "127.1", "0x7f000001", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0"];
    let jobs: Vec<NewJob> = hosts.iter().map(|host| job_to(&db, &format!("http://{host}:{port}/"))).collect();
    db.accept_all(&jobs).await;
    // Even who allows everything never opens the addresses that hand out credentials.
    db.accept_all(&[job_to(&db, "http://169.254.169.254/latest")]).await;
    let _dispatcher = dispatcher(&db, &[("FOREMAN_WEBHOOK_ALLOW", "169.254.0.0/16")]).await;
    assert_eq!(logged(&db, hosts.len() + 1).await, vec!["1 1 retry address_refused"; hosts.len() + 1]);
    assert_eq!(receiver.count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_https_is_required_nothing_is_sent_in_clear() {
    let (db, receiver) = (Db::fresh().await, Receiver::start().await);
    db.accept_all(&[job_to(&db, &receiver.url("/"))]).await;
    let _dispatcher = dispatcher(&db, &[("FOREMAN_WEBHOOK_REQUIRE_HTTPS", "yes")]).await;
    assert_eq!(logged(&db, 1).await, ["1 1 retry https_required"]);
    assert_eq!(receiver.count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn proxies_that_the_environment_names_are_not_used() {
    let (db, receiver, proxy) = (Db::fresh().await, Receiver::start().await, Receiver::start().await);
    let names = ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
    let url = proxy.url("");
    let proxies: Vec<(&str, &str)> = names.iter().map(|name| (*name, url.as_str())).collect();
    let secure = receiver.url("/").replace("http://", "https://");
    db.accept_all(&[job_to(&db, &receiver.url("/")), job_to(&db, &secure)]).await;
    let _dispatcher = dispatcher(&db, &proxies).await;
    let mut log = logged(&db, 2).await;
    log.sort();
    assert_eq!(log, ["1 1 delivered", "1 1 retry tls_error"]);
    assert_eq!((receiver.count(), proxy.count()), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_410_nothing_more_of_the_job_is_sent_there() {
    let db = Db::fresh().await;
    let receiver = Receiver::answering(|_, _| ReceiverAnswer::Status(410)).await;
    super::done_jobs_to(&db, &receiver.url("/"), 1).await;
    let dispatcher = dispatcher(&db, &[]).await;
    logged(&db, 4).await;
    assert_eq!(log(&db).await, ["1 1 failed gone", "2 1 failed gone", "3 1 failed gone", "4 1 failed gone"]);
    assert_eq!(receiver.count(), 1);
    let failed = r#"foreman_deliveries_total{outcome="failed",code="gone"}"#;
    eventually("the metric", async || match dispatcher.metric(failed).await {
        4.0 => Ok(()),
        other => Err(other),
    })
    .await;
}
