//! Tests the addresses whose callers are one client without a key.

use foreman_store::Seal;
use foreman_tests::{Api, Db, eventually, http};
use reqwest::Response;
use serde_json::Value;

use crate::api::publish;

const JOB: &str = r#"{"model":"tiny-a","prompt":"hello"}"#;

/// The URL of the address that is bound to this client, from the log. The system chose its port.
async fn bound(api: &Api, client: &str) -> String {
    eventually("the line of the log that says where the api listens", async || {
        let log = api.process.log();
        let mut lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let line = lines.find(|line| line["client"] == client).ok_or_else(|| log.clone())?;
        Ok::<_, String>(format!("http://{}", line["address"].as_str().unwrap()))
    })
    .await
}

async fn submit(url: &str, headers: &[(&str, &str)]) -> Response {
    let request = http().post(format!("{url}/jobs")).body(JOB);
    headers.iter().fold(request, |request, (name, value)| request.header(*name, *value)).send().await.unwrap()
}

async fn code(answer: Response) -> String {
    let body: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
    body["code"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn whoever_calls_a_bound_address_is_its_client() {
    let db = Db::fresh().await;
    publish(&db).await;
    let settings = [
        ("FOREMAN_AUTH", "required"),
        ("FOREMAN_API_BOUND", "127.0.0.1:0=laptop, 127.0.0.1:0=the chat server"),
        ("FOREMAN_ORIGINS", "chat.lan"),
        ("FOREMAN_LOG_FORMAT", "json"),
    ];
    let api = Api::start(&db, &settings).await;
    let (laptop, chat) = (bound(&api, "laptop").await, bound(&api, "the chat server").await);

    // A client may be made after the api has started.
    let missing = submit(&laptop, &[]).await;
    assert_eq!((missing.status().as_u16(), code(missing).await.as_str()), (403, "bound_client_missing"));
    let seal = Seal::new(&[7; 32]);
    let laptops_key = db.store.create_client(&seal, "laptop", false).await.unwrap().key;
    db.store.create_client(&seal, "the chat server", false).await.unwrap();
    let works = async |url: &str| {
        eventually("a bound client", async || match submit(url, &[]).await {
            answer if answer.status() == 202 => Ok(()),
            answer => Err(code(answer).await),
        })
        .await;
    };
    works(&laptop).await;
    works(&chat).await;

    // A key changes nothing, and the main address still wants one.
    assert_eq!(submit(&chat, &[("authorization", "Bearer dummy")]).await.status(), 202);
    assert_eq!(submit(&api.url, &[]).await.status(), 401);
    let owners: Vec<String> = db
        .values("SELECT DISTINCT c.name FROM job j JOIN client c ON c.id = j.client_id ORDER BY c.name")
        .await;
    assert_eq!(owners, ["laptop", "the chat server"]);
    let list = http().get(format!("{}/jobs", api.url)).bearer_auth(&laptops_key).send().await.unwrap();
    let list: Value = serde_json::from_slice(&list.bytes().await.unwrap()).unwrap();
    assert_eq!(list["data"].as_array().unwrap().len(), 1);

    // Pages and names of others are refused as where authentication is off.
    for (headers, expected) in [
        (&[("host", "evil.example")][..], Err("foreign_host")),
        (&[("origin", "https://evil.example")], Err("foreign_origin")),
        (&[("host", "chat.lan")], Ok(202)),
        (&[("origin", "http://localhost:3000")], Ok(202)),
    ] {
        let answer = submit(&chat, headers).await;
        match expected {
            Ok(status) => assert_eq!(answer.status(), status, "{headers:?}"),
            Err(expected) => assert_eq!(code(answer).await, expected, "{headers:?}"),
        }
    }

    db.store.revoke_client("laptop").await.unwrap();
    eventually("the end of a bound client", async || match submit(&laptop, &[]).await {
        answer if answer.status() == 403 => Ok(()),
        answer => Err(answer.status()),
    })
    .await;
    works(&chat).await;
}
