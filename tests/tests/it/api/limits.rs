//! Tests the limits of one client: jobs and bytes in the queue, bytes per day, waiting requests.

use std::time::Duration;

use foreman_store::{Term, TermsChange};
use foreman_tests::{Api, Db, eventually, success, within};
use futures_util::{StreamExt, future::join_all, stream};
use reqwest::Method;

use super::{JOB, ask, get, header, post, problem, publish, run, start, submit};

#[tokio::test]
async fn a_client_that_has_its_jobs_queued_is_refused_until_some_have_run() {
    let (db, api) = start(&[("FOREMAN_CLIENT_MAX_QUEUED", "20")]).await;
    let answers = join_all((0..60).map(|_| post(&api, "/jobs", JOB))).await;
    let (accepted, refused): (Vec<_>, Vec<_>) =
        answers.into_iter().partition(|answer| answer.status() == 202);
    assert_eq!(accepted.len(), 20, "exactly as many as the limit, by one api");
    for answer in refused {
        assert!(!header(&answer, "retry-after").is_empty());
        assert_eq!(problem(answer, 429, "over the limit").await, "queue_full");
    }
    assert_eq!(db.value::<i64>("SELECT count(*) FROM job").await, 20);
    let first: sqlx::types::Uuid = db.value("SELECT id FROM job ORDER BY id LIMIT 1").await;
    run(&db, first.into(), success()).await;
    eventually("room in the queue", async || {
        let status = post(&api, "/jobs", JOB).await.status();
        if status == 202 { Ok(()) } else { Err(status) }
    })
    .await;
}

#[tokio::test]
async fn bytes_are_limited_too_and_jobs_for_later_count() {
    let (db, api) = start(&[("FOREMAN_CLIENT_MAX_QUEUED_BYTES", "4KiB")]).await;
    let later = foreman_webhook::rfc3339(chrono::Utc::now() + chrono::TimeDelta::hours(1));
    let large = format!(r#"{{"model":"tiny-a","prompt":"{}","run_at":"{later}"}}"#, "x".repeat(3_000));
    submit(&api, &large).await;
    assert_eq!(problem(post(&api, "/jobs", large.clone()).await, 429, "bytes").await, "queue_full");
    submit(&api, JOB).await;
    assert_eq!(db.value::<i64>("SELECT count(*) FROM job").await, 2);
}

#[tokio::test]
async fn one_clients_full_queue_is_not_anothers() {
    let (_db, api) =
        start(&[("FOREMAN_CLIENT_MAX_QUEUED", "1"), ("FOREMAN_TRUSTED_PROXIES", "127.0.0.1")]).await;
    for (address, status) in [("203.0.113.1", 202), ("203.0.113.1", 429), ("203.0.113.2", 202)] {
        let answer = ask(&api, Method::POST, "/jobs")
            .header("x-forwarded-for", address)
            .body(JOB)
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), status, "{address}");
    }
}

#[tokio::test]
async fn a_clients_own_ceilings_go_before_the_settings() {
    let (db, api) = start(&[("FOREMAN_CLIENT_MAX_QUEUED", "5")]).await;
    submit(&api, JOB).await;
    let name: String = db.value("SELECT name FROM client").await;
    let set = async |max_queued, max_queued_bytes| {
        let (max_queued, max_queued_bytes) = (Some(max_queued), Some(max_queued_bytes));
        let change = TermsChange { max_queued, max_queued_bytes, ..TermsChange::default() };
        db.store.change_terms(&name, &change).await.unwrap();
    };
    // An api counts anew after some seconds, and finds the new ceilings then.
    let is_answered = async |status: u16, words: &str| {
        within(Duration::from_secs(20), words, async || {
            let answer = post(&api, "/jobs", JOB).await;
            let seen = (answer.status().as_u16(), answer.text().await.unwrap());
            if seen.0 == status && seen.1.contains(words) { Ok(()) } else { Err(format!("{seen:?}")) }
        })
        .await;
    };
    set(Term::Is(1), Term::Default).await;
    is_answered(429, "its 1 jobs or").await;
    set(Term::Is(1_000), Term::Default).await;
    is_answered(202, "job_id").await;
    set(Term::Is(1_000), Term::Is(1)).await;
    // However long the client waits, there is no room.
    is_answered(429, "may have 1000 jobs and 1 bytes queued, too few for this job alone; have").await;
    set(Term::Is(0), Term::Default).await;
    is_answered(429, "may have 0 jobs and").await;
    set(Term::Default, Term::Default).await;
    is_answered(429, "its 5 jobs or").await;
}

