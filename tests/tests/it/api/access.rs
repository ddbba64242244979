//! Tests which client may see which jobs: with keys, with addresses, and from foreign pages.

use foreman_store::{AddressClient, JobRequest, Seal, SecretOwner, StoredSigning, Term, TermsChange};
use foreman_tests::{Api, Db, eventually, http};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use reqwest::{Method, Response};
use serde_json::json;

use super::{JOB, ask, json as read, problem, publish, start, submit};

const KEYS: &[(&str, &str)] = &[("FOREMAN_AUTH", "required")];

async fn with_key(api: &Api, method: Method, path: &str, key: &str) -> Response {
    ask(api, method, path).bearer_auth(key).body(JOB).send().await.unwrap()
}

fn seal() -> Seal {
    Seal::new(&[7; 32])
}

#[tokio::test]
async fn without_a_valid_key_a_request_learns_nothing() {
    let (_db, api) = start(KEYS).await;
    let root = ask(&api, Method::GET, "/").send().await.unwrap();
    assert_eq!(root.status(), 200, "no data, no key");
    let ulid = "01ARZ3NDEKTSV4RRFFQ69G5FAV";
    for (method, path) in [
        (Method::POST, "/jobs".to_owned()),
        (Method::GET, "/jobs".to_owned()),
        (Method::GET, format!("/jobs/{ulid}")),
        (Method::POST, format!("/jobs/{ulid}/cancel")),
        (Method::POST, format!("/jobs/{ulid}/retry")),
        (Method::GET, format!("/jobs/{ulid}/events")),
        (Method::GET, format!("/jobs/{ulid}/artifacts/completion")),
        (Method::GET, format!("/jobs/{ulid}/deliveries")),
        (Method::POST, format!("/deliveries/{ulid}/redeliver")),
        (Method::POST, "/jobs/batch".to_owned()),
        (Method::GET, "/queue".to_owned()),
    ] {
        for (value, code) in [
            (None, "key_missing"),
            (Some("Basic YTpi"), "key_wrong"),
            (Some("Digest a=b"), "key_missing"),
            (Some("Bearer"), "key_wrong"),
            (Some("Bearer "), "key_wrong"),
            (Some("Bearer fk_wrong"), "key_wrong"),
            (Some("Bearer fk_wrong' OR true"), "key_wrong"),
        ] {
            let request = ask(&api, method.clone(), &path).body("not even JSON");
            let request =
                value.into_iter().fold(request, |request, value| request.header("authorization", value));
            let answer = request.send().await.unwrap();
            assert_eq!(super::header(&answer, "www-authenticate"), "Bearer");
            assert_eq!(problem(answer, 401, &path).await, code, "{path} {value:?}");
        }
    }
}

#[tokio::test]
async fn another_clients_jobs_are_not_there_but_for_an_admin() {
    let (db, api) = start(KEYS).await;
    let mine = db.store.create_client(&seal(), "mine", false).await.unwrap().key;
    let other = db.store.create_client(&seal(), "other", false).await.unwrap().key;
    let admin = db.store.create_client(&seal(), "admin", true).await.unwrap().key;
    let job =
        read(with_key(&api, Method::POST, "/jobs", &mine).await).await["job_id"].as_str().unwrap().to_owned();
    for (method, path) in [
        (Method::GET, format!("/jobs/{job}")),
        (Method::GET, format!("/jobs/{job}?wait=5")),
        (Method::GET, format!("/jobs/{job}/events")),
        (Method::GET, format!("/jobs/{job}/deliveries")),
        (Method::POST, format!("/jobs/{job}/cancel")),
        (Method::POST, format!("/jobs/{job}/retry")),
    ] {
        let answer = with_key(&api, method, &path, &other).await;
        assert_eq!(problem(answer, 404, &path).await, "no_such_job");
    }
    let jobs = async |key: &str| {
        read(with_key(&api, Method::GET, "/jobs", key).await).await["data"].as_array().unwrap().len()
    };
    assert_eq!([jobs(&mine).await, jobs(&other).await, jobs(&admin).await], [1, 0, 1]);
    let cancelled = read(with_key(&api, Method::POST, &format!("/jobs/{job}/cancel"), &admin).await).await;
    assert_eq!(cancelled["state"], "cancelled");
    let again = with_key(&api, Method::POST, &format!("/jobs/{job}/retry"), &admin).await;
    let again = read(again).await["job_id"].as_str().unwrap().to_owned();
    let seen = with_key(&api, Method::GET, &format!("/jobs/{again}"), &mine).await;
    assert_eq!(seen.status(), 200, "a retry by an admin stays its owner's");
}

#[tokio::test]
async fn keys_of_two_clients_do_not_share_idempotency_keys() {
    let (db, api) = start(KEYS).await;
    let mut ids = Vec::new();
    for name in ["one", "two"] {
        let key = db.store.create_client(&seal(), name, false).await.unwrap().key;
        let request =
            ask(&api, Method::POST, "/jobs").bearer_auth(key).header("idempotency-key", "same").body(JOB);
        ids.push(read(request.send().await.unwrap()).await["job_id"].clone());
    }
    assert_ne!(ids[0], ids[1]);
}

