//! The statements of relay and dispatcher read what they need and no more, whatever Postgres knew when it planned them.

use std::collections::HashSet;

use foreman_store::{DeliveryOutcome, KnownLane, LaneOffer, LaneSearch, Relayed, Store};
use foreman_tests::{Db, eventually};

use super::{HEAVY, RETRY, TERMS, URL, done_jobs_to, job_to, look, report};

/// Rows that were read by any way.
const READ: &str = "SELECT (sum(seq_tup_read) + sum(idx_tup_fetch))::bigint FROM pg_stat_user_tables
                    WHERE relname ~ '^(webhook_delivery|webhook_lane|webhook_attempt|job_event|outbox)(_[0-9]{8})?$'";

/// One job's events through every statement, by a store whose plans are old.
async fn work(db: &Db, store: &Store) {
    let job = done_jobs_to(db, "http://127.0.0.1:10/", 1).await[0].uuid();
    // By an index: Postgres may add up what this statement reads, too.
    let come_due = format!(
        "UPDATE webhook_delivery SET next_attempt_at = now()
         WHERE job_id = '{job}' AND attempts = 1 AND claim_no IS NULL AND seq = 1"
    );
    while !matches!(store.relay(100).await.unwrap(), Relayed::Moved { events: 0, .. }) {}
    for round in 0..6 {
        let lanes = look(store).await;
        let known: Vec<KnownLane> =
            lanes.heads.iter().map(|head| KnownLane { lane: head.lane, since: head.first_at }).collect();
        let lanes = store.look_at_lanes(&LaneSearch::everywhere(known)).await.unwrap();
        let due = lanes.heads.iter().filter(|head| head.first_at <= lanes.now);
        let offers: Vec<LaneOffer> = due
            .map(|head| LaneOffer { lane: head.lane, since: head.first_at, at_most: 10, heavy_bytes: HEAVY })
            .collect();
        let mut claimed = store.claim_deliveries(&offers, HEAVY, TERMS).await.unwrap().to_send;
        store.add_artifacts(&mut claimed, 100).await.unwrap();
        let outcome = if round == 0 { RETRY } else { DeliveryOutcome::Delivered };
        let reports: Vec<_> = claimed.into_iter().map(|delivery| report(delivery, outcome)).collect();
        store.settle_deliveries(&reports).await.unwrap();
        store.settle_deliveries(&reports).await.unwrap();
        db.run(&come_due).await;
    }
}

/// The connections of all handles.
async fn connections(db: &Db) -> HashSet<i32> {
    let pids = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'foreman'";
    db.values(pids).await.into_iter().collect()
}

/// Closes a handle and waits until its connections have ended: then Postgres has added up what they read.
async fn add_up(db: &Db, store: &Store, own: &HashSet<i32>) {
    store.close().await;
    eventually("the end of a store's connections", async || {
        let open = connections(db).await.intersection(own).count();
        if open == 0 { Ok(()) } else { Err(open) }
    })
    .await;
}

#[tokio::test]
async fn plans_made_on_empty_tables_do_not_read_full_ones() {
    let db = Db::fresh().await;
    db.run("ALTER TABLE webhook_delivery SET (autovacuum_enabled = off)").await;
    db.run("ALTER TABLE outbox SET (autovacuum_enabled = off)").await;
    let before = connections(&db).await;
    let veteran = db.one_connection();
    look(&veteran).await;
    let of_veteran = &connections(&db).await - &before;
    // Postgres settles on one plan for good from the sixth execution on.
    for _ in 0..3 {
        work(&db, &veteran).await;
    }
    // A receiver that has been down for long: its lane is full of what waits.
    let jobs: Vec<_> = (0..3_000).map(|_| job_to(&db, URL)).collect();
    for some in jobs.chunks(500) {
        db.accept_all(some).await;
    }
    let before = connections(&db).await;
    let filler = db.another_store();
    super::relay(&filler).await;
    let of_filler = &connections(&db).await - &before;
    add_up(&db, &filler, &of_filler).await;
    // The flush adds up what this statement itself reads: otherwise that may count later.
    db.run(
        "UPDATE webhook_delivery SET attempts = 1, next_attempt_at = now() + interval '1 hour';
         SELECT pg_stat_force_next_flush()",
    )
    .await;
    let before: i64 = db.value(READ).await;
    work(&db, &veteran).await;
    add_up(&db, &veteran, &of_veteran).await;
    let read = db.value::<i64>(READ).await - before;
    assert!(read < 2_000, "{read} rows were read for the four events of one job");
}
