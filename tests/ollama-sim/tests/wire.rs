//! The behaviour on the wire: clients that go away, connections that break, faults, and the simulator's own routes.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::time::Duration;

use ollama_sim::{Config, Fault, Happening, Kind, Log, Moment, Outcome, Sim, Trouble};
use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// A simulator and a client for it.
struct Rig {
    sim: Sim,
    client: Client,
}

impl Rig {
    async fn new(config: Config) -> Self {
        _ = rustls::crypto::ring::default_provider().install_default();
        Self { sim: Sim::start(config).await.unwrap(), client: Client::builder().no_proxy().build().unwrap() }
    }

    async fn get(&self, path: &str) -> Value {
        let answer = self.client.get(format!("{}{path}", self.sim.url())).send().await.unwrap();
        serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap()
    }

    async fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> reqwest::Result<Response> {
        self.client.post(format!("{}{path}", self.sim.url())).body(body).send().await
    }

    /// A chat in a task of its own. Returns its whole text, or the error that the client got.
    fn chat(&self, prompt: &str, stream: bool) -> JoinHandle<reqwest::Result<(StatusCode, String)>> {
        let request = self.client.post(format!("{}/api/chat", self.sim.url())).body(chat(prompt, stream));
        tokio::spawn(async move {
            let answer = request.send().await?;
            let status = answer.status();
            Ok((status, answer.text().await?))
        })
    }

    async fn answer(&self, prompt: &str, stream: bool) -> (StatusCode, String) {
        self.chat(prompt, stream).await.unwrap().unwrap()
    }

    fn outcomes(&self) -> Vec<Outcome> {
        self.sim.look(|log| log.records.iter().filter_map(|record| record.outcome.clone()).collect())
    }

    async fn idle(&self) {
        self.sim.until(|log| log.in_flight() == 0 && log.running() == 0).await;
    }
}

fn chat(prompt: &str, stream: bool) -> String {
    json!({"model": "tiny-a", "stream": stream, "messages": [{"role": "user", "content": prompt}]})
        .to_string()
}

fn saw(what: Happening) -> impl Fn(&Log) -> bool {
    move |log| log.events.iter().any(|event| event.what == what)
}

#[tokio::test]
async fn a_client_that_hangs_up_frees_its_slot_in_every_phase() {
    let rig = Rig::new(Config::default()).await;
    for (prompt, stream) in [
        ("sim:fault=hang@load", false),
        ("sim:fault=hang", true),
        ("sim:fault=hang", false),
        ("sim:fault=hang@1", true),
        ("sim:fault=hang@1", false),
        ("sim:tokens=1000000 sim:token-delay=1h", true),
        ("sim:prompt-delay=1h", true),
    ] {
        rig.sim.reset();
        let hanging = rig.chat(prompt, stream);
        match prompt {
            "sim:fault=hang@load" => rig.sim.until(saw(Happening::LoadStarted)).await,
            "sim:prompt-delay=1h" | "sim:fault=hang" => rig.sim.until(|log| log.running() == 1).await,
            _ => rig.sim.until(|log| log.records.iter().any(|record| record.first_token.is_some())).await,
        }
        let next = rig.chat("next", true);
        rig.sim.until(|log| log.in_flight() == 2).await;
        assert!(rig.sim.look(Log::running) < 2, "there is one slot");
        hanging.abort();
        assert!(hanging.await.unwrap_err().is_cancelled());
        assert_eq!(next.await.unwrap().unwrap().0, 200, "{prompt}");
        rig.idle().await;
        assert_eq!(rig.outcomes(), [Outcome::HungUp, Outcome::Done], "{prompt}");
    }
}

