//! A job stays its user's, and a sync call stays one, through every room.

use std::time::Duration;

use chrono::TimeDelta;
use foreman_store::{ApiId, Exit, Holder, Lease, NewJob, Offer, Permit, Phase, Scope};
use foreman_tests::{Db, LOAD_KEY, reason};

const USER: &str = "ada";

fn sync_call(db: &Db, api: ApiId) -> NewJob {
    let job = db.new_job();
    NewJob { api: Some(api), request: of_user(job.request.clone()), ..job }
}

fn of_user(request: foreman_store::JobRequest) -> foreman_store::JobRequest {
    foreman_store::JobRequest { user: USER.parse().unwrap(), ..request }
}

/// Claims the one ready job, as a sync call of the user.
async fn claim(db: &Db, holder: &Holder) -> Lease {
    let groups = db.store.ready_groups(&[]).await.unwrap().groups;
    let [group] = groups.try_into().unwrap();
    assert_eq!((&*group.load_key, group.user.as_str(), group.sync), (LOAD_KEY, USER, true));
    let offer = Offer { user: group.user, sync: group.sync, ..db.offer(1) };
    let mut claimed = db.store.claim(holder, &[offer], 1, Permit::Ask).await.unwrap();
    claimed.pop().unwrap().lease
}

async fn promote(db: &Db) {
    db.run("UPDATE job_scheduled SET due_at = now()").await;
    assert_eq!(db.store.promote(9).await.unwrap().0, 1);
}

#[tokio::test]
async fn a_job_keeps_its_user_and_its_caller_wherever_it_goes() {
    let (db, api, hour) = (Db::fresh().await, ApiId::generate(), Duration::from_secs(3_600));
    db.store.renew_api(api, hour).await.unwrap();
    let later = NewJob { run_at: Some(db.now().await + TimeDelta::hours(1)), ..sync_call(&db, api) };
    let job = db.accept_all(&[later]).await[0];
    promote(&db).await;

    let holder = db.holder().await;
    let lease = claim(&db, &holder).await;
    db.settle(&[(lease, Exit::HandBack { reason: reason() })]).await.unwrap();

    let lease = claim(&db, &holder).await;
    db.store.begin(&[(&lease, Phase::Working)]).await.unwrap();
    db.settle(&[(lease, Exit::Retry { reason: reason(), wait: hour })]).await.unwrap();
    promote(&db).await;

    // A rescue requeues a call that only loaded at once, and one that worked after a moment.
    for (phase, room) in [(Phase::Loading, "ready"), (Phase::Working, "scheduled")] {
        let holder = db.holder().await;
        let lease = claim(&db, &holder).await;
        db.store.begin(&[(&lease, phase)]).await.unwrap();
        db.rescue_from(&holder).await;
        assert_eq!(db.room(job).await, room);
    }
    promote(&db).await;
    claim(&db, &db.holder().await).await;
    let shown = db.store.job(Scope::Client(db.client), job, 0).await.unwrap().unwrap();
    assert_eq!(shown.user.as_str(), USER);
}

#[tokio::test]
async fn a_retry_of_a_sync_call_is_for_the_same_user_but_nobody_waits_for_it() {
    let db = Db::fresh().await;
    let call = sync_call(&db, ApiId::generate());
    let job = db.accept_all(std::slice::from_ref(&call)).await[0];
    db.store.cancel(db.client, job).await.unwrap();
    let bytes = u32::try_from(call.request.body.len()).unwrap();
    let request = db.store.request(Scope::Client(db.client), job, bytes).await.unwrap().unwrap();
    db.accept_all(&[NewJob { retry_of: Some(job), ..db.job(request) }]).await;
    let groups = db.store.ready_groups(&[]).await.unwrap().groups;
    assert_eq!((groups.len(), groups[0].user.as_str(), groups[0].sync), (1, USER, false));
}
