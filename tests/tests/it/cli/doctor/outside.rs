//! Broken outside of Postgres: Ollama, the api, the secrets.

use std::time::Duration;

use foreman_runtime::config::SecretKey;
use foreman_store::{EndpointSettings, Scope, Seal, StoreError};
use foreman_tests::{Api, endpoint_at, free_port};
use ollama_sim::{Config, Sim};

use super::{House, KEY};

#[tokio::test(flavor = "multi_thread")]
async fn an_ollama_that_is_away() {
    let house = House::sound().await;
    let nobody = format!("localhost:{}", free_port());
    let examined = house.examined(&[("OLLAMA_HOST", &nobody)]).await;
    examined.only_trouble("ollama", &format!("No Ollama answers at http://{nobody}"), "ollama serve");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ollama_without_models() {
    let house = House::sound().await;
    let empty = Sim::start(Config::default().models([])).await.unwrap();
    let examined = house.examined(&[("OLLAMA_HOST", &empty.url())]).await;
    examined.only_trouble("ollama", "has no model", "ollama pull");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ollama_host_that_cannot_be_meant() {
    let house = House::sound().await;
    house.examined(&[("OLLAMA_HOST", "ftp://gpu")]).await.only_trouble("ollama", "OLLAMA_HOST", "HOST:PORT");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ollama_host_that_is_foreman_itself() {
    let house = House::sound().await;
    let api = Api::start(&house.db, &[]).await;
    let examined = house.examined(&[("OLLAMA_HOST", &api.url), ("FOREMAN_URL", &api.url)]).await;
    examined.only_trouble("ollama", "is Foreman itself", "the Ollama behind Foreman");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_that_is_away_or_is_something_else() {
    let house = House::sound().await;
    let nobody = format!("http://127.0.0.1:{}", free_port());
    let examined = house.examined(&[("FOREMAN_URL", &nobody)]).await;
    examined.only_trouble("api", "No api answers", "foreman-api");
    let examined = house.examined(&[("FOREMAN_URL", &house.sim.url())]).await;
    examined.only_trouble("api", "is not Foreman's api", "FOREMAN_URL");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_the_api_does_not_know() {
    let house = House::sound().await;
    let api = Api::start(&house.db, &[("FOREMAN_AUTH", "required")]).await;
    let examined = house.examined(&[("FOREMAN_URL", &api.url), ("FOREMAN_API_KEY", "fk_nobody")]).await;
    examined.only_trouble("api", "does not know the key", "foreman client rotate");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_key_that_is_missing_or_is_another() {
    let house = House::sound().await;
    let seal = Seal::new(SecretKey::parse(KEY).unwrap().bytes());
    house.db.store.create_client(&seal, "reports", false).await.unwrap();
    let id = seal.key_id();

    let another = "HwABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4=";
    let examined = house.examined(&[("FOREMAN_SECRET_KEY", another)]).await;
    examined.only_trouble(
        "secrets",
        &format!("another FOREMAN_SECRET_KEY (id {id})"),
        "foreman client rotate reports",
    );

    let examined = house.examined(&[("FOREMAN_SECRET_KEY", "")]).await;
    assert_eq!(examined.checks("trouble"), ["secret_key", "secrets"], "{examined:#?}");
    examined.trouble("secret_key", "is not set", "head -c 32 /dev/urandom | base64");
    examined.trouble("secrets", "the webhooks of reports wait", &format!("the key with the id {id}"));

    house.db.run("UPDATE client SET secret = overlay(secret PLACING '\\x00' FROM 30)").await;
    house.examined(&[]).await.only_trouble("secrets", "damaged", "foreman client rotate reports");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_whose_secret_or_headers_the_key_does_not_open() {
    let house = House::sound().await;
    let lost = Seal::new(&[7; 32]);
    let seal = Seal::new(SecretKey::parse(KEY).unwrap().bytes());
    let client = house.db.store.create_client(&seal, "reports", false).await.unwrap().client;
    let settings = endpoint_at("http://127.0.0.1:9/");
    let headers = vec![("x-token".to_owned(), "hush".to_owned())];
    let made = house.db.store.create_endpoint(&lost, client, &settings, &headers).await.unwrap().unwrap();
    let id = made.endpoint.id;
    let examined = house.examined(&[]).await;
    examined.trouble("secrets", "1 endpoint's secret is sealed", &format!("foreman webhook rotate {id}"));
    examined.trouble(
        "secrets",
        "The headers of 1 endpoint are sealed",
        &format!("foreman webhook update {id}"),
    );

    // What the documents advise. The old secret is no trouble: webhooks go out without its signature.
    let day = Duration::from_secs(24 * 3_600);
    house.db.store.rotate_endpoint(&seal, Scope::Everyone, id, day).await.unwrap();
    house.examined(&[]).await.only_trouble("secrets", "The headers of", "foreman webhook update");
    let keep = |_: &mut EndpointSettings| Ok::<_, StoreError>(());
    house.db.store.change_endpoint(Scope::Everyone, id, Some((&seal, &headers)), keep).await.unwrap();
    let examined = house.examined(&[]).await;
    assert!(examined.checks("trouble").is_empty(), "{examined:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_secret_is_shown_in_its_other_form_only_when_asked_for() {
    let house = House::sound().await;
    let plain = [("FOREMAN_WEBHOOK_SECRET", "correct horse battery staple")];
    let whsec = "whsec_Y29ycmVjdCBob3JzZSBiYXR0ZXJ5IHN0YXBsZQ==";
    let quiet = house.examined(&plain).await;
    assert_eq!(quiet.code, 0, "{quiet:#?}");
    assert!(quiet.checks("note").contains(&"webhook_secret"), "{quiet:#?}");
    let said = format!("{quiet:?}");
    assert!(!said.contains(whsec) && !said.contains(plain[0].1), "{said}");
    let shown = house.examined_with(&["--show-secrets"], &plain).await;
    assert!(format!("{shown:?}").contains(whsec), "{shown:#?}");
}
