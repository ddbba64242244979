//! The client against the simulator, and against servers that are not Ollama.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod blanked;

use std::time::Duration;

use blanked::comparable;
use foreman_ollama::{
    Client, Context, Failure, FailureKind, Generation, Join, Joined, LoadKey, ModelName, OllamaHost, Pushed,
    Route, write_context,
};
use ollama_sim::{Config, Fault, Happening, KeepAlive, Log, Model, Moment, Outcome, Sim, Trouble};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

const ROOM: usize = 1 << 20;

fn client_of(url: &str) -> Client {
    _ = rustls::crypto::ring::default_provider().install_default();
    Client::new(OllamaHost::parse(url).unwrap()).unwrap()
}

async fn sim(config: Config) -> (Sim, Client) {
    let sim = Sim::start(config).await.unwrap();
    let client = client_of(&sim.url());
    (sim, client)
}

fn key(text: &str) -> LoadKey {
    text.parse().unwrap()
}

fn chat(prompt: &str) -> String {
    format!(r#"{{"model":"tiny-a","messages":[{{"role":"user","content":"{prompt}"}}],"stream":true}}"#)
}

async fn join(route: Route, mut generation: Generation) -> Result<Joined, Failure> {
    let mut join = Join::new(route, ROOM);
    while let Some(line) = generation.next().await? {
        join.push(&line)?;
    }
    join.finish()
}

async fn idle(sim: &Sim) {
    sim.until(|log| log.in_flight() == 0 && log.running() == 0).await;
}

#[tokio::test]
async fn listings_say_what_is_installed_and_what_is_loaded() {
    let models = vec![Model::parse("tiny-a+tools").unwrap(), Model::parse("embed:v1+embedding").unwrap()];
    let (_sim, client) = sim(Config { models, ..Config::default() }).await;
    assert_eq!(client.version().await.unwrap(), "0.32.15");
    let tags = client.tags().await.unwrap();
    let seen: Vec<_> = tags.iter().map(|model| (model.name.as_str(), model.embeds_only())).collect();
    assert_eq!(seen, [("tiny-a:latest", false), ("embed:v1", true)]);
    assert_eq!(tags[0].details.context_length, Some(2048));
    assert!(client.ps().await.unwrap().is_empty());
    client.preload(&key("tiny-a:latest num_ctx=1024"), Route::Generate).await.unwrap();
    let running = client.ps().await.unwrap();
    assert_eq!((running[0].name.as_str(), running[0].context_length), ("tiny-a:latest", Some(1024)));
    assert!(running[0].expires_at.is_some());
}

#[tokio::test]
async fn what_is_preloaded_runs_without_another_load_on_either_route() {
    let (sim, client) = sim(Config::default()).await;
    for route in [Route::Chat, Route::Generate] {
        for (options, shift) in [("", ""), (r#""num_ctx":1024,"num_gpu":1"#, r#","shift":false"#)] {
            sim.reset();
            let task =
                if route == Route::Chat { r#""messages":[{"content":"x"}]"# } else { r#""prompt":"x""# };
            let body = format!(r#"{{"model":"Tiny-A",{task},"options":{{"seed":1,{options}}}{shift}}}"#)
                .replace(",}", "}");
            let job = foreman_ollama::JobBody::parse(body.as_bytes()).unwrap();
            client.preload(&job.load_key, job.route).await.unwrap();
            assert_eq!(sim.resident(), ["tiny-a:latest"]);
            let joined = join(route, client.run(route, job.payload, ROOM)).await.unwrap();
            assert!(joined.body.starts_with(r#"{"model":"Tiny-A","#));
            assert_eq!((joined.metrics.eval_count, sim.log().loads), (9, 1));
            client.unload(&job.load_key, job.route).await.unwrap();
            assert!(sim.resident().is_empty());
            client.unload(&job.load_key, job.route).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_body_with_the_context_of_the_runner_runs_without_another_load() {
    let (sim, client) = sim(Config::default()).await;
    let resident = key("tiny-a:latest num_ctx=1024");
    for options in [
        "",
        r#","options":{}"#,
        r#","options":null"#,
        r#","options":{"seed":1,"num_ctx":512}"#,
        r#","options":{"num_ctx":512},"options":null"#,
        r#","options":{"num_ctx":512},"OPTIONS":{"seed":1}"#,
        r#","options":{"num\u005fctx":2048.9,"num_ctx":null}"#,
    ] {
        for context in [resident.context(), Context::Automatic] {
            sim.reset();
            client.preload(&resident.with_context(context), Route::Generate).await.unwrap();
            let length = if let Context::Length(length) = context { Some(length) } else { None };
            let body = format!(r#"{{"model":"tiny-a","prompt":"x"{options}}}"#);
            let body = write_context(Route::Generate, &body, length);
            join(Route::Generate, client.run(Route::Generate, body, ROOM)).await.unwrap();
            assert_eq!(sim.log().loads, 1, "{options} {context:?}");
        }
    }
}

#[tokio::test]
async fn a_preload_keeps_its_model_and_a_job_does_not_change_that() {
    let config = Config { keep_alive: KeepAlive::For(Duration::ZERO), ..Config::default() };
    let (sim, client) = sim(config).await;
    let model = LoadKey::of_model(ModelName::parse("tiny-a").unwrap());
    client.preload(&model, Route::Chat).await.unwrap();
    join(Route::Chat, client.run(Route::Chat, chat("x"), ROOM)).await.unwrap();
    assert_eq!(sim.resident(), ["tiny-a:latest"]);
}

#[tokio::test]
async fn a_joined_run_is_what_ollama_answers_unstreamed() {
    let models = vec![Model::parse("tiny-a+tools+thinking").unwrap()];
    let (_sim, client) = sim(Config { models, ..Config::default() }).await;
    let tools = r#","tools":[{"type":"function","function":{"name":"f<>","parameters":{"properties":{"z":{"type":"number"},"a":{}}}}}]"#;
    for (prompt, more) in [
        ("sim:think", ""),
        ("sim:think sim:tools=3", tools),
        (r#"sim:echo \u003cb\u003e \"quoted\" \\u0000 é 😀 \u2028"#, ""),
        ("x", r#","logprobs":true,"top_logprobs":2"#),
        ("sim:no-metrics", ""),
        ("sim:tokens=0", ""),
    ] {
        for (route, task) in [
            (Route::Chat, format!(r#""messages":[{{"content":"{prompt}"}}]"#)),
            (Route::Generate, format!(r#""prompt":"{prompt}","raw":false"#)),
        ] {
            let more = if route == Route::Chat { more } else { more.strip_prefix(tools).unwrap_or(more) };
            let body = |stream| format!(r#"{{"model":"tiny-a","stream":{stream},{task}{more}}}"#);
            let joined = join(route, client.run(route, body(true), ROOM)).await.unwrap();
            let mut unstreamed = client.run(route, body(false), ROOM);
            let whole = unstreamed.next().await.unwrap().unwrap();
            assert_eq!(unstreamed.next().await.unwrap(), None);
            assert_eq!(comparable(&joined.body), comparable(std::str::from_utf8(&whole).unwrap()));
        }
    }
}

#[tokio::test]
async fn every_failure_is_of_its_kind() {
    let (sim, client) = sim(Config::default()).await;
    for (prompt, kind, code) in [
        ("sim:fault=busy", FailureKind::MayPass, "server_busy"),
        ("sim:fault=oom", FailureKind::MayPass, "out_of_memory"),
        ("sim:fault=killed@load", FailureKind::MayPass, "runner_stopped"),
        ("sim:fault=killed", FailureKind::MayPass, "runner_stopped"),
        ("sim:fault=killed@2", FailureKind::MayPass, "runner_stopped"),
        ("sim:fault=reset@arrival", FailureKind::MayPass, "ollama_connection_lost"),
        ("sim:fault=reset@load", FailureKind::MayPass, "ollama_connection_lost"),
        ("sim:fault=reset", FailureKind::MayPass, "ollama_connection_lost"),
        ("sim:fault=reset@2", FailureKind::MayPass, "ollama_connection_lost"),
        ("sim:fault=end", FailureKind::MayPass, "ollama_ended_early"),
        ("sim:fault=end@2", FailureKind::MayPass, "ollama_ended_early"),
        ("sim:loop", FailureKind::MayPass, "ollama_ended_early"),
        ("sim:fault=error=500", FailureKind::Lasting, "ollama_error"),
        ("sim:fault=error=400", FailureKind::Lasting, "ollama_refused"),
        ("sim:fault=stream-error@1", FailureKind::Lasting, "ollama_error"),
        ("sim:bytes=2000000", FailureKind::Lasting, "result_too_large"),
    ] {
        sim.reset();
        let failure = join(Route::Chat, client.run(Route::Chat, chat(prompt), ROOM)).await.unwrap_err();
        assert_eq!((failure.kind(), failure.code()), (kind, code), "{prompt}: {failure:?}");
        idle(&sim).await;
    }
    let unknown = client.run(Route::Chat, r#"{"model":"nope","messages":[{}]}"#, ROOM);
    assert_eq!(join(Route::Chat, unknown).await.unwrap_err().code(), "model_not_found");
    let preload = client.preload(&key("nope:latest"), Route::Chat).await.unwrap_err();
    assert_eq!((preload.kind(), preload.code()), (FailureKind::ModelMissing, "model_not_found"));
    sim.reset();
    sim.fault(Fault::new(Trouble::RunnerKilled, Moment::Load));
    assert_eq!(
        client.preload(&key("tiny-a:latest"), Route::Chat).await.unwrap_err().kind(),
        FailureKind::MayPass
    );
}

#[tokio::test]
async fn dropping_a_run_or_a_preload_hangs_up() {
    let (sim, client) = sim(Config::default()).await;
    for prompt in ["sim:fault=hang@load", "sim:fault=hang", "sim:fault=hang@1", "sim:fault=hang@arrival"] {
        sim.reset();
        let generation = client.run(Route::Chat, chat(prompt), ROOM);
        match prompt {
            "sim:fault=hang@load" => {
                sim.until(|log| log.events.iter().any(|event| event.what == Happening::LoadStarted)).await;
            }
            "sim:fault=hang@arrival" => sim.until(|log| !log.records.is_empty()).await,
            "sim:fault=hang@1" => {
                sim.until(|log| log.records.iter().any(|record| record.first_token.is_some())).await;
            }
            _ => sim.until(|log| log.running() == 1).await,
        }
        drop(generation);
        sim.until(|log| log.records.iter().all(|record| record.outcome == Some(Outcome::HungUp))).await;
        idle(&sim).await;
    }
    sim.reset();
    sim.fault(Fault::new(Trouble::Hang, Moment::Load).once());
    let model = key("tiny-a:latest");
    let preload = client.preload(&model, Route::Chat);
    let started = sim.until(|log| log.events.iter().any(|event| event.what == Happening::LoadStarted));
    tokio::select! {
        _ = preload => unreachable!("the load hangs"),
        () = started => {}
    }
    sim.until(|log| log.events.iter().any(|event| event.what == Happening::LoadAborted)).await;
}

#[tokio::test]
async fn nobody_who_takes_lines_slowly_keeps_the_slot() {
    let (sim, client) = sim(Config::default()).await;
    let mut generation = client.run(Route::Chat, chat("sim:bytes=20000000"), 64 << 20);
    sim.until(|log| log.completed == 1).await;
    idle(&sim).await;
    let mut join = Join::new(Route::Chat, 64 << 20);
    let mut progress = Pushed::More;
    while let Some(line) = generation.next().await.unwrap() {
        progress = join.push(&line).unwrap();
    }
    assert_eq!(progress, Pushed::Last);
    assert!(join.finish().unwrap().body.len() > 20_000_000);
}

#[tokio::test]
async fn what_lies_unread_is_bounded() {
    let (sim, client) = sim(Config::default()).await;
    let mut generation = client.run(Route::Chat, chat("sim:bytes=20000000"), ROOM);
    // The reader hangs up by itself when nobody takes its lines.
    sim.until(|log| log.records.iter().any(|record| record.outcome == Some(Outcome::HungUp))).await;
    let failure = loop {
        match generation.next().await {
            Ok(line) => assert!(line.is_some()),
            Err(failure) => break failure,
        }
    };
    assert_eq!((failure.kind(), failure.code()), (FailureKind::Lasting, "result_too_large"));
    assert_eq!(generation.next().await.unwrap(), None, "and that is its end");
}

#[tokio::test]
async fn a_next_that_was_given_up_loses_no_line() {
    let (_sim, client) = sim(Config::default()).await;
    let mut generation = client.run(Route::Chat, chat("sim:tokens=50 sim:token-delay=1ms"), ROOM);
    let mut join = Join::new(Route::Chat, ROOM);
    loop {
        match tokio::time::timeout(Duration::from_micros(300), generation.next()).await {
            Err(_) => {}
            Ok(Ok(Some(line))) => _ = join.push(&line).unwrap(),
            Ok(end) => break assert_eq!(end.unwrap(), None),
        }
    }
    assert_eq!(join.finish().unwrap().metrics.eval_count, 51);
}

#[tokio::test]
async fn a_host_that_is_away_is_the_hosts_trouble() {
    let (sim, client) = sim(Config::default()).await;
    client.version().await.unwrap();
    sim.go_away().await;
    let nowhere = client_of("http://no-such-host.invalid:1");
    for client in [&client, &nowhere] {
        for failure in [
            client.version().await.unwrap_err(),
            client.preload(&key("tiny-a:latest"), Route::Chat).await.unwrap_err(),
            join(Route::Chat, client.run(Route::Chat, chat("x"), ROOM)).await.unwrap_err(),
        ] {
            assert_eq!(
                (failure.kind(), failure.code()),
                (FailureKind::Unreachable, "ollama_unreachable"),
                "{failure:?}"
            );
        }
    }
    sim.come_back().await.unwrap();
    assert_eq!(client.version().await.unwrap(), "0.32.15");
    assert_eq!(sim.look(Log::in_flight), 0);
}

/// Answers the first request of each connection with these bytes, then closes the connection.
async fn answering(bytes: &'static [u8]) -> Client {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = client_of(&format!("http://{}", listener.local_addr().unwrap()));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = Vec::new();
            while !request.ends_with(b"]}") && !request.ends_with(b"\r\n\r\n") {
                if stream.read_buf(&mut request).await.unwrap() == 0 {
                    break;
                }
            }
            stream.write_all(bytes).await.unwrap();
        }
    });
    client
}

#[tokio::test]
async fn whatever_answers_a_job_gets_an_end_of_some_kind() {
    const BODY: &str = r#"{"model":"a","messages":[]}"#;
    for (answer, kind, code) in [
        (&b""[..], FailureKind::MayPass, "ollama_connection_lost"),
        (b"garbage\r\n\r\n", FailureKind::MayPass, "ollama_connection_lost"),
        (b"HTTP/1.1 200 OK\r\ncontent-le", FailureKind::MayPass, "ollama_connection_lost"),
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{\"done\":true}\n",
            FailureKind::MayPass,
            "ollama_connection_lost",
        ),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n",
            FailureKind::MayPass,
            "ollama_connection_lost",
        ),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", FailureKind::MayPass, "ollama_ended_early"),
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n\xff\xff\n\n",
            FailureKind::MayPass,
            "ollama_unreadable",
        ),
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 15\r\n\r\n<html>hi</html>",
            FailureKind::MayPass,
            "ollama_unreadable",
        ),
        (
            b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n",
            FailureKind::NotOllama,
            "not_ollama",
        ),
        (
            b"HTTP/1.1 404 Not Found\r\nserver: foreman/0.1.0\r\ncontent-length: 0\r\n\r\n",
            FailureKind::NotOllama,
            "ollama_is_foreman",
        ),
        (b"HTTP/1.1 204 No Content\r\n\r\n", FailureKind::NotOllama, "not_ollama"),
        (b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 3\r\n\r\nbad", FailureKind::MayPass, "bad_gateway"),
        (b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n", FailureKind::Lasting, "ollama_refused"),
        // The text of the error is unknown here.
        (
            b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 99\r\n\r\n{\"err",
            FailureKind::MayPass,
            "ollama_connection_lost",
        ),
    ] {
        let client = answering(answer).await;
        let run = join(Route::Chat, client.run(Route::Chat, BODY, ROOM)).await;
        let shown = String::from_utf8_lossy(answer);
        let failure = run.unwrap_err();
        assert_eq!((failure.kind(), failure.code()), (kind, code), "{shown}: {failure:?}");
    }
    let client = answering(b"HTTP/1.1 200 OK\r\ncontent-length: 13\r\n\r\n{\"done\":true}").await;
    join(Route::Chat, client.run(Route::Chat, BODY, ROOM)).await.unwrap();
    let client = answering(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await;
    assert_eq!(client.tags().await.unwrap_err().code(), "ollama_unreadable");
    assert_eq!(client.version().await.unwrap_err().code(), "ollama_unreadable");
}

#[tokio::test]
async fn a_request_carries_nothing_but_its_body() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let client = client_of(&format!("http://{addr}/behind/a/prefix"));
    let mut generation = client.run(Route::Generate, "{}", ROOM);
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut request = Vec::new();
    while !request.ends_with(b"{}") {
        stream.read_buf(&mut request).await.unwrap();
    }
    let request = String::from_utf8(request).unwrap();
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    let mut lines: Vec<_> = head.lines().map(str::to_lowercase).collect();
    lines.sort();
    let expected = [
        "accept: */*".to_owned(),
        "content-length: 2".to_owned(),
        "content-type: application/json".to_owned(),
        format!("host: {addr}"),
        "post /behind/a/prefix/api/generate http/1.1".to_owned(),
    ];
    assert_eq!((lines.as_slice(), body), (&expected[..], "{}"));
    drop(stream);
    assert_eq!(generation.next().await.unwrap_err().kind(), FailureKind::MayPass);
}