#[tokio::test]
async fn another_api_counts_what_this_one_accepted() {
    let db = Db::fresh().await;
    publish(&db).await;
    let limit = [("FOREMAN_CLIENT_MAX_QUEUED", "2")];
    let (one, other) = (Api::start(&db, &limit).await, Api::start(&db, &limit).await);
    submit(&one, JOB).await;
    submit(&one, JOB).await;
    assert_eq!(problem(post(&other, "/jobs", JOB).await, 429, "the other api").await, "queue_full");
}

/// Offers jobs to these apis in turn, a few at a time, until each of them has refused some. Returns how many got in.
async fn fill(apis: &[Api]) -> usize {
    let offers = (0..200).map(|number| post(&apis[number % apis.len()], "/jobs", JOB));
    let answers: Vec<_> = stream::iter(offers).buffered(apis.len()).collect().await;
    let (accepted, refused): (Vec<_>, Vec<_>) =
        answers.into_iter().partition(|answer| answer.status() == 202);
    assert!(refused.iter().all(|answer| answer.status() == 429));
    accepted.len()
}

#[tokio::test]
async fn each_further_api_adds_a_tenth_of_the_limit_at_most() {
    for apis in [2, 4] {
        let db = Db::fresh().await;
        publish(&db).await;
        let limit = [("FOREMAN_CLIENT_MAX_QUEUED", "100")];
        let apis = join_all((0..apis).map(|_| Api::start(&db, &limit))).await;
        let accepted = fill(&apis).await;
        let most = 100 + (apis.len() - 1) * 10;
        assert!((100..=most).contains(&accepted), "{accepted} by {} apis, not {most}", apis.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bytes_that_a_client_stores_in_a_day_are_bounded_even_when_no_job_is_queued() {
    let db = Db::fresh().await;
    publish(&db).await;
    let settings = [("FOREMAN_CLIENT_MAX_DAILY_BYTES", "4KiB"), ("FOREMAN_TRUSTED_PROXIES", "127.0.0.1")];
    let large = format!(r#"{{"model":"tiny-a","prompt":"{}"}}"#, "x".repeat(3_000));
    let mut api = Api::start(&db, &settings).await;
    let job = submit(&api, &large).await;
    ask(&api, Method::POST, &format!("/jobs/{job}/cancel")).send().await.unwrap();
    for path in ["/jobs".to_owned(), format!("/jobs/{job}/retry")] {
        let refused = post(&api, &path, large.clone()).await;
        let wait: u64 = header(&refused, "retry-after").parse().unwrap();
        assert!((1..=86_400).contains(&wait), "until midnight: {wait}");
        assert_eq!(problem(refused, 429, &path).await, "daily_bytes_stored");
    }
    submit(&api, JOB).await;
    let others =
        ask(&api, Method::POST, "/jobs").header("x-forwarded-for", "203.0.113.9").body(large.clone());
    assert_eq!(others.send().await.unwrap().status(), 202);

    // An api reports what it has let in before it ends, and another api knows it from the first request on.
    api.process.terminate().await;
    let again = Api::start(&db, &settings).await;
    assert_eq!(
        problem(post(&again, "/jobs", large.clone()).await, 429, "another api").await,
        "daily_bytes_stored"
    );
    db.run("UPDATE stored_bytes SET day = day - 2").await;
    let tomorrow = Api::start(&db, &settings).await;
    assert_eq!(post(&tomorrow, "/jobs", large).await.status(), 202, "another day");
    assert!(db.store.prune_stored_bytes(100).await.unwrap() >= 2);
}

#[tokio::test]
async fn waiting_requests_are_limited_but_never_at_the_cost_of_a_job() {
    let (db, api) = start(&[("FOREMAN_CLIENT_MAX_STREAMS", "1")]).await;
    let job = submit(&api, JOB).await;
    let url = format!("{}/jobs/{job}?wait=60", api.url);
    let waiting = tokio::spawn(foreman_tests::http().get(url).send());
    eventually("a request that waits", async || {
        let asked: i64 = db
            .value("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '-- progress%'")
            .await;
        if asked > 0 { Ok(()) } else { Err("nobody waits") }
    })
    .await;
    let second = get(&api, &format!("/jobs/{job}?wait=60")).await;
    assert!(!header(&second, "retry-after").is_empty());
    assert_eq!(problem(second, 429, "a second").await, "too_many_waiting");
    let preferring =
        ask(&api, Method::POST, "/jobs").header("prefer", "wait=60").body(JOB).send().await.unwrap();
    assert_eq!(preferring.status(), 202, "accepted, without the wait");
    ask(&api, Method::POST, &format!("/jobs/{job}/cancel")).send().await.unwrap();
    assert_eq!(waiting.await.unwrap().unwrap().status(), 200);
}
