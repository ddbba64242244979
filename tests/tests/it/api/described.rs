//! Compares the description of the api with real answers.

mod limits;

use std::collections::BTreeSet;

use foreman_store::{Completion, Exit};
use foreman_tests::{Api, Db};
use reqwest::{Method, Response};
use serde_json::{Value, json};

use super::{JOB, ask, get, header, json as read, post, problem, publish, start, submit};

/// The description, and the parts of it that answers have shown.
struct Contract {
    api: Value,
    seen: BTreeSet<(String, String, u16)>,
}

impl Contract {
    async fn of(api: &Api) -> Self {
        let mut api = read(get(api, "/openapi.json").await).await;
        // Clients should accept unknown fields. Here an undescribed field is a mistake.
        for schema in api["components"]["schemas"].as_object_mut().unwrap().values_mut() {
            if schema.get("properties").is_some() {
                schema["additionalProperties"] = json!(false);
            }
        }
        Self { api, seen: BTreeSet::new() }
    }

    fn operations(&self) -> impl Iterator<Item = (&str, &str, &Value)> {
        self.api["paths"].as_object().unwrap().iter().flat_map(|(path, item)| {
            item.as_object()
                .unwrap()
                .iter()
                .map(move |(method, operation)| (path.as_str(), method.as_str(), operation))
        })
    }

    /// Checks an answer of this route: its status, its content type, the headers and the body.
    async fn check(&mut self, method: &Method, path: &str, answer: Response) {
        let (status, what) = (answer.status().as_u16(), format!("{method} {path} {}", answer.status()));
        let method = method.as_str().to_lowercase();
        let described = &self.api["paths"][path][&method]["responses"][status.to_string()];
        assert!(described.is_object(), "{what} is not described");
        for name in described["headers"].as_object().into_iter().flat_map(|headers| headers.keys()) {
            let is_sometimes = name == "Idempotency-Replayed";
            assert!(is_sometimes || !header(&answer, name).is_empty(), "{what} lacks {name}");
        }
        let kind = header(&answer, "content-type").split(';').next().unwrap().to_owned();
        let body = answer.bytes().await.unwrap();
        self.seen.insert((path.to_owned(), method, status));
        let Some(content) = described["content"].as_object() else {
            assert!(body.is_empty(), "{what} has a body that nobody described");
            return;
        };
        let Some(content) = content.get(&kind).or(content.get("*/*")) else {
            panic!("{what} is {kind}: {content:?}")
        };
        if content.get("schema").is_none() {
            return;
        }
        let bodies: Vec<Value> = match kind.as_str() {
            "application/json" | "application/problem+json" => {
                vec![serde_json::from_slice(&body).unwrap()]
            }
            "application/x-ndjson" => body
                .split(|byte| *byte == b'\n')
                .filter(|line| !line.is_empty())
                .map(|line| serde_json::from_slice(line).unwrap())
                .collect(),
            _ => return,
        };
        let mut schema = content["schema"].clone();
        schema["components"] = self.api["components"].clone();
        let validator =
            jsonschema::draft202012::options().should_validate_formats(true).build(&schema).unwrap();
        for body in bodies {
            let errors: Vec<String> = validator
                .iter_errors(&body)
                .map(|error| format!("{}: {error}", error.instance_path()))
                .collect();
            assert!(errors.is_empty(), "{what}: {errors:#?}\n{body:#}");
        }
    }

    async fn ask(
        &mut self,
        api: &Api,
        method: Method,
        path: &str,
        of: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) {
        let request = ask(api, method.clone(), path).body(body.to_owned());
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let answer = request.send().await.unwrap();
        self.check(&method, of, answer).await;
    }
}

impl Contract {
    /// Asks every route that needs a key with a parameter that no route knows.
    async fn unknown_parameters(&mut self, api: &Api) {
        let of_all = self.operations().filter(|(.., operation)| operation["security"].is_array());
        let all: Vec<(String, Method)> = of_all
            .map(|(path, method, _)| (path.to_owned(), method.to_uppercase().parse().unwrap()))
            .collect();
        for (path, method) in all {
            let with_one = format!("{path}?nobody=1");
            let answer = ask(api, method.clone(), &with_one).send().await.unwrap();
            assert_eq!(problem(answer, 400, &with_one).await, "invalid_parameter", "{method}");
            self.ask(api, method, &with_one, &path, &[], "").await;
        }
    }

