//! Lanes with something to send are found past everything that is gone, and no memory hides one.

use chrono::{DateTime, TimeDelta};
use foreman_store::{ClientId, DeliveryOutcome, KnownLane, LaneId, LaneSearch};
use foreman_tests::Db;

use super::{URL, claim_one, done_jobs_to, job_to, look, relay, settle};

async fn lanes(db: &Db, known: &[KnownLane]) -> Vec<LaneId> {
    let mut lanes: Vec<LaneId> = db
        .store
        .look_at_lanes(&LaneSearch::everywhere(known.to_vec()))
        .await
        .unwrap()
        .heads
        .iter()
        .map(|head| head.lane)
        .collect();
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
async fn a_look_between_known_lanes_finds_some_unknown_ones_and_says_that_there_are_more() {
    let db = Db::fresh().await;
    let jobs: Vec<_> = (1..=300).map(|port| job_to(&db, &format!("http://127.0.0.1:{port}/"))).collect();
    db.accept_all(&jobs).await;
    relay(&db.store).await;
    let found = look(&db.store).await;
    assert!(found.is_cut && found.heads.len() < 300, "{}", found.heads.len());
    let known: Vec<KnownLane> =
        found.heads.iter().map(|head| KnownLane { lane: head.lane, since: DateTime::UNIX_EPOCH }).collect();
    let rest = db.store.look_at_lanes(&LaneSearch::everywhere(known.clone())).await.unwrap();
    assert_eq!((rest.heads.len(), rest.is_cut), (300, false));

    let visits = db.store.look_at_lanes(&LaneSearch::of(known[..10].to_vec())).await.unwrap();
    assert_eq!(visits.heads.len(), 10, "and a look that searches nothing visits only what it is told");
}

#[tokio::test]
async fn a_look_learns_of_each_new_delivery_by_its_id() {
    let db = Db::fresh().await;
    db.accept_all(&[job_to(&db, URL)]).await;
    relay(&db.store).await;
    let mut search =
        LaneSearch { made_since: look(&db.store).await.made_since, ..LaneSearch::of(Vec::new()) };
    let mut seen = Vec::new();
    for port in 1..=20 {
        db.accept_all(&[job_to(&db, &format!("http://127.0.0.1:{port}/"))]).await;
        relay(&db.store).await;
        let new = db.store.look_at_lanes(&search).await.unwrap();
        search.made_since = new.made_since;
        seen.extend(new.heads.iter().map(|head| head.lane));
    }
    let all = lanes(&db, &[]).await;
    assert!(
        all.iter()
            .all(|lane| *lane == LaneId::derive(db.client, "http://127.0.0.1:9") || seen.contains(lane))
    );
    assert!(db.store.look_at_lanes(&search).await.unwrap().heads.len() < 20, "what was seen is passed");
    db.run("UPDATE webhook_delivery SET claim_no = 1, claimed_at = now(), claimed_until = now() + interval '1 hour'")
        .await;
    assert!(
        db.store.look_at_lanes(&search).await.unwrap().heads.is_empty(),
        "nor is what somebody sends now"
    );
}

#[tokio::test]
async fn a_look_that_finds_nothing_new_does_not_go_back_to_what_was_seen_before() {
    let db = Db::fresh().await;
    for port in 1..=3 {
        db.accept_all(&[job_to(&db, &format!("http://127.0.0.1:{port}/"))]).await;
        relay(&db.store).await;
    }
    let last = db.store.look_at_lanes(&LaneSearch::everywhere(Vec::new())).await.unwrap();
    let mut search = LaneSearch { made_since: last.made_since, ..LaneSearch::of(Vec::new()) };
    search.made_since = db.store.look_at_lanes(&search).await.unwrap().made_since;
    // The newest is delivered, and the receivers of the others hang.
    db.run(
        "DELETE FROM webhook_delivery WHERE id = (SELECT id FROM webhook_delivery ORDER BY id DESC LIMIT 1)",
    )
    .await;
    for _ in 0..2 {
        let new = db.store.look_at_lanes(&search).await.unwrap();
        assert!(new.heads.is_empty(), "{new:?}");
        search.made_since = new.made_since;
    }
    db.accept_all(&[job_to(&db, URL)]).await;
    relay(&db.store).await;
    assert_eq!(db.store.look_at_lanes(&search).await.unwrap().heads.len(), 1);
}

#[tokio::test]
async fn a_known_lane_is_looked_at_from_where_it_still_lives() {
    let db = Db::fresh().await;
    db.accept_all(&[job_to(&db, URL)]).await;
    relay(&db.store).await;
    let found = look(&db.store).await;
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
