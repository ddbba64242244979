//! `foreman submit --file`: a file or a pipe of jobs, all of which exist once in the end.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use foreman_store::JobId;
use foreman_tests::{Api, Db, Process, Signal, eventually};
use serde_json::{Value, json};

use crate::api::publish;

use super::{foreman, program, stderr, stdout};

/// What any host with models makes possible: jobs are accepted though none is run.
async fn start(settings: &[(&str, &str)]) -> (Db, Api) {
    let db = Db::fresh().await;
    publish(&db).await;
    let api = Api::start(&db, settings).await;
    (db, api)
}

/// A file of this test that is gone with it.
struct Scratch(PathBuf);

impl Scratch {
    fn of(db: &Db, text: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("foreman-tests-{}-{}.ndjson", std::process::id(), db.name()));
        fs::write(&path, text).unwrap();
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }

    fn append(&self, text: &str) {
        fs::File::options().append(true).open(&self.0).unwrap().write_all(text.as_bytes()).unwrap();
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _removed = fs::remove_file(&self.0);
    }
}

/// Equal ones among them, as in real files.
fn jobs(count: usize) -> String {
    (0..count).fold(String::new(), |mut text, at| {
        writeln!(text, "{}", json!({ "model": "tiny-a", "prompt": format!("question {}", at % 4_000) }))
            .unwrap();
        text
    })
}

async fn count(db: &Db) -> i64 {
    db.value("SELECT count(*) FROM job").await
}

async fn submit(api: &Api, arguments: &[&str]) -> Output {
    foreman(&[&["submit"], arguments].concat(), &[("FOREMAN_URL", &api.url)]).await
}

/// The same with this text on standard input.
async fn pipe(api: &Api, arguments: &[&str], text: &str) -> Output {
    let mut command = Command::new(program());
    command.args([&["submit", "--file", "-"], arguments].concat()).env("FOREMAN_URL", &api.url);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let text = text.to_owned();
    tokio::task::spawn_blocking(move || {
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    })
    .await
    .unwrap()
}

fn ids(output: &Output) -> Vec<String> {
    stdout(output).lines().map(str::to_owned).collect()
}