#[tokio::test]
async fn a_rotated_key_ends_after_its_grace_and_a_revoked_one_soon() {
    let (db, api) = start(KEYS).await;
    let old = db.store.create_client(&seal(), "team", false).await.unwrap();
    let new = db.store.rotate_client(&seal(), "team").await.unwrap();
    assert_eq!(old.client, new.client);
    for key in [&old.key, &new.key] {
        assert_eq!(with_key(&api, Method::GET, "/jobs", key).await.status(), 200);
    }
    let ends = async |key: &str| {
        eventually("the end of a key", async || {
            let status = with_key(&api, Method::GET, "/jobs", key).await.status();
            if status == 401 { Ok(()) } else { Err(status) }
        })
        .await;
    };
    db.run("UPDATE client SET previous_until = now()").await;
    ends(&old.key).await;
    assert_eq!(with_key(&api, Method::GET, "/jobs", &new.key).await.status(), 200);
    db.store.revoke_client("team").await.unwrap();
    ends(&new.key).await;
}

#[tokio::test]
async fn guessed_keys_wait_in_a_line_of_their_own_that_is_bounded() {
    let (db, api) = start(KEYS).await;
    let mut lock = db.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE client IN ACCESS EXCLUSIVE MODE").execute(&mut *lock).await.unwrap();
    let mut tries: FuturesUnordered<_> = (0..300)
        .map(async |index| with_key(&api, Method::GET, "/jobs", &format!("fk_guess_{index}")).await)
        .collect();
    for _ in 256..300 {
        let refused = tries.next().await.unwrap();
        assert!(!super::header(&refused, "retry-after").is_empty());
        assert_eq!(problem(refused, 503, "one too many").await, "too_many_strangers");
    }
    lock.rollback().await.unwrap();
    while let Some(answer) = tries.next().await {
        assert_eq!(problem(answer, 401, "a guess").await, "key_wrong");
    }
    let key = db.store.create_client(&seal(), "team", false).await.unwrap().key;
    assert_eq!(with_key(&api, Method::GET, "/jobs", &key).await.status(), 200);
}

#[tokio::test]
async fn secrets_are_stored_sealed_and_both_sign_during_a_rotation() {
    let db = Db::fresh().await;
    let old = db.store.create_client(&seal(), "team", false).await.unwrap();
    let new = db.store.rotate_client(&seal(), "team").await.unwrap();
    let owner = SecretOwner::from(old.client);
    let secrets = db.store.signing_secrets(Some(&seal()), &[owner]).await.unwrap();
    let both = StoredSigning {
        secret: Some(Ok(new.secret.clone())),
        previous: Some(Ok(old.secret.clone())),
        ..StoredSigning::default()
    };
    assert_eq!(secrets[&owner], both);
    let stored: String =
        db.value("SELECT encode(secret, 'escape') || encode(key_digest, 'escape') FROM client").await;
    assert!(!stored.contains("whsec_") && !stored.contains(&new.key));
    let other = db.store.signing_secrets(Some(&Seal::new(&[8; 32])), &[owner]).await.unwrap();
    assert_eq!(other[&owner].secret, Some(Err(foreman_store::UnsealError::OtherKey)));
    let none = db.store.signing_secrets(None, &[owner]).await.unwrap();
    assert_eq!(none[&owner].secret, Some(Err(foreman_store::UnsealError::NoKey)));
    let names = db.store.create_client(&seal(), "team", false).await.unwrap_err().to_string();
    assert!(names.contains("already"), "{names}");
}

#[tokio::test]
async fn with_authentication_off_an_address_is_a_client_and_a_foreign_page_is_none() {
    let (db, api) = start(&[("FOREMAN_ORIGINS", "foreman.lan, https://app.example")]).await;
    submit(&api, JOB).await;
    assert_eq!(db.value::<String>("SELECT name FROM client").await, "address 127.0.0.1");
    let sent = async |headers: &[(&str, &str)]| {
        let request = ask(&api, Method::POST, "/jobs").body(JOB);
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        request.send().await.unwrap()
    };
    for (headers, code) in [
        (&[("host", "evil.example")][..], "foreign_host"),
        (&[("host", "evil.example:8080")], "foreign_host"),
        (&[("host", "localhost.evil.example")], "foreign_host"),
        (&[("host", "10.1.2.3")], "foreign_host"),
        (&[("origin", "https://evil.example")], "foreign_origin"),
        (&[("origin", "null")], "foreign_origin"),
        (&[("origin", "http://app.example")], "foreign_origin"),
    ] {
        assert_eq!(problem(sent(headers).await, 403, &format!("{headers:?}")).await, code);
    }
    for headers in [
        &[("host", "localhost")][..],
        &[("host", "foreman.lan:8080")],
        &[("origin", "https://app.example")],
        &[("origin", "http://localhost:3000")],
        &[("x-forwarded-for", "203.0.113.9")],
    ] {
        assert_eq!(sent(headers).await.status(), 202, "{headers:?}");
    }
    assert_eq!(db.value::<i64>("SELECT count(*) FROM client").await, 1, "no proxy is trusted unasked");
    db.store.revoke_client("address 127.0.0.1").await.unwrap();
    eventually("the end of an address", async || {
        let answer = sent(&[]).await;
        if answer.status() == 403 { Ok(()) } else { Err(answer.status()) }
    })
    .await;
}

