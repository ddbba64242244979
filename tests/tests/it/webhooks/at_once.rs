//! What the relay claims of the webhooks that it makes: the same as a claim would bring a moment later, and only what nothing stands
//! before.

use foreman_store::{ClaimOfNew, Completion, Delivery, DeliveryOutcome, DrainBound, Exit, LaneId};
use foreman_tests::{Db, success};

use super::gates::endpoint;
use super::{TERMS, URL, claim, claim_one, done_jobs_to, job_to, relay, settle};

/// A turn of the relay that may claim of these lanes.
async fn turn(db: &Db, lanes: &[LaneId]) -> Vec<Delivery> {
    let claim = ClaimOfNew { lanes: lanes.to_vec(), terms: TERMS };
    db.store.relay_and_claim(&mut DrainBound::default(), 1_000, Some(&claim)).await.unwrap().1
}

/// Claims and delivers everything there is.
async fn deliver_all(db: &Db) -> Vec<LaneId> {
    relay(&db.store).await;
    let mut lanes = Vec::new();
    loop {
        let claimed = claim(&db.store).await.to_send;
        if claimed.is_empty() {
            lanes.sort_unstable();
            lanes.dedup();
            return lanes;
        }
        for delivery in claimed {
            lanes.push(delivery.receiver.lane);
            settle(&db.store, delivery, DeliveryOutcome::Delivered).await;
        }
    }
}

/// A database with a receiver at `URL` that has taken webhooks, and its lane.
async fn proven() -> (Db, Vec<LaneId>) {
    let db = Db::fresh().await;
    done_jobs_to(&db, URL, 1).await;
    let lanes = deliver_all(&db).await;
    (db, lanes)
}

async fn accept(db: &Db) {
    db.accept_all(&[job_to(db, URL)]).await;
}

/// All that is sent and counted, but for what no two jobs have in common.
fn content(delivery: &Delivery) -> String {
    let Delivery { receiver, attempt, terminal, redelivery, model, metadata, event, .. } = delivery;
    let Delivery { artifact_bytes, is_probe, lane_is_open, is_complete, traceparent, .. } = delivery;
    let (seq, made, state, before) = (event.seq, event.attempt, event.state, event.previous_state);
    let (artifacts, error) = (&event.artifacts, &event.error);
    format!(
        "{receiver:?} {traceparent:?} {attempt} {terminal} {redelivery} {model} {metadata:?} {artifact_bytes} {is_probe} \
         {lane_is_open} {is_complete} {seq} {made} {state:?} {before:?} {error:?} {artifacts:?}"
    )
}

#[tokio::test]
async fn the_relay_claims_what_a_claim_would_bring_a_moment_later() {
    let (db, lanes) = proven().await;
    let holder = db.holder().await;
    let [mut of_relay, mut of_claim] = [Vec::new(), Vec::new()];
    for (offered, contents) in [(&lanes[..], &mut of_relay), (&[], &mut of_claim)] {
        let mut tell = async || {
            let mut claimed = turn(&db, offered).await;
            assert_eq!(claimed.len(), offered.len(), "the first of the events");
            loop {
                claimed.extend(claim(&db.store).await.to_send);
                let Some(delivery) = claimed.pop() else { return };
                assert!(claimed.is_empty(), "one event at a time");
                contents.push(content(&delivery));
                settle(&db.store, delivery, DeliveryOutcome::Delivered).await;
            }
        };
        accept(&db).await;
        tell().await;
        let lease = db.start(&holder).await;
        tell().await;
        db.settle(&[(lease, success())]).await.unwrap();
        tell().await;
    }
    assert_eq!(of_relay.len(), 4);
    assert_eq!(of_relay, of_claim);
    assert!(of_relay[3].contains("completion"), "with its artifacts: {}", of_relay[3]);
}