    /// Asks the routes of endpoints for all that they answer.
    async fn endpoints(&mut self, api: &Api) {
        let (get, post, patch, delete) = (Method::GET, Method::POST, Method::PATCH, Method::DELETE);
        let (all, one, none) = ("/webhooks", "/webhooks/{id}", "/webhooks/01ARZ3NDEKTSV4RRFFQ69G5FAV");
        let good = r#"{"url":"http://127.0.0.1:9/","events":["done"],"models":["a"],"headers":{"x-a":"b"}}"#;
        let made = read(ask(api, post.clone(), all).body(good).send().await.unwrap()).await;
        let path = format!("/webhooks/{}", made["endpoint_id"].as_str().unwrap());
        let refused = r#"{"url":"http://10.0.0.1/"}"#;
        for body in [good, "{}", refused] {
            self.ask(api, post.clone(), all, all, &[], body).await;
        }
        for body in [r#"{"disabled":true}"#, "7", refused] {
            self.ask(api, patch.clone(), &path, one, &[], body).await;
        }
        self.ask(api, get.clone(), all, all, &[], "").await;
        self.ask(api, get.clone(), "/webhooks?limit=x", all, &[], "").await;
        self.ask(api, get.clone(), &path, one, &[], "").await;
        let of = "/webhooks/{id}/rotate";
        for body in ["", "7"] {
            self.ask(api, post.clone(), &format!("{path}/rotate"), of, &[], body).await;
        }
        let of = "/webhooks/{id}/recover";
        for body in [r#"{"since":"2026-01-01T00:00:00Z"}"#, "{}"] {
            self.ask(api, post.clone(), &format!("{path}/recover"), of, &[], body).await;
        }
        let of = "/webhooks/{id}/deliveries";
        for query in ["", "?status=sent"] {
            self.ask(api, get.clone(), &format!("{path}/deliveries{query}"), of, &[], "").await;
        }
        let of = "/webhooks/{id}/test";
        self.ask(api, post.clone(), &format!("{path}/test"), of, &[], "7").await;
        while ask(api, post.clone(), &format!("{path}/test")).send().await.unwrap().status() != 429 {}
        self.ask(api, post.clone(), &format!("{path}/test"), of, &[], "").await;
        for (method, action) in [
            (&get, ""),
            (&patch, ""),
            (&delete, ""),
            (&post, "/rotate"),
            (&post, "/test"),
            (&get, "/deliveries"),
        ] {
            let (path, of) = (format!("{none}{action}"), format!("{one}{action}"));
            self.ask(api, method.clone(), &path, &of, &[], "{}").await;
        }
        let since = r#"{"since":"2026-01-01T00:00:00Z"}"#;
        self.ask(api, post.clone(), &format!("{none}/recover"), "/webhooks/{id}/recover", &[], since).await;
        self.ask(api, delete, &path, one, &[], "").await;
        while ask(api, post.clone(), all).body(good).send().await.unwrap().status() != 409 {}
        self.ask(api, post, all, all, &[], good).await;
    }
}