#[tokio::test]
async fn a_client_that_stops_reading_keeps_its_slot_until_it_closes() {
    let rig = Rig::new(Config::default()).await;
    let mut lazy = TcpStream::connect(rig.sim.addr()).await.unwrap();
    // Much more than the sockets on both sides can hold.
    let body = chat("sim:bytes=30000000", true);
    let request =
        format!("POST /api/chat HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    lazy.write_all(request.as_bytes()).await.unwrap();
    lazy.read_exact(&mut [0; 100]).await.unwrap();
    let next = rig.chat("next", false);
    rig.sim.until(|log| log.in_flight() == 2).await;
    // Other work continues, and the slot stays occupied: the answer does not end while nobody reads it.
    for _ in 0..50 {
        rig.get("/api/version").await;
    }
    assert_eq!(rig.sim.look(|log| (log.running(), log.completed)), (1, 0));
    drop(lazy);
    assert_eq!(next.await.unwrap().unwrap().0, 200);
    rig.idle().await;
    assert_eq!(rig.outcomes(), [Outcome::HungUp, Outcome::Done]);
}

#[tokio::test]
async fn as_many_stream_together_as_there_are_slots() {
    let rig = Rig::new(Config { parallel: 4, ..Config::default() }).await;
    let hanging: Vec<_> = (0..5).map(|i| rig.chat(&format!("sim:fault=hang@1 {i}"), true)).collect();
    let have_tokens = |log: &Log| log.records.iter().filter(|record| record.first_token.is_some()).count();
    rig.sim.until(|log| log.in_flight() == 5 && have_tokens(log) == 4).await;
    hanging.iter().for_each(JoinHandle::abort);
    rig.idle().await;
    let log = rig.sim.log();
    assert_eq!((log.max_in_flight, log.max_running, log.loads), (5, 4, 1));
    assert!(log.busy > Duration::ZERO && log.twins.is_empty());
}

#[tokio::test]
async fn faults_do_on_the_wire_what_they_say() {
    let rig = Rig::new(Config::default()).await;
    let stopped = "model runner has unexpectedly stopped, this may be due to resource limitations or an internal error, \
                   check ollama server logs for details";
    let eof = "an error was encountered while running the model: unexpected EOF";
    for (prompt, stream, status, end) in [
        ("sim:fault=busy", true, 503, "server busy, please try again.  maximum pending requests exceeded"),
        ("sim:fault=killed", true, 500, stopped),
        ("sim:fault=killed", false, 500, stopped),
        ("sim:fault=killed@2", true, 200, eof),
        ("sim:fault=killed@2", false, 500, eof),
        ("sim:fault=killed@load", true, 500, "llama-server process has terminated: signal: killed"),
        ("sim:fault=error=418", true, 418, "the simulator was told to fail"),
        ("sim:fault=stream-error@1", true, 200, "the simulator was told to fail"),
    ] {
        rig.sim.reset();
        let (got, text) = rig.answer(prompt, stream).await;
        let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        assert_eq!((got.as_u16(), &last), (status, &json!({ "error": end })), "{prompt}");
    }
    for prompt in ["sim:fault=reset", "sim:fault=reset@2", "sim:fault=reset@load", "sim:fault=reset@arrival"]
    {
        rig.sim.reset();
        for stream in [true, false] {
            let error = rig.chat(prompt, stream).await.unwrap().unwrap_err();
            assert!(!error.is_connect() && !error.is_status(), "{prompt}: {error:?}");
        }
        assert!(
            rig.outcomes().iter().all(|outcome| *outcome == Outcome::Cut),
            "{prompt}: {:?}",
            rig.outcomes()
        );
    }
    for (prompt, lines) in [("sim:fault=end", 0), ("sim:fault=end@3", 3), ("sim:loop", 31)] {
        let (status, text) = rig.answer(prompt, true).await;
        assert_eq!((status.as_u16(), text.lines().count()), (200, lines), "{prompt}");
        assert!(!text.contains(r#""done":true"#), "{prompt}");
    }
    let (_, text) = rig.answer("sim:loop", false).await;
    let answer: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&answer["done"], answer["message"]["content"].as_str().unwrap().len()),
        (&json!(false), 31 * 5)
    );
}

#[tokio::test]
async fn a_runner_that_dies_takes_everything_on_it_down_and_comes_back() {
    let rig = Rig::new(Config { parallel: 3, ..Config::default() }).await;
    let streaming = rig.chat("sim:tokens=9 sim:token-delay=1h", true);
    let waiting = rig.chat("sim:prompt-delay=1h", false);
    rig.sim
        .until(|log| log.running() == 2 && log.records.iter().any(|record| record.first_token.is_some()))
        .await;
    assert!(rig.sim.kill_runner("TINY-A") && !rig.sim.kill_runner("tiny-b"));
    assert!(streaming.await.unwrap().unwrap().1.ends_with("unexpected EOF\"}\n"));
    assert_eq!(waiting.await.unwrap().unwrap().0, 500);
    assert_eq!(rig.sim.resident(), ["tiny-a:latest"], "it is listed all the same");
    assert_eq!(rig.answer("again", true).await.0, 200);
    assert_eq!(rig.sim.log().loads, 2);
}

#[tokio::test]
async fn while_it_is_away_it_refuses_connections_and_forgets_what_was_resident() {
    let rig = Rig::new(Config::default()).await;
    let cut = rig.chat("sim:fault=hang@1", true);
    rig.sim.until(|log| log.running() == 1).await;
    rig.sim.go_away().await;
    assert!(!cut.await.unwrap().unwrap_err().is_connect());
    assert!(rig.post("/api/chat", chat("x", true)).await.unwrap_err().is_connect());
    rig.sim.go_away().await;
    rig.sim.come_back().await.unwrap();
    rig.sim.come_back().await.unwrap();
    assert_eq!(rig.get("/api/ps").await, json!({"models": []}));
    assert_eq!(rig.answer("x", true).await.0, 200);
    assert_eq!(rig.sim.log().loads, 2);
}

#[tokio::test]
async fn the_log_tells_bodies_byte_for_byte_and_bodies_that_ran_twice_at_once() {
    let rig = Rig::new(Config { parallel: 2, ..Config::default() }).await;
    let odd = r#" {"stream":false,"model":"TINY-A" , "messages":[{"content":"é"}],"x":1.50}  trailing"#;
    assert_eq!(rig.post("/api/chat", odd).await.unwrap().status(), 200);
    let once = rig.chat("sim:fault=hang@1", true);
    let twice = rig.chat("sim:fault=hang@1", true);
    rig.sim.until(|log| log.running() == 2).await;
    once.abort();
    twice.abort();
    rig.idle().await;
    let log = rig.sim.log();
    let record = &log.records[0];
    assert_eq!(
        (&record.body[..], record.model.as_str(), record.kind),
        (odd.as_bytes(), "tiny-a:latest", Kind::Run)
    );
    assert!(record.arrived <= record.started.unwrap() && record.started <= record.first_token);
    assert!(record.first_token <= record.ended && record.tokens == 8);
    assert_eq!(log.twins, [chat("sim:fault=hang@1", true)]);
    assert_eq!(log.order(), ["tiny-a:latest"; 3]);
    assert_eq!(log.completions().into_iter().collect::<Vec<_>>(), [(odd.into(), 1)]);
}

#[tokio::test]
async fn the_mark_is_on_final_answers_only_and_zeros_are_left_out() {
    let rig = Rig::new(Config { simulated_mark: true, ..Config::default() }).await;
    let (_, text) = rig.answer("sim:tokens=2", true).await;
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        lines.iter().map(|line| &line["simulated"]).collect::<Vec<_>>(),
        [&Value::Null, &Value::Null, &json!(true)]
    );
    let (_, text) = rig.answer("sim:no-metrics", false).await;
    assert!(text.ends_with(r#""done":true,"done_reason":"stop","simulated":true}"#), "{text}");
}

#[tokio::test]
async fn a_test_in_another_process_can_drive_it() {
    let control = "127.0.0.1:0".parse().unwrap();
    let rig = Rig::new(Config { control_addr: Some(control), ..Config::default() }).await;
    let fault = json!({"what": {"error": {"status": 500, "text": "boom"}}, "when": "arrival", "times": 1});
    assert_eq!(rig.post("/sim/faults", fault.to_string()).await.unwrap().status(), 200);
    let several =
        json!([{"what": "reset", "when": {"tokens": 2}, "model": "tiny-b", "skip": 1, "body_contains": "x"}]);
    assert_eq!(rig.post("/sim/faults", several.to_string()).await.unwrap().status(), 200);
    assert_eq!(
        rig.sim.faults(),
        [
            Fault::new(Trouble::error(500, "boom"), Moment::Arrival).once(),
            Fault::new(Trouble::Reset, Moment::Tokens(2)).for_model("tiny-b").for_body_with("x").after(1),
        ]
    );
    assert_eq!(rig.post("/sim/faults", r#"{"what":"nothing"}"#).await.unwrap().status(), 400);
    assert_eq!(rig.answer("x", true).await.0, 500);
    assert_eq!(rig.answer("x", true).await.0, 200);
    assert_eq!(
        rig.client.delete(format!("{}/sim/faults", rig.sim.url())).send().await.unwrap().status(),
        200
    );
    assert!(rig.sim.faults().is_empty());

    let log = rig.get("/sim/log").await;
    assert_eq!(
        (&log["completed"], &log["loads"], &log["requests"]["/api/chat"]),
        (&json!(1), &json!(1), &json!(2))
    );
    assert_eq!(log["records"][1]["body"], chat("x", true));
    assert_eq!(rig.get("/sim/log?records=no").await["records"], json!([]));
    let killed = rig.post("/sim/kill", r#"{"model":"tiny-a"}"#).await.unwrap();
    assert_eq!(killed.text().await.unwrap(), "true");
    assert_eq!(rig.post("/sim/reset", "").await.unwrap().status(), 200);
    assert_eq!(rig.sim.log().records.len(), 0);

    assert_eq!(rig.post("/sim/away", "").await.unwrap().status(), 200);
    while rig.client.get(rig.sim.url()).send().await.is_ok() {}
    let control = format!("http://{}", rig.sim.control_addr().unwrap());
    assert!(rig.client.get(format!("{control}/sim/log")).send().await.is_ok(), "this address stays");
    assert_eq!(rig.client.post(format!("{control}/sim/back")).send().await.unwrap().status(), 200);
    while rig.client.get(rig.sim.url()).send().await.is_err() {}
}

#[tokio::test]
async fn without_a_control_address_it_says_for_how_long_it_goes_away() {
    let rig = Rig::new(Config::default()).await;
    assert_eq!(rig.post("/sim/away", "").await.unwrap().status(), 400);
    assert_eq!(rig.post("/sim/away", r#"{"for":"20ms"}"#).await.unwrap().status(), 200);
    while rig.client.get(rig.sim.url()).send().await.is_ok() {}
    while rig.client.get(rig.sim.url()).send().await.is_err() {}
}
