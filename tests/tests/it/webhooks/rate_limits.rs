//! The rate limit of an endpoint: how many webhooks a second it lets through, and that dispatchers keep to it.

use chrono::{DateTime, TimeDelta, Utc};
use foreman_tests::{Db, Receiver, eventually};

use super::gates::{change, endpoint};
use super::{claim, dispatcher, look, relay};
use crate::endpoints::KEY;

/// In microseconds.
const SECOND: i64 = 1_000_000;

#[tokio::test]
async fn no_rate_limit_lets_more_through_in_a_second_than_it_says() {
    let db = Db::fresh().await;
    let slots = async |function: &str| -> Vec<i64> {
        let sql = format!("SELECT ({function})::bigint FROM generate_series(1, 1000) AS t (n) ORDER BY n");
        db.values(&sql).await
    };
    let spacings = slots("extract(epoch FROM rate_spacing(n)) * 1000000").await;
    let bursts = slots("rate_burst(n)").await;
    let of_older = slots("extract(epoch FROM (rate_slots(n)).spacing) * 1000000").await;
    assert_eq!(spacings, of_older, "older workers keep to the same limit");
    assert_eq!(bursts, slots("(rate_slots(n)).burst").await);
    for (limit, (spacing, burst)) in (1_i64..).zip(spacings.into_iter().zip(bursts)) {
        // Whoever takes each slot at once gets the burst at the beginning, and then one webhook per spacing.
        let at = |nth: i64| (nth - burst).max(0) * spacing;
        for nth in 1..=2 * limit {
            let took = at(nth + limit) - at(nth);
            assert!(took >= SECOND, "{limit} a second: {} webhooks within {took} µs", limit + 1);
        }
        assert!(
            (SECOND / spacing) * 20 >= (limit - 1) * 19,
            "{limit} a second lets {} through",
            SECOND / spacing
        );
    }
}

#[tokio::test]
async fn a_look_tells_the_moment_from_which_the_next_slot_can_be_claimed() {
    let db = Db::fresh().await;
    endpoint(&db, Some(1)).await;
    db.accept(5).await;
    relay(&db.store).await;
    assert_eq!(claim(&db.store).await.to_send.len(), 1);
    let opens_at = look(&db.store).await.heads[0].opens_at.unwrap();
    let paid: DateTime<Utc> = db.value("SELECT next_slot_at FROM webhook_lane").await;
    assert_eq!(opens_at - paid, TimeDelta::seconds(1));
    for (opens_in, claimed) in [("1 minute", 0), ("-1 millisecond", 1), ("1 minute", 0)] {
        db.run(&format!(
            "UPDATE webhook_lane SET next_slot_at = now() - interval '1 second' + interval '{opens_in}'"
        ))
        .await;
        let lanes = look(&db.store).await;
        assert_eq!(lanes.heads[0].due_in(lanes.now).is_zero(), claimed > 0, "{opens_in}");
        assert_eq!(claim(&db.store).await.to_send.len(), claimed, "{opens_in}");
    }
}

/// Each claim leaves its time behind, and Postgres' clock alone is asked.
#[tokio::test(flavor = "multi_thread")]
async fn dispatchers_send_everything_once_and_no_faster_than_the_limit() {
    const LIMIT: usize = 40;
    const JOBS: usize = 100;
    let (db, receiver) = (Db::fresh().await, Receiver::start().await);
    let id = endpoint(&db, Some(i32::try_from(LIMIT).unwrap())).await;
    change(&db, id, |settings| settings.url = receiver.url("/")).await;
    db.run(
        "CREATE TABLE claimed (at timestamptz NOT NULL);
         CREATE FUNCTION keep_claim() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN INSERT INTO claimed VALUES (NEW.claimed_at); RETURN NULL; END';
         CREATE TRIGGER keep_claim AFTER UPDATE ON webhook_delivery FOR EACH ROW
             WHEN (NEW.claim_no IS NOT NULL AND OLD.claim_no IS NULL) EXECUTE FUNCTION keep_claim()",
    )
    .await;
    let jobs = db.accept(JOBS).await;
    let _dispatchers = (dispatcher(&db, &[KEY]).await, dispatcher(&db, &[KEY]).await);
    eventually("every webhook", async || {
        let left = "SELECT (SELECT count(*) FROM outbox) + (SELECT count(*) FROM webhook_delivery)";
        match db.value::<i64>(left).await {
            0 => Ok(()),
            left => Err(left),
        }
    })
    .await;
    let mut came: Vec<String> =
        receiver.received().iter().map(|webhook| webhook.header("webhook-id").to_owned()).collect();
    came.sort_unstable();
    let mut expected: Vec<String> = jobs.iter().map(|job| format!("{job}_1")).collect();
    expected.sort_unstable();
    assert_eq!(came, expected);
    let claimed: Vec<DateTime<Utc>> = db.values("SELECT at FROM claimed ORDER BY at").await;
    assert_eq!(claimed.len(), JOBS, "nothing was claimed in vain");
    for window in claimed.windows(LIMIT + 1) {
        let took = window[LIMIT] - window[0];
        assert!(took >= TimeDelta::seconds(1), "{} webhooks within {took}", LIMIT + 1);
    }
}
