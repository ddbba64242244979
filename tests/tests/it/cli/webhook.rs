//! `foreman webhook`: an endpoint through its life.

use foreman_tests::{Api, Db, Receiver, Worker, eventually};
use ollama_sim::{Config, Sim};
use serde_json::{Value, json};

use super::{foreman, sentence, stdout};

/// 32 bytes in base64.
const KEY: (&str, &str) = ("FOREMAN_SECRET_KEY", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=");

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_is_made_tried_rotated_changed_recovered_and_deleted() {
    let (db, receiver) = (Db::fresh().await, Receiver::start().await);
    let sim = Sim::start(Config::default()).await.unwrap();
    let ollama = sim.url();
    let (api, _worker) = tokio::join!(Api::start(&db, &[KEY]), Worker::start(&db, &ollama, &[KEY]));
    let settings = [("FOREMAN_URL", api.url.as_str())];
    let run = async |arguments: &[&str]| foreman(arguments, &settings).await;
    let ok = async |arguments: &[&str]| {
        let output = run(arguments).await;
        assert!(output.status.success(), "{arguments:?}: {}", sentence(&output));
        stdout(&output)
    };
    assert_eq!(ok(&["webhook", "list"]).await, "");
    let missed = api.submit(&crate::chat("hello")).await;
    api.get(&format!("/jobs/{missed}?wait=10")).await;
    let url = receiver.url("/in");
    let made = ok(&[
        "webhook",
        "create",
        &url,
        "--event",
        "done",
        "--event",
        "failed",
        "--model",
        "tiny-a",
        "--header",
        "X-Team: gpu",
        "--rate-limit",
        "5",
        "--description",
        "mine",
        "--json",
    ])
    .await;
    let made: Value = serde_json::from_str(&made).unwrap();
    let (id, secret) = (made["endpoint_id"].as_str().unwrap(), made["secret"].as_str().unwrap());
    assert!(secret.starts_with("whsec_") && made["rate_limit"] == 5 && made["header_names"][0] == "x-team");

    let list = ok(&["webhook", "list"]).await;
    assert!(list.contains(id) && list.contains("done, failed") && list.contains(&url), "{list}");
    assert!(ok(&["webhook", "test", id]).await.starts_with("delivered: 200 in "));
    assert_eq!(receiver.received()[0].header("x-team"), "gpu");
    let shown = ok(&["webhook", "show", id]).await;
    assert!(shown.contains("tiny-a:latest") && !shown.contains(secret), "{shown}");
    assert!(shown.contains(&format!("ends with {}", &secret[secret.len() - 4..])), "{shown}");

    let rotated = ok(&["webhook", "rotate", id, "--overlap", "1h"]).await;
    assert!(rotated.contains("whsec_") && rotated.contains("old secret"), "{rotated}");
    let disabled = ok(&["webhook", "update", id, "--disable"]).await;
    assert!(disabled.contains("until it is enabled"), "{disabled}");
    let clear = [
        "webhook",
        "update",
        id,
        "--all-events",
        "--all-models",
        "--no-headers",
        "--no-rate-limit",
        "--json",
    ];
    let cleared: Value = serde_json::from_str(&ok(&clear).await).unwrap();
    assert_eq!((&cleared["events"], &cleared["models"]), (&Value::Null, &Value::Null), "{cleared}");
    assert_eq!((&cleared["header_names"], &cleared["rate_limit"]), (&json!([]), &Value::Null), "{cleared}");
    assert_eq!(cleared["description"], "mine", "what is not named stays");
    let nowhere = ok(&["webhook", "update", id, "--enable", "--url", "http://127.0.0.1:9/"]).await;
    assert!(nowhere.contains("http://127.0.0.1:9/"), "{nowhere}");
    let unsent = run(&["webhook", "test", id]).await;
    assert_eq!((unsent.status.code(), stdout(&unsent).starts_with("not delivered: ")), (Some(1), true));
    ok(&["webhook", "update", id, "--url", &url]).await;

    let job = api.submit(&crate::chat("hello")).await;
    eventually("the end of the job's webhook", async || {
        let job = api.get(&format!("/jobs/{job}/deliveries")).await["data"][0]["state"].clone();
        if job == "delivered" { Ok(()) } else { Err(job) }
    })
    .await;
    // The endpoint has missed what was before it: four events, two hours ago.
    let hours_ago = "UPDATE job_event SET at = at - interval '2 hours' WHERE job_id = ";
    db.run(&format!("{hours_ago} (SELECT min(id::text)::uuid FROM job)")).await;
    for (since, recovered) in [("1h", "0\n"), ("3h", "4\n"), ("3h", "0\n")] {
        assert_eq!(ok(&["webhook", "recover", id, "--since", since]).await, recovered, "{since}");
    }
    ok(&["webhook", "delete", id]).await;
    let missing = run(&["webhook", "show", id]).await;
    assert!(!missing.status.success() && sentence(&missing).contains("no such endpoint"));

    for wrong in [
        &["webhook", "create", "x", "--header", "nothing"][..],
        &["webhook", "create", "x", "--header", "x-a: 1", "--header", "X-A: 2"],
        &["webhook", "show", "../jobs"],
        &["webhook", "update", id, "--model", "tiny-a", "--all-models"],
        &["webhook", "rotate", id, "--overlap", "long"],
        &["webhook", "recover", id, "--since", "yesterday"],
    ] {
        assert_eq!(run(wrong).await.status.code(), Some(2), "{wrong:?}");
    }
    let refused = run(&["webhook", "create", "ftp://example.org"]).await;
    assert!(sentence(&refused).contains("http"), "{}", sentence(&refused));
}
