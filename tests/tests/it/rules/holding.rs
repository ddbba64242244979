//! Every write by a holder proves its lease number.

use foreman_store::{JobState, Settled};
use foreman_tests::{Db, copy_of, success};

#[tokio::test]
async fn a_stale_worker_cannot_settle_a_reclaimed_job() {
    let db = Db::fresh().await;
    let job = db.accept(1).await[0];
    let paused = db.holder().await;
    let stale = db.start(&paused).await;
    db.silence(&paused).await;
    db.store.rescue().await.unwrap();
    let rescuer = db.holder().await;
    let fresh = db.start(&rescuer).await;

    assert_eq!(db.store.settle(&[(stale, success())]).await.unwrap(), [Settled::Stale]);
    assert_eq!(db.room(job).await, "lease");
    assert_eq!(
        db.store.settle(&[(copy_of(&fresh), success())]).await.unwrap(),
        [Settled::Into(JobState::Done)]
    );
    assert_eq!(
        db.history(job).await,
        ["queued", "loading", "working", "queued", "loading", "working", "done"]
    );
    db.every_job_has_one_room().await;
}
