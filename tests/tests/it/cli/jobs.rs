//! `foreman submit` and `foreman watch`.

use foreman_tests::{Api, Db, Worker, free_port};
use ollama_sim::{Config, Sim};
use serde_json::Value;

use super::{foreman, sentence, stdout};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

struct House {
    api: Api,
    _worker: Worker,
    _sim: Sim,
}

impl House {
    async fn open(db: &Db) -> Self {
        let sim = Sim::start(Config::default()).await.unwrap();
        let secret = [("FOREMAN_WEBHOOK_SECRET", SECRET)];
        let ollama = sim.url();
        let (api, worker) = tokio::join!(Api::start(db, &secret), Worker::start(db, &ollama, &secret));
        Self { api, _worker: worker, _sim: sim }
    }

    async fn foreman(&self, arguments: &[&str]) -> std::process::Output {
        foreman(arguments, &[("FOREMAN_URL", &self.api.url), ("FOREMAN_WEBHOOK_SECRET", SECRET)]).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn submit_prints_the_id_alone_and_watch_the_states_and_the_answer() {
    let db = Db::fresh().await;
    let house = House::open(&db).await;
    let submitted = house.foreman(&["submit", "--model", "tiny-a", "sim:echo hello"]).await;
    let id = stdout(&submitted).trim().to_owned();
    assert_eq!(stdout(&submitted), format!("{id}\n"));
    assert_eq!(house.api.get(&format!("/jobs/{id}")).await["job_id"], Value::from(id.as_str()));

    let watched = house.foreman(&["watch", &id]).await;
    assert!(watched.status.success());
    assert!(stdout(&watched).contains("hello"), "{}", stdout(&watched));
    let said = String::from_utf8(watched.stderr).unwrap();
    let states: Vec<&str> = said.lines().filter_map(|line| line.split_whitespace().nth(1)).collect();
    assert_eq!(states, ["queued", "loading", "working", "done"]);

    let job: Value = serde_json::from_str(&stdout(&house.foreman(&["watch", "--json", &id]).await)).unwrap();
    assert_eq!((&job["job_id"], &job["state"]), (&Value::from(id), &Value::from("done")));
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_submit_takes_reaches_the_job() {
    let db = Db::fresh().await;
    let house = House::open(&db).await;
    let arguments = [
        "submit",
        "--model",
        "tiny-a",
        "hello",
        "--priority",
        "-7",
        "--metadata",
        r#"{"a": 1}"#,
        "--idempotency-key",
        "k",
        "--webhook",
        "http://127.0.0.1:9/",
    ];
    let (one, other) = (house.foreman(&arguments).await, house.foreman(&arguments).await);
    assert_eq!(stdout(&one), stdout(&other));
    let job = house.api.get(&format!("/jobs/{}", stdout(&one).trim())).await;
    assert_eq!(job["priority"], -7);
    assert_eq!(job["metadata"]["a"], 1);
    assert_eq!(job["state_webhook_url"], "http://127.0.0.1:9/");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_exit_code_tells_how_a_job_ended() {
    let db = Db::fresh().await;
    let house = House::open(&db).await;
    let done = house.foreman(&["submit", "--model", "tiny-a", "--wait", "--json", "hello"]).await;
    assert_eq!(done.status.code(), Some(0));
    let job: Value = serde_json::from_str(&stdout(&done)).unwrap();
    assert_eq!(job["state"], "done");

    let failed = house.foreman(&["submit", "--model", "tiny-a", "--wait", "sim:fault=error=400"]).await;
    assert_eq!(failed.status.code(), Some(3));

    let refused = house.foreman(&["submit", "--model", "nobody-has-it", "hello"]).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(sentence(&refused).contains("ollama pull nobody-has-it"), "{}", sentence(&refused));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_listened_to_shows_every_webhook_verified() {
    let db = Db::fresh().await;
    let house = House::open(&db).await;
    let arguments = ["submit", "--model", "tiny-a", "--listen", "hello"];
    let listened = house.foreman(&arguments).await;
    let said = String::from_utf8(listened.stderr).unwrap();
    assert!(listened.status.success(), "{said}");
    assert_eq!(said.matches("signature verified").count(), 4, "{said}");

    let settings = [("FOREMAN_URL", house.api.url.as_str()), ("FOREMAN_WEBHOOK_SECRET", "another")];
    let refused = foreman(&arguments, &settings).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8(refused.stderr).unwrap().contains("did not verify"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_that_is_not_there_is_one_sentence_with_the_mend() {
    let url = format!("http://127.0.0.1:{}", free_port());
    let output = foreman(&["submit", "--model", "m", "hello"], &[("FOREMAN_URL", &url)]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(sentence(&output).contains("foreman up") && sentence(&output).contains("FOREMAN_URL"));
}