#[tokio::test]
async fn a_claim_of_the_relay_is_leased_and_counted() {
    let (db, lanes) = proven().await;
    accept(&db).await;
    assert_eq!(turn(&db, &lanes).await.len(), 1);
    assert_eq!(claim(&db.store).await.to_send.len(), 0, "while its lease lasts");
    let lease = "SELECT extract(epoch FROM claimed_until - claimed_at)::float8 FROM webhook_delivery";
    assert_eq!(db.value::<f64>(lease).await, TERMS.lease.as_secs_f64());
    db.run("UPDATE webhook_delivery SET claimed_until = now()").await;
    let again = claim(&db.store).await;
    assert_eq!((again.lost, again.to_send[0].attempt), (1, 2), "after its dispatcher died");
}

#[tokio::test]
async fn the_relay_leaves_to_the_dispatcher_what_something_stands_before() {
    const EARLIER: &str =
        "INSERT INTO webhook_delivery (lane_id, job_id, seq, terminal, next_attempt_at, redelivery, attempts,
                               claim_no, claimed_at, claimed_until)
                           SELECT webhook_lane, id, 1, false, now(), ";
    let before = |rest: &str| format!("{EARLIER}{rest} FROM job ORDER BY id DESC LIMIT 1");
    for (change, claimed) in [
        ("SELECT", 1),
        ("UPDATE webhook_lane SET healthy = NULL", 0),
        ("UPDATE webhook_lane SET healthy = false", 0),
        ("UPDATE webhook_lane SET not_before = now()", 0),
        (&before("false, 0, NULL, NULL, NULL"), 0),
        (&before("false, 1, 9, now(), now() + interval '1 minute'"), 0),
        (&before("true, 0, NULL, NULL, NULL"), 1),
        ("UPDATE webhook_attempt SET outcome = 'failed', error_code = 'gone' WHERE seq = 1", 0),
        // The snapshot of a turn may be older than the turn before it.
        ("DELETE FROM job_event WHERE seq = 3", 0),
    ] {
        let (db, lanes) = proven().await;
        accept(&db).await;
        let lease = db.start(&db.holder().await).await;
        deliver_all(&db).await;
        db.run(change).await;
        db.settle(&[(lease, success())]).await.unwrap();
        assert_eq!(turn(&db, &lanes).await.len(), claimed, "{change}");
        let waiting: i64 =
            db.value("SELECT count(*) FROM webhook_delivery WHERE seq = 4 AND claim_no IS NULL").await;
        assert_eq!(waiting, 1 - i64::try_from(claimed).unwrap(), "{change}");
    }
}

#[tokio::test]
async fn the_relay_claims_only_of_lanes_that_are_offered_and_only_what_is_small() {
    let (db, lanes) = proven().await;
    accept(&db).await;
    assert_eq!(turn(&db, &[]).await.len(), 0);
    let lease = db.start(&db.holder().await).await;
    deliver_all(&db).await;
    let Exit::Done(completion) = success() else { unreachable!("it is a success") };
    let large = Completion { completion: vec![b'x'; 20 << 10], ..completion };
    db.settle(&[(lease, Exit::Done(large))]).await.unwrap();
    assert_eq!(turn(&db, &lanes).await.len(), 0);
    assert!(claim_one(&db.store).await.is_heavy());
}

#[tokio::test]
async fn a_turn_claims_so_many_and_no_more() {
    let (db, lanes) = proven().await;
    let at_most = usize::try_from(ClaimOfNew::AT_MOST).unwrap();
    let jobs: Vec<_> = (0..at_most + 3).map(|_| job_to(&db, URL)).collect();
    db.accept_all(&jobs).await;
    assert_eq!(turn(&db, &lanes).await.len(), at_most);
    assert_eq!(claim(&db.store).await.to_send.len(), 3);
}

#[tokio::test]
async fn the_relay_claims_nothing_for_an_endpoint_that_is_disabled_or_has_a_limit() {
    for (change, claimed) in [
        ("SELECT", 1),
        ("UPDATE webhook_endpoint SET disabled_at = now(), disabled_because = 'asked'", 0),
        ("UPDATE webhook_endpoint SET rate_limit = 100", 0),
    ] {
        let db = Db::fresh().await;
        endpoint(&db, None).await;
        db.accept(1).await;
        let lanes = deliver_all(&db).await;
        db.run(change).await;
        db.accept(1).await;
        assert_eq!(turn(&db, &lanes).await.len(), claimed, "{change}");
    }
}