#[tokio::test]
async fn behind_a_trusted_proxy_clients_are_told_apart() {
    let (db, api) = start(&[("FOREMAN_TRUSTED_PROXIES", "127.0.0.0/8")]).await;
    let through = async |forwarded: &str, path: &str| {
        let request = http().get(format!("{}{path}", api.url)).header("x-forwarded-for", forwarded);
        read(request.send().await.unwrap()).await
    };
    let request =
        ask(&api, Method::POST, "/jobs").header("x-forwarded-for", "198.51.100.1, 203.0.113.9").body(JOB);
    let job = read(request.send().await.unwrap()).await["job_id"].as_str().unwrap().to_owned();
    let path = format!("/jobs/{job}");
    assert_eq!(through("203.0.113.9", &path).await["state"], "queued");
    assert_eq!(through("198.51.100.1", &path).await["code"], json!("no_such_job"));
    let names: Vec<String> = db.values("SELECT name FROM client ORDER BY name").await;
    assert_eq!(names, ["address 198.51.100.1", "address 203.0.113.9"]);
}

#[tokio::test]
async fn a_flood_of_new_addresses_makes_few_clients_and_an_ipv6_network_makes_one() {
    let (db, api) = start(&[("FOREMAN_TRUSTED_PROXIES", "127.0.0.0/8")]).await;
    let from = async |address: &str| {
        let request = http().get(format!("{}/jobs", api.url)).header("x-forwarded-for", address);
        request.send().await.unwrap()
    };
    for host in [":1", "2:3:4:5", "ffff::"] {
        assert_eq!(from(&format!("2001:db8:1:2:{host}")).await.status(), 200);
    }
    let names: Vec<String> = db.values("SELECT name FROM client").await;
    assert_eq!(names, ["address 2001:db8:1:2::/64"]);

    // One of the 256 is used already. For each second that the test takes, there is one more.
    let mut known = 1;
    let refused = loop {
        let answer = from(&format!("2001:db8:{known:x}::1")).await;
        if answer.status() != 200 {
            break answer;
        }
        known += 1;
        assert!(known < 1_000, "nobody is refused");
    };
    assert!(known >= 256, "{known}");
    assert_eq!(super::header(&refused, "retry-after"), "1");
    assert_eq!(problem(refused, 503, "too many").await, "busy");
    assert_eq!(from("2001:db8:1:2::7").await.status(), 200, "a known network");
}

#[tokio::test]
async fn an_address_without_jobs_is_forgotten_and_comes_back_as_the_same_client() {
    let db = Db::fresh().await;
    for address in ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4", "192.0.2.5"] {
        db.store.create_address_client(address).await.unwrap();
    }
    let client = async |address: &str| match db.store.address_client(address).await.unwrap() {
        AddressClient::Known(signed_in) => Some(signed_in.client),
        AddressClient::Revoked | AddressClient::Unseen => None,
    };
    let idle = client("192.0.2.1").await.unwrap();
    let busy = db.job(JobRequest { client: client("192.0.2.2").await.unwrap(), ..db.request() });
    db.accept_all(&[busy]).await;
    db.store.revoke_client("address 192.0.2.3").await.unwrap();
    let heavier = TermsChange { weight: Some(Term::Is(2.0)), ..TermsChange::default() };
    db.store.change_terms("address 192.0.2.5", &heavier).await.unwrap();
    db.store.create_client(&seal(), "team", false).await.unwrap();
    db.run("UPDATE client SET created_at = now() - interval '2 days' WHERE name <> 'address 192.0.2.4'")
        .await;
    assert_eq!(db.store.prune_address_clients(100).await.unwrap(), 1);
    let left: Vec<String> = db.values("SELECT name FROM client ORDER BY name").await;
    let addresses = [2, 3, 4, 5].map(|last| format!("address 192.0.2.{last}"));
    assert_eq!(left, [&addresses[..], &["team".to_owned()]].concat());
    assert_eq!(client("192.0.2.1").await, None);
    db.store.create_address_client("192.0.2.1").await.unwrap();
    assert_eq!(client("192.0.2.1").await, Some(idle));
}

#[tokio::test]
async fn authentication_is_not_switched_off_for_the_world_by_accident() {
    let db = Db::fresh().await;
    publish(&db).await;
    let settings = [("DATABASE_URL", db.url()), ("FOREMAN_AUTH", "off"), ("FOREMAN_API_ADDR", "0.0.0.0:0")];
    let mut process = foreman_tests::Process::start("foreman-api", &[], &settings);
    assert_eq!(process.ended().await.code(), Some(2));
}
