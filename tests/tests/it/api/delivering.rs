//! Tests the pages of a job's webhooks, and how often a client may send webhooks again.

use foreman_store::JobId;
use foreman_tests::{Api, Db};
use reqwest::{Method, Response};
use serde_json::Value;

use super::{ask, get, header, json, problem, start, submit};

const WITH_RECEIVER: &str = r#"{"model":"tiny-a","prompt":"x","state_webhook_url":"http://127.0.0.1:9/"}"#;

/// Makes this many ended deliveries of the first event, of this age, as if somebody had sent the webhook again and again.
pub(crate) async fn ended(db: &Db, job: JobId, count: usize, age: &str) {
    db.run(&format!(
        "INSERT INTO webhook_attempt (job_id, delivery_id, attempt, seq, lane_id, url, state, at, outcome, status)
         SELECT id, (left(ulid_floor(now() - interval '{age}')::text, 13) || right(ulid_now()::text, 23))::uuid, 1, 1,
                webhook_lane, 'http://127.0.0.1:9/', 'queued', now(), 'delivered', 200
         FROM job, generate_series(1, {count}) WHERE id = '{}'",
        job.uuid()
    ))
    .await;
}

async fn redeliver(api: &Api, id: &str) -> Response {
    ask(api, Method::POST, &format!("/deliveries/{id}/redeliver")).send().await.unwrap()
}

fn ids(page: &Value) -> Vec<String> {
    let deliveries = page["data"].as_array().unwrap();
    deliveries.iter().map(|delivery| delivery["delivery_id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn deliveries_come_in_pages_that_together_have_each_once_and_in_order() {
    let (db, api) = start(&[]).await;
    let job = submit(&api, WITH_RECEIVER).await;
    ended(&db, job, 120, "2 minutes").await;
    db.store.relay(10).await.unwrap();
    let path = format!("/jobs/{job}/deliveries");
    let first = api.get(&path).await;
    assert_eq!((ids(&first).len(), &first["has_more"]), (50, &Value::Bool(true)), "old callers get a page");

    let mut found = Vec::new();
    let mut query = String::new();
    loop {
        let page = api.get(&format!("{path}?limit=40{query}")).await;
        found.extend(ids(&page));
        query = format!("&after={}", page["last_id"].as_str().unwrap());
        if page["has_more"] == false {
            break;
        }
    }
    assert_eq!(found.len(), 121, "the pending one included");
    assert!(found.is_sorted(), "all are of one event");
    found.dedup();
    assert_eq!(found.len(), 121);
    let listed = async |query: &str| ids(&api.get(&format!("{path}?limit=500&{query}")).await).len();
    assert_eq!(listed("status=pending").await, 1);
    assert_eq!(listed("status=delivered").await + listed("status=failed").await, 120);
    assert_eq!(
        (listed("since=0001-01-01T00:00:00Z").await, listed("since=2100-01-01T00:00:00Z").await),
        (121, 0)
    );
    let failed = api.get(&format!("{path}?status=pending&after={}", found[0])).await;
    assert_eq!(ids(&failed), found[120..], "behind one that the filter leaves out");
    for wrong in ["limit=0", "limit=501", "after=x", "status=sent", "since=yesterday", "state=pending"] {
        let answer = get(&api, &format!("{path}?{wrong}")).await;
        assert_eq!(problem(answer, 400, wrong).await, "invalid_parameter");
    }
}

#[tokio::test]
async fn a_webhook_that_went_out_five_times_within_a_minute_is_not_sent_again_yet() {
    let (db, api) = start(&[]).await;
    let job = submit(&api, WITH_RECEIVER).await;
    ended(&db, job, 4, "1 second").await;
    ended(&db, job, 50, "2 minutes").await;
    let shown = ids(&api.get(&format!("/jobs/{job}/deliveries")).await);
    let fifth = redeliver(&api, &shown[0]).await;
    assert_eq!(fifth.status(), 202);
    let fifth = json(fifth).await["delivery_id"].as_str().unwrap().to_owned();
    db.run("DELETE FROM webhook_delivery").await;
    ended(&db, job, 1, "1 second").await;
    let refused = redeliver(&api, &shown[0]).await;
    assert_eq!(header(&refused, "retry-after"), "60");
    assert_eq!(problem(refused, 429, "the sixth").await, "redelivered_too_often");
    assert_eq!(problem(redeliver(&api, &fifth).await, 404, "it never ended").await, "no_such_delivery");
    db.run(
        "UPDATE webhook_attempt SET delivery_id = (left(ulid_floor(now() - interval '61 seconds')::text, 13)
                                                      || right(delivery_id::text, 23))::uuid",
    )
    .await;
    let now_older = ids(&api.get(&format!("/jobs/{job}/deliveries")).await);
    assert_eq!(redeliver(&api, &now_older[0]).await.status(), 202, "a minute later");
}

#[tokio::test]
async fn a_client_asks_for_sixty_redeliveries_at_once_and_no_more() {
    let (db, api) = start(&[("FOREMAN_TRUSTED_PROXIES", "127.0.0.1")]).await;
    let job = submit(&api, WITH_RECEIVER).await;
    db.store.relay(10).await.unwrap();
    let pending = ids(&api.get(&format!("/jobs/{job}/deliveries")).await)[0].clone();
    // For each second that the test takes, there is one more.
    let mut taken = 0;
    let refused = loop {
        let answer = redeliver(&api, &pending).await;
        if answer.status() != 202 {
            break answer;
        }
        taken += 1;
        assert!(taken < 1_000, "nobody is refused");
    };
    assert!(taken >= 60, "{taken}");
    assert_eq!(header(&refused, "retry-after"), "1");
    assert_eq!(problem(refused, 429, "too often").await, "redelivered_too_often");
    let path = format!("/deliveries/{pending}/redeliver");
    let other = ask(&api, Method::POST, &path).header("x-forwarded-for", "203.0.113.9").send().await.unwrap();
    assert_eq!(problem(other, 404, "another client has its own").await, "no_such_delivery");
}