/// A job with a long history: it failed once, then succeeded, and its receiver takes no webhook.
async fn seasoned(db: &Db, api: &Api) -> String {
    let job = submit(api, r#"{"model":"tiny-a","prompt":"x","metadata":{"a":[1]},"priority":-1,"max_attempts":3,"state_webhook_url":"http://127.0.0.1:9/","webhook_events":["done"]}"#).await;
    let lease = super::claim_with_priority(db, &db.holder().await, job, -1).await;
    db.store.begin(&[(&lease, foreman_store::Phase::Working)]).await.unwrap();
    let completion = br#"{"done":true}"#.to_vec();
    let completion = Completion {
        completion,
        content_type: "application/json".to_owned(),
        prompt_tokens: Some(1),
        completion_tokens: Some(2),
    };
    db.settle(&[(lease, Exit::Done(completion))]).await.unwrap();
    db.store.relay(100).await.unwrap();
    job.to_string()
}

#[tokio::test]
async fn the_answers_are_as_described() {
    // 32 bytes in base64.
    let key = ("FOREMAN_SECRET_KEY", "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=");
    let (db, api) = start(&[key]).await;
    let mut contract = Contract::of(&api).await;
    let (get, post) = (Method::GET, Method::POST);
    let (done, live) = (seasoned(&db, &api).await, submit(&api, JOB).await.to_string());
    let none = "01ARZ3NDEKTSV4RRFFQ69G5FAV";
    let follow = ("accept", "text/event-stream");

    contract.ask(&api, get.clone(), "/", "/", &[], "").await;
    for path in ["/docs", "/openapi.json"] {
        let tag = header(&super::get(&api, path).await, "etag").to_owned();
        contract.ask(&api, get.clone(), path, path, &[], "").await;
        contract.ask(&api, get.clone(), path, path, &[("if-none-match", &tag)], "").await;
    }

    let jobs = "/jobs";
    contract.ask(&api, post.clone(), jobs, jobs, &[], JOB).await;
    contract.ask(&api, post.clone(), jobs, jobs, &[], "{}").await;
    contract.ask(&api, post.clone(), jobs, jobs, &[], r#"{"model":"llama9","prompt":"x"}"#).await;
    contract
        .ask(
            &api,
            post.clone(),
            jobs,
            jobs,
            &[],
            r#"{"model":"tiny-a","prompt":"x","state_webhook_url":"x"}"#,
        )
        .await;
    contract.ask(&api, get.clone(), jobs, jobs, &[], "").await;
    contract.ask(&api, get.clone(), "/jobs?state=done&limit=1", jobs, &[], "").await;
    contract.ask(&api, get.clone(), "/jobs?limit=x", jobs, &[], "").await;

    let batch = "/jobs/batch";
    contract.ask(&api, post.clone(), batch, batch, &[], &format!("{JOB}\n7\n")).await;
    contract.ask(&api, post.clone(), batch, batch, &[], &format!("[{JOB}]")).await;
    contract.ask(&api, post.clone(), batch, batch, &[], "").await;
    contract.ask(&api, post.clone(), batch, batch, &[], &"{}\n".repeat(10_001)).await;

    let of = "/jobs/{id}";
    let tag = header(&super::get(&api, &format!("/jobs/{done}")).await, "etag").to_owned();
    for path in [&done, &live, none].map(|id| format!("/jobs/{id}")) {
        contract.ask(&api, get.clone(), &path, of, &[("if-none-match", &tag)], "").await;
        contract.ask(&api, get.clone(), &path, of, &[], "").await;
    }
    contract.ask(&api, get.clone(), &format!("/jobs/{done}?wait=x"), of, &[], "").await;

    let of = "/jobs/{id}/events";
    for (id, headers) in [
        (done.as_str(), &[][..]),
        (&live, &[]),
        (none, &[]),
        (&done, &[follow]),
        (&done, &[follow, ("last-event-id", "4")]),
        (&done, &[follow, ("last-event-id", "x")]),
    ] {
        contract.ask(&api, get.clone(), &format!("/jobs/{id}/events"), of, headers, "").await;
    }

    let of = "/jobs/{id}/stream";
    for (id, headers) in [
        (done.as_str(), &[][..]),
        (none, &[]),
        (&done, &[("last-event-id", "1:end")]),
        (&done, &[("last-event-id", "x")]),
    ] {
        contract.ask(&api, get.clone(), &format!("/jobs/{id}/stream"), of, headers, "").await;
    }

    let of = "/jobs/{id}/artifacts/{name}";
    let path = format!("/jobs/{done}/artifacts/completion");
    let tag = header(&super::get(&api, &path).await, "etag").to_owned();
    for headers in [
        &[][..],
        &[("range", "bytes=0-1")],
        &[("range", "bytes=99-")],
        &[("if-none-match", &tag)],
        &[("if-match", "\"x\"")],
    ] {
        contract.ask(&api, get.clone(), &path, of, headers, "").await;
    }
    contract.ask(&api, get.clone(), &format!("/jobs/{done}/artifacts/other"), of, &[], "").await;

    let of = "/jobs/{id}/deliveries";
    let deliveries = read(super::get(&api, &format!("/jobs/{done}/deliveries")).await).await;
    let delivery = deliveries["data"][0]["delivery_id"].as_str().unwrap().to_owned();
    contract.ask(&api, get.clone(), &format!("/jobs/{done}/deliveries"), of, &[], "").await;
    contract.ask(&api, get.clone(), &format!("/jobs/{none}/deliveries"), of, &[], "").await;
    contract.ask(&api, get.clone(), &format!("/jobs/{done}/deliveries?limit=x"), of, &[], "").await;
    let of = "/deliveries/{id}/redeliver";
    contract.ask(&api, post.clone(), &format!("/deliveries/{none}/redeliver"), of, &[], "").await;
    contract.ask(&api, post.clone(), &format!("/deliveries/{delivery}/redeliver"), of, &[], "").await;
    db.run("UPDATE webhook_delivery SET claim_no = 1, claimed_at = now(), claimed_until = now() + interval '1 h'").await;
    contract.ask(&api, post.clone(), &format!("/deliveries/{delivery}/redeliver"), of, &[], "").await;
    let again = format!("/deliveries/{none}/redeliver");
    while ask(&api, post.clone(), &again).send().await.unwrap().status() != 429 {}
    contract.ask(&api, post.clone(), &again, of, &[], "").await;

    contract.endpoints(&api).await;

    contract.ask(&api, get.clone(), "/queue", "/queue", &[], "").await;
    for query in ["", "?by=user", "?by=hour&limit=1", "?by=x"] {
        contract.ask(&api, get.clone(), &format!("/usage{query}"), "/usage", &[], "").await;
    }
    contract.ask(&api, get.clone(), "/hosts", "/hosts", &[], "").await;
    for action in ["drain", "resume"] {
        for (id, body) in [("gpu", ""), ("gpu", "7"), ("no%2Fhost", "{}")] {
            let of = format!("/hosts/{{id}}/{action}");
            contract.ask(&api, post.clone(), &format!("/hosts/{id}/{action}"), &of, &[], body).await;
        }
    }
    let of = "/models/{model}/warm";
    let key = &[("idempotency-key", "k")];
    for (model, body) in
        [("tiny-a", ""), ("tiny-a", "{}"), ("tiny-a", "7"), ("no%2Fmodel", r#"{"run_at":null}"#)]
    {
        contract.ask(&api, post.clone(), &format!("/models/{model}/warm"), of, key, body).await;
    }
    let of = "/models/{model}/unload";
    for (model, body) in [("tiny-a", ""), ("tiny-a", "7"), ("no%2Fmodel", "{}")] {
        contract.ask(&api, post.clone(), &format!("/models/{model}/unload"), of, &[], body).await;
    }
    let nobody = &[("x-foreman-user", "x".repeat(129))].map(|(name, value)| (name, &*value.leak()));
    let of = "/jobs/{id}/retry";
    contract.ask(&api, post.clone(), &format!("/jobs/{done}/retry"), of, nobody, "").await;
    for action in ["retry", "cancel"] {
        let of = &format!("/jobs/{{id}}/{action}");
        for id in [&done, &live, none] {
            contract.ask(&api, post.clone(), &format!("/jobs/{id}/{action}"), of, &[], "").await;
        }
    }
    contract.what_a_client_may_not(&db).await;
    contract.unknown_parameters(&api).await;

    // Other tests cover the answers that need slow senders, many readers, a defect or an outage.
    let needs_a_crowd = [
        ("/jobs", "get", "429"),
        ("/usage", "get", "429"),
        ("/jobs/{id}/artifacts/{name}", "get", "429"),
        ("/jobs/{id}/cancel", "post", "429"),
        ("/jobs/{id}/deliveries", "get", "429"),
        ("/webhooks", "get", "429"),
        ("/webhooks/{id}", "get", "429"),
        ("/webhooks/{id}/deliveries", "get", "429"),
        // This one needs a worker.
        ("/webhooks/{id}/test", "post", "200"),
    ];
    let unseen: Vec<(&str, &str, &str)> = contract
        .operations()
        .flat_map(|(path, method, operation)| {
            operation["responses"]
                .as_object()
                .unwrap()
                .keys()
                .map(move |status| (path, method, status.as_str()))
        })
        .filter(|(path, method, status)| {
            !["408", "500", "503"].contains(status)
                && !needs_a_crowd.contains(&(*path, *method, *status))
                && !contract.seen.contains(&(
                    (*path).to_owned(),
                    (*method).to_owned(),
                    status.parse().unwrap(),
                ))
        })
        .collect();
    assert!(unseen.is_empty(), "described and not seen: {unseen:?}");
}

#[tokio::test]
async fn the_page_needs_nothing_from_elsewhere_and_no_key() {
    let db = Db::fresh().await;
    publish(&db).await;
    let api = Api::start(&db, &[("FOREMAN_AUTH", "required")]).await;
    let answer = get(&api, "/docs").await;
    assert_eq!(
        (answer.status().as_u16(), header(&answer, "content-type")),
        (200, "text/html; charset=utf-8")
    );
    let policy = header(&answer, "content-security-policy").to_owned();
    assert!(
        policy.starts_with("default-src 'none'; style-src 'sha256-") && !policy.contains("unsafe"),
        "{policy}"
    );
    let page = answer.text().await.unwrap();
    for word in ["src=", "<script", "<link", "@import", "url(", "http://", "https://", "onclick", "style=\""]
    {
        assert!(!page.contains(word), "{word}");
    }
    let described = read(get(&api, "/openapi.json").await).await;
    for path in described["paths"].as_object().unwrap().keys() {
        assert!(page.contains(path.as_str()), "{path}");
    }
    assert_eq!(post(&api, "/docs", "").await.status(), 405);
}