/// A client's limit is what holds the command in the middle of the file, so that Ctrl-C comes there for certain.
#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_jobs_interrupted_twice_are_ten_thousand_jobs() {
    let db = Db::fresh().await;
    publish(&db).await;
    let file = Scratch::of(&db, &jobs(10_000));
    let arguments = ["submit", "--file", file.path()];

    let mut api = Api::start(&db, &[("FOREMAN_CLIENT_MAX_QUEUED", "3500")]).await;
    let mut first = Process::start("foreman", &arguments, &[("FOREMAN_URL", &api.url)]);
    eventually("the limit to be said", async || match first.log() {
        log if log.contains("waiting:") => Ok(()),
        log => Err(format!("{} lines", log.lines().count())),
    })
    .await;
    first.signal(Signal::SIGINT);
    assert_eq!(first.ended().await.code(), Some(130));
    assert!(first.log().contains("the same command goes on from there"), "{}", first.log());
    let begun = count(&db).await;
    assert!((1..10_000).contains(&begun), "{begun}");
    api.process.terminate().await;

    // The second time in the middle of a request, and by someone who does not wait for its answer.
    let mut api = Api::start(&db, &[("FOREMAN_CLIENT_MAX_QUEUED", "7000")]).await;
    let mut second = Process::start("foreman", &arguments, &[("FOREMAN_URL", &api.url)]);
    eventually("more jobs than the first time", async || match count(&db).await {
        more if more > begun => Ok(()),
        same => Err(same),
    })
    .await;
    api.process.signal(Signal::SIGSTOP);
    second.signal(Signal::SIGINT);
    let heard = eventually("the first Ctrl-C to be heard", async || {
        let log = second.log();
        if log.contains("Ctrl-C again") || log.contains("Interrupted") { Ok(log) } else { Err(log) }
    })
    .await;
    // It may have been waiting for room, with no request under way.
    if !heard.contains("Interrupted") {
        second.signal(Signal::SIGINT);
    }
    assert_eq!(second.ended().await.code(), Some(130));
    api.process.signal(Signal::SIGCONT);
    assert!(count(&db).await < 10_000);
    api.process.terminate().await;

    let api = Api::start(&db, &[]).await;
    let last = submit(&api, &["--file", file.path()]).await;
    assert!(last.status.success(), "{}", stderr(&last));
    // On a slow machine it says before how far it is.
    assert_eq!(stderr(&last).lines().last(), Some("10,000 jobs."));
    assert_eq!(count(&db).await, 10_000);
    let ids = ids(&last);
    assert_eq!(ids.len(), 10_000);
    assert_eq!(BTreeSet::from_iter(&ids).len(), 10_000, "each line has a job of its own");
    for at in [0, 4_000, 9_999] {
        let id: JobId = ids[at].parse().unwrap();
        let body: String = db.value(&format!("SELECT body FROM job WHERE id = '{}'", id.uuid())).await;
        assert!(body.contains(&format!("question {}\"", at % 4_000)), "{body}");
    }
    db.every_job_has_one_room().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_that_dies_on_the_way_is_waited_for() {
    let (db, mut api) = start(&[]).await;
    let file = Scratch::of(&db, &jobs(8_000));
    let mut submitting =
        Process::start("foreman", &["submit", "--file", file.path()], &[("FOREMAN_URL", &api.url)]);
    eventually("some jobs", async || match count(&db).await {
        0 => Err("none yet"),
        _ => Ok(()),
    })
    .await;
    api.process.kill().await;
    api.process.start_again();
    assert!(submitting.ended().await.success(), "{}", submitting.log());
    assert_eq!(count(&db).await, 8_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_lines_are_named_and_the_others_go_on() {
    let (db, api) = start(&[]).await;
    let text = "{\"model\":\"tiny-a\",\"prompt\":\"one\"}\n\
                hello\n\
                \n\
                {\"model\":\"tiny-a\"}\n\
                {\"model\":\"gone\",\"prompt\":\"x\"}\n\
                {\"model\":\"gone\",\"prompt\":\"y\"}\n\
                {\"model\":\"tiny-a\",\"prompt\":\"two\"}";
    let file = Scratch::of(&db, text);
    let output = submit(&api, &["--file", file.path()]).await;
    assert_eq!(output.status.code(), Some(6));
    assert_eq!(ids(&output).len(), 2);
    let said = stderr(&output);
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].starts_with("line 2: it is not JSON"), "{said}");
    assert!(lines[1].starts_with("line 4: `messages` or `prompt` is missing"), "{said}");
    assert!(lines[2].starts_with("lines 5 to 6: ") && lines[2].contains("ollama pull gone"), "{said}");
    assert_eq!(lines[3..], ["2 jobs, 4 lines refused."]);

    let json = submit(&api, &["--file", file.path(), "--json"]).await;
    let told: Vec<Value> = stdout(&json).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let seen: Vec<_> =
        told.iter().map(|line| (line["line"].as_u64().unwrap(), line["status"].as_u64().unwrap())).collect();
    assert_eq!(seen, [(1, 202), (2, 400), (4, 400), (5, 404), (6, 404), (7, 202)]);
    assert_eq!(told[0]["job_id"], ids(&output)[0]);
    assert!(told[1]["error"].is_string());

    // Mended, the bad line alone is new.
    let mended = Scratch::of(&db, &text.replace("hello", r#"{"model":"tiny-a","prompt":"hello"}"#));
    let again = ids(&submit(&api, &["--file", mended.path()]).await);
    assert_eq!([&again[0], &again[2]], [&ids(&output)[0], &ids(&output)[1]]);
    assert_eq!(count(&db).await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_grew_a_pipe_and_another_run() {
    let (db, api) = start(&[]).await;
    let file = Scratch::of(&db, &jobs(3));
    let first = ids(&submit(&api, &["--file", file.path()]).await);
    file.append(&jobs(1));
    let grown = ids(&submit(&api, &["--file", file.path()]).await);
    assert_eq!(grown[..3], first);
    assert_eq!(BTreeSet::from_iter(&grown).len(), 4, "an equal line is another job");
    let text = fs::read_to_string(file.path()).unwrap();
    assert_eq!(ids(&pipe(&api, &[], &text).await), grown, "a pipe with the same lines");
    assert_eq!(count(&db).await, 4);
    let anew = ids(&submit(&api, &["--file", file.path(), "--run", "tuesday"]).await);
    assert!(anew.iter().all(|id| !grown.contains(id)));
    assert_eq!(count(&db).await, 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_line_lacks_comes_from_the_arguments() {
    let (_db, api) = start(&[]).await;
    let text = "{\"prompt\":\"a\"}\n{\"prompt\":\"b\",\"priority\":1,\"idempotency_key\":\"mine\"}\n";
    let arguments = [
        "--model",
        "tiny-a",
        "--priority",
        "-5",
        "--metadata",
        r#"{"lot":7}"#,
        "--webhook",
        "http://127.0.0.1:9/",
    ];
    let output = pipe(&api, &arguments, text).await;
    assert!(output.status.success(), "{}", stderr(&output));
    let ids = ids(&output);
    let job = api.get(&format!("/jobs/{}", ids[0])).await;
    assert_eq!((&job["priority"], &job["metadata"]["lot"]), (&json!(-5), &json!(7)));
    assert_eq!(job["state_webhook_url"], "http://127.0.0.1:9/");
    assert_eq!(api.get(&format!("/jobs/{}", ids[1])).await["priority"], 1);
    // Its own key is what it is known by.
    let other = pipe(&api, &["--model", "tiny-a"], "{\"prompt\":\"c\",\"idempotency_key\":\"mine\"}").await;
    assert_eq!(other.status.code(), Some(6));
    assert!(stderr(&other).starts_with("line 1: "), "{}", stderr(&other));
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_shrink_to_what_the_api_takes() {
    let (db, api) = start(&[("FOREMAN_MAX_BODY", "64KiB")]).await;
    let long = json!({ "model": "tiny-a", "prompt": "x".repeat(100_000) });
    let text = (0..300).fold(String::new(), |mut text, at| {
        let job = json!({ "model": "tiny-a", "prompt": format!("{at}{}", "y".repeat(1_000)) });
        writeln!(text, "{job}").unwrap();
        if at == 150 {
            writeln!(text, "{long}").unwrap();
        }
        text
    });
    let output = submit(&api, &["--file", Scratch::of(&db, &text).path()]).await;
    assert_eq!(output.status.code(), Some(6), "{}", stderr(&output));
    assert!(stderr(&output).starts_with("line 152: "), "{}", stderr(&output));
    assert_eq!((ids(&output).len(), count(&db).await), (300, 300));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_is_not_waited_for_to_its_end() {
    let (_db, api) = start(&[]).await;
    let mut command = Command::new(program());
    command.args(["submit", "--file", "-"]).env("FOREMAN_URL", &api.url);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
    // Each line is answered while the pipe stays open.
    let seen = tokio::task::spawn_blocking(move || {
        let mut seen = BTreeSet::new();
        for at in 0..3 {
            writeln!(input, "{}", json!({ "model": "tiny-a", "prompt": at.to_string() })).unwrap();
            seen.insert(output.next().unwrap().unwrap());
        }
        drop(input);
        assert!(child.wait().unwrap().success());
        seen
    });
    assert_eq!(seen.await.unwrap().len(), 3);
}
