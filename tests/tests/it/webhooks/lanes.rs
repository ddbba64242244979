//! Lanes with something to send are found past everything that is gone, and no memory hides one.

use chrono::{DateTime, TimeDelta};
use foreman_store::{ClientId, DeliveryOutcome, KnownLane, LaneId};
use foreman_tests::Db;

use super::{URL, claim_one, done_jobs_to, job_to, relay, settle};

async fn lanes(db: &Db, known: &[KnownLane]) -> Vec<LaneId> {
    let mut lanes: Vec<LaneId> =
        db.store.look_at_lanes(known).await.unwrap().heads.iter().map(|head| head.lane).collect();
    lanes.sort_unstable();
    lanes
}

#[tokio::test]
async fn every_lane_is_found_whichever_are_known() {
    let db = Db::fresh().await;
    let jobs: Vec<_> = (1..=20).map(|port| job_to(&db, &format!("http://127.0.0.1:{port}/"))).collect();
    db.accept_all(&jobs).await;
    relay(&db.store).await;
    let all = lanes(&db, &[]).await;
    assert_eq!(all.len(), 20);
    let since = DateTime::UNIX_EPOCH;
    for known in [&all[..1], &all[19..], &all[5..9], &all[..]] {
        let mut known: Vec<KnownLane> = known.iter().map(|lane| KnownLane { lane: *lane, since }).collect();
        // One that has nothing any more stands between them.
        known.push(KnownLane { lane: LaneId::derive(ClientId::generate(), "http://gone"), since });
        assert_eq!(lanes(&db, &known).await, all);
    }
}

#[tokio::test]
async fn a_known_lane_is_looked_at_from_where_it_still_lives() {
    let db = Db::fresh().await;
    db.accept_all(&[job_to(&db, URL)]).await;
    relay(&db.store).await;
    let found = db.store.look_at_lanes(&[]).await.unwrap();
    let head = &found.heads[0];
    assert!(head.first_at <= found.now);
    for (since, seen) in [(head.first_at, 1), (head.first_at + TimeDelta::microseconds(1), 0)] {
        assert_eq!(lanes(&db, &[KnownLane { lane: head.lane, since }]).await.len(), seen);
    }
}

#[tokio::test]
async fn only_receivers_without_deliveries_are_forgotten() {
    let db = Db::fresh().await;
    done_jobs_to(&db, URL, 1).await;
    relay(&db.store).await;
    db.run("UPDATE webhook_lane SET last_used_at = now() - interval '8 days'").await;
    assert_eq!(db.store.prune_lanes(100).await.unwrap(), 0);
    db.run("DELETE FROM webhook_delivery WHERE seq > 1").await;
    let delivery = claim_one(&db.store).await;
    settle(&db.store, delivery, DeliveryOutcome::Delivered).await;
    assert_eq!(db.store.prune_lanes(100).await.unwrap(), 0, "it has just been used");
    db.run("UPDATE webhook_lane SET last_used_at = now() - interval '8 days'").await;
    assert_eq!(db.store.prune_lanes(100).await.unwrap(), 1);
}
