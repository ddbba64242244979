//! Receivers as they should not be: each costs itself its webhooks, and nobody else anything.

use std::net::Ipv4Addr;

use foreman_store::NewJob;
use foreman_tests::{Db, Receiver, ReceiverAnswer, eventually, free_port};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::{dispatcher, job_to, log, logged};

/// What a server does that is none.
#[derive(Debug, Clone, Copy)]
enum Rude {
    /// Hangs up on the request.
    HangsUp,
    /// Answers in no known tongue.
    Babbles,
    /// 200, and then a body without end, as fast as it is read.
    Floods,
}

impl Rude {
    /// Starts it on loopback. Returns its URL, and how many bytes each flooded connection took.
    async fn start(self) -> (String, mpsc::UnboundedReceiver<usize>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let (taken, bytes) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                tokio::spawn(self.serve(connection, taken.clone()));
            }
        });
        (url, bytes)
    }

    async fn serve(self, mut connection: TcpStream, taken: mpsc::UnboundedSender<usize>) {
        let mut request = [0; 16 * 1_024];
        if connection.read(&mut request).await.is_err() {
            return;
        }
        match self {
            Self::HangsUp => {}
            // Whether it was read to the end is the other side's affair.
            Self::Babbles => drop(connection.write_all(b"\x15\x03\x01\x00\x02\x02\x16\r\n\r\n").await),
            Self::Floods => {
                let mut bytes = 0;
                let mut next: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\n";
                while connection.write_all(next).await.is_ok() {
                    bytes += next.len();
                    next = &[b'.'; 64 * 1_024];
                }
                let _nobody_asks = taken.send(bytes);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_way_to_fail_has_its_code() {
    let db = Db::fresh().await;
    let hanging = Receiver::answering(|_, _| ReceiverAnswer::Hang).await;
    let plain = Receiver::start().await;
    let refused = format!("http://127.0.0.1:{}/", free_port());
    let tls = plain.url("/").replace("http://", "https://");
    let receivers = [
        (hanging.url("/"), "timeout"),
        (Rude::HangsUp.start().await.0, "connection_lost"),
        (Rude::Babbles.start().await.0, "invalid_answer"),
        (refused, "connection_refused"),
        (tls, "tls_error"),
        ("http://nowhere.invalid/".to_owned(), "dns_error"),
    ];
    let _dispatcher = dispatcher(&db, &[("FOREMAN_WEBHOOK_TIMEOUT", "2s")]).await;
    for (url, code) in receivers {
        db.accept_all(&[job_to(&db, &url)]).await;
        let found = eventually("an attempt", async || {
            let codes: Vec<String> = db.values("SELECT error_code FROM webhook_attempt").await;
            codes.into_iter().next().ok_or("none yet")
        })
        .await;
        assert_eq!(found, code, "{url}");
        db.run("DELETE FROM webhook_attempt").await;
        db.run("DELETE FROM webhook_delivery").await;
    }
    assert_eq!(plain.count(), 0, "nothing was sent in clear");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_is_a_failure_and_never_followed() {
    let db = Db::fresh().await;
    let elsewhere = Receiver::start().await;
    let location = elsewhere.url("/internal");
    let receiver = Receiver::answering(move |_, _| ReceiverAnswer::Redirect(location.clone())).await;
    db.accept_all(&[job_to(&db, &receiver.url("/"))]).await;
    let _dispatcher = dispatcher(&db, &[]).await;
    assert_eq!(logged(&db, 1).await, ["1 1 retry status_3xx"]);
    assert_eq!((receiver.count(), elsewhere.count()), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_decides_whatever_comes_after_it_and_little_of_that_is_read() {
    let db = Db::fresh().await;
    let dripping =
        Receiver::answering(|_, _| ReceiverAnswer::Drip(std::time::Duration::from_millis(100))).await;
    let (flooding, mut taken) = Rude::Floods.start().await;
    db.accept_all(&[job_to(&db, &dripping.url("/")), job_to(&db, &flooding)]).await;
    let _dispatcher = dispatcher(&db, &[]).await;
    assert_eq!(logged(&db, 2).await, ["1 1 delivered", "1 1 delivered"]);
    // What the sockets of both sides hold comes on top of what was read.
    let taken = taken.recv().await.unwrap();
    assert!(taken < 32 << 20, "{taken} bytes were taken of an answer without end");
    let kept: i64 = db.value("SELECT count(*) FROM webhook_attempt WHERE response IS NOT NULL").await;
    assert_eq!(kept, 0, "what a private receiver answers is not shown");
    let proven: Vec<String> = db.values("SELECT origin FROM webhook_lane WHERE healthy").await;
    assert_eq!(proven.len(), 1, "an answer that drips holds its seat for long, and so it gets one at a time");
    assert!(flooding.starts_with(&proven[0]));
}

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
