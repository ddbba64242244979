//! Random bodies, right and wrong, at an Ollama and through Foreman: both say the same.
//!
//! The simulator reads JSON with a reader of its own, so an error of ours shows as a difference. Each side has an Ollama of its
//! own, because a request changes which models are resident.

use std::collections::BTreeSet;
use std::env;

use foreman_tests::http;
use ollama_sim::{Config, Sim};
use proptest::prelude::*;
use proptest::test_runner::{Config as Cases, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use tokio::runtime::Handle;
use tokio::task::block_in_place;

use super::callers::STREAMED;
use super::{Answered, House, answered, comparable};

/// Cases of one run, the same in every run. `FOREMAN_FUZZ_CASES` asks for as many random ones instead.
const CASES: u32 = 150;

/// A request as bytes.
#[derive(Debug, Clone)]
struct Request {
    path: &'static str,
    body: Vec<u8>,
}

fn request() -> impl Strategy<Value = Request> {
    let path = prop::sample::select(&STREAMED[..]);
    path.prop_flat_map(|path| body(path).prop_map(move |body| Request { path, body }))
}

/// The bodies of a route: an object of members in any order, mostly whole.
fn body(path: &'static str) -> impl Strategy<Value = Vec<u8>> {
    let usual = (Just(path), model_value()).prop_map(|(path, model)| {
        let words = match path {
            "/api/generate" | "/v1/completions" => r#""prompt":"x""#,
            "/v1/responses" => r#""input":"x""#,
            _ => r#""max_tokens":4,"messages":[{"role":"user","content":"x"}]"#,
        };
        vec![format!(r#""model":{model}"#), words.to_owned()]
    });
    let members =
        (usual, prop::collection::vec(member(), 0..4)).prop_map(|(usual, more)| [usual, more].concat());
    let shuffled = members.prop_shuffle();
    let object = (shuffled, prop::sample::select(&[",", " , ", ",\n\t"][..]))
        .prop_map(|(members, comma)| format!("{{{}}}", members.join(comma)).into_bytes());
    let end = prop_oneof![
        6 => Just(""),
        1 => prop::sample::select(&[" ", "\n", "x", "{}", r#"{"model":"nope"}"#, "\u{0}", "]"][..]),
    ];
    let whole = (object, end).prop_map(|(body, end)| [&body, end.as_bytes()].concat());
    (whole, mutation()).prop_map(|(body, mutation)| mutation.apply(body))
}

/// What happens to the bytes of a body on their way.
#[derive(Debug, Clone)]
enum Mutation {
    None,
    Cut(prop::sample::Index),
    Byte(prop::sample::Index, u8),
    Instead(&'static str),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let others = [
        "",
        " ",
        "null",
        "[]",
        "[1]",
        "5",
        "true",
        "\"x\"",
        "{",
        "hello",
        "\u{feff}{}",
        "nul",
        "-",
        "1e",
        "{}",
    ];
    prop_oneof![
        12 => Just(Mutation::None),
        1 => any::<prop::sample::Index>().prop_map(Mutation::Cut),
        2 => (any::<prop::sample::Index>(), any::<u8>()).prop_map(|(at, byte)| Mutation::Byte(at, byte)),
        1 => prop::sample::select(others.to_vec()).prop_map(Mutation::Instead),
    ]
}

impl Mutation {
    fn apply(self, mut body: Vec<u8>) -> Vec<u8> {
        match self {
            Self::None => {}
            Self::Cut(at) => body.truncate(at.index(body.len())),
            Self::Byte(at, byte) => {
                let at = at.index(body.len());
                body[at] = byte;
            }
            Self::Instead(other) => body = other.as_bytes().to_vec(),
        }
        body
    }
}

fn model_value() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => Just(r#""tiny-a""#),
        1 => prop::sample::select(vec![
            r#""tiny-a:latest""#, r#""TINY-A""#, r#""tiny\u002da""#, r#""nope""#, r#""""#, "null", "5", r#""a b/c d""#,
            r#""tiny-a\u0000""#, r#""\ud800""#, "[]", r#""registry.ollama.ai/library/tiny-a""#,
        ]),
    ]
    .prop_map(str::to_owned)
}

fn member() -> impl Strategy<Value = String> {
    let of = |key: &'static str, values: Vec<&'static str>| (Just(key), prop::sample::select(values)).boxed();
    let deep = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    let deep: Vec<&'static str> = vec![deep(900).leak(), deep(10_001).leak()];
    let any = prop_oneof![
        of("stream", vec!["true", "false", "null", r#""yes""#, "0", "{}", "[]"]),
        of(
            "keep_alive",
            vec![
                "0",
                "-1",
                "300",
                "1.5",
                r#""5m""#,
                r#""1h30m""#,
                r#""0s""#,
                r#""soon""#,
                r#""""#,
                "null",
                "true",
                "[]",
                "{}",
            ]
        ),
        of(
            "messages",
            vec![
                "[]",
                "null",
                r#""x""#,
                "5",
                r#"[{"role":"user","content":""}]"#,
                r#"[{"content":5}]"#,
                "[5]",
                "[null]",
                r#"[{"role":"user","content":"\ud800x\udc00"}]"#,
                r#"[{"role":"user","content":"a\u0000b"}]"#,
            ]
        ),
        of("prompt", vec![r#""""#, "null", "5", r#""\ud83d\ude00 \ud83d""#, r#""x""#]),
        of(
            "options",
            vec![
                "{}",
                "null",
                "[1]",
                r#""x""#,
                r#"{"num_ctx":2048}"#,
                r#"{"num_ctx":"big"}"#,
                r#"{"num_predict":2.5}"#,
                r#"{"NUM_CTX":1024}"#,
                r#"{"num_ctx":1024,"num_ctx":512}"#,
                r#"{"num_gpu":1e3}"#,
                r#"{"num_ctx":null}"#,
            ]
        ),
        of("shift", vec!["true", "false", "null", "1"]),
        of("format", vec![r#""json""#, r#""""#, "null", r#""yaml""#]),
        of("max_tokens", vec!["3", "0", "null", r#""x""#, "1.5", "99999999999999999999999", "1e400"]),
        of(
            "unknown",
            vec!["1e999999", "-0.0", r#""\/\b\f""#, r#"{"a":{"a":1,"a":2}}"#, "01", "+1", ".5", "'x'", "NaN"]
        ),
        of("unknown", deep),
        of("model", vec![r#""tiny-a""#, r#""tiny-b""#, "null", "7"]),
    ];
    (any, spelling()).prop_map(|((key, value), spelling)| format!(r#""{}":{value}"#, spelling.write(key)))
}

/// How a key is written.
#[derive(Debug, Clone, Copy)]
enum Spelling {
    Plain,
    Upper,
    Escaped,
    LongS,
}

fn spelling() -> impl Strategy<Value = Spelling> {
    prop_oneof![
        8 => Just(Spelling::Plain),
        1 => Just(Spelling::Upper),
        1 => Just(Spelling::Escaped),
        1 => Just(Spelling::LongS),
    ]
}

impl Spelling {
    fn write(self, key: &str) -> String {
        match self {
            Self::Plain => key.to_owned(),
            Self::Upper => key.to_uppercase(),
            Self::Escaped => key.chars().map(|c| format!("\\u{:04x}", u32::from(c))).collect(),
            Self::LongS => key.replace('s', "\u{17f}").replace('k', "\u{212a}"),
        }
    }
}

/// What both sides must say. Within errors Ollama itself does not agree whether a charset is named and a line ends.
fn said(mut answer: Answered) -> String {
    if answer.status != 200 {
        answer.content_type = answer.content_type.split(';').next().unwrap_or_default().to_owned();
        answer.body = answer.body.trim_end().to_owned();
    }
    comparable(&answer)
}

/// Whether the body has two models or two streams, however they are written.
fn repeats(body: &[u8]) -> bool {
    let body = String::from_utf8_lossy(body);
    let spellings = [Spelling::Plain, Spelling::Upper, Spelling::Escaped, Spelling::LongS];
    ["model", "stream"].into_iter().any(|key| {
        let written: BTreeSet<String> = spellings.into_iter().map(|one| one.write(key)).collect();
        written.iter().map(|key| body.matches(&format!("\"{key}\"")).count()).sum::<usize>() > 1
    })
}

/// The differences that Foreman is meant to have.
fn is_meant(request: &Request, direct: &Answered, through: &Answered) -> bool {
    let of_model = ["not found", "model is required", "invalid model name"];
    let of_model = through.status != 200 && of_model.iter().any(|text| through.body.contains(text));
    let wrong_type =
        |answer: &Answered| answer.status == 400 && answer.body.contains("json: cannot unmarshal");
    // The queue asks for the model first. Ollama finds other errors before it looks for the model.
    (of_model && direct.status != 200)
        // Foreman reads only the members that the queue needs, and names the first of them that has a wrong type. Ollama may
        // name another member, which is wrong too.
        || (direct.status == 400 && wrong_type(through))
        // The simulator stops at a tenth of Go's 10,000 levels, and so before an error further inside.
        || (through.status == 400 && direct.body.contains("exceeded max depth"))
        // Go remembers the first wrong type, even if the same member comes again with a right one. The simulator looks on these
        // routes only at the last.
        || (request.path.starts_with("/v1/") && wrong_type(through) && repeats(&request.body))
}

async fn both(request: &Request, ollama: &str, foreman: &str) -> Result<(), String> {
    let send = async |url: &str| {
        let request = http().post(format!("{url}{}", request.path)).body(request.body.clone());
        answered(request.send().await.unwrap()).await
    };
    let (direct, through) = tokio::join!(send(ollama), send(foreman));
    if is_meant(request, &direct, &through) {
        return Ok(());
    }
    let (direct, through) = (said(direct), said(through));
    if direct == through {
        return Ok(());
    }
    let body: String = String::from_utf8_lossy(&request.body).chars().take(400).collect();
    Err(format!("{} {body}\n ollama: {direct}\nforeman: {through}", request.path))
}

#[tokio::test(flavor = "multi_thread")]
async fn random_bodies_are_answered_as_by_an_ollama() {
    let random: Option<u32> = env::var("FOREMAN_FUZZ_CASES").ok().map(|cases| cases.parse().unwrap());
    let ollama = Sim::start(Config::default()).await.unwrap();
    let house = House::start(&[], &[]).await;
    let (ollama, foreman) = (ollama.url(), house.api.url.clone());
    let config = Cases {
        cases: random.unwrap_or(CASES),
        max_shrink_iters: 100,
        failure_persistence: None,
        ..Cases::default()
    };
    let found = block_in_place(|| {
        let mut runner = match random {
            Some(_) => TestRunner::new(config),
            None => TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha)),
        };
        runner.run(&request(), |request| {
            let both = both(&request, &ollama, &foreman);
            Handle::current().block_on(both).map_err(TestCaseError::fail)
        })
    });
    if let Err(TestError::Fail(difference, _) | TestError::Abort(difference)) = found {
        panic!("{difference}");
    }
    house.db.every_job_has_one_room().await;
}
