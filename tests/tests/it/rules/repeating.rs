//! A sync call that a client's library repeats finds the job of the first one, as long as that has an answer to give.

use std::time::Duration;

use foreman_store::{ApiId, Cancelling, ClientId, JobId, JobRequest, NewJob, UserName};
use foreman_tests::{Db, success};
use tokio::join;

const WITHIN: Duration = Duration::from_secs(60);

async fn call(db: &Db, body: &str) -> JobId {
    let request = JobRequest { body: body.to_owned(), ..db.request() };
    db.accept_all(&[NewJob { api: Some(ApiId::generate()), ..db.job(request) }]).await[0]
}

async fn repeat_of(db: &Db, body: &str) -> Option<JobId> {
    db.store.repeat_of(db.client, &UserName::default(), "/api/chat", body, WITHIN).await.unwrap()
}

#[tokio::test]
async fn a_repeat_finds_the_newest_call_with_the_same_bytes_and_no_other_job() {
    let db = Db::fresh().await;
    let request = JobRequest { body: "{}".to_owned(), ..db.request() };
    db.accept_all(&[db.job(request)]).await;
    assert_eq!(repeat_of(&db, "{}").await, None, "nobody waits for a job of /jobs");
    call(&db, "{}").await;
    let newest = call(&db, "{}").await;
    call(&db, "{ }").await;
    assert_eq!(repeat_of(&db, "{}").await, Some(newest));
    let asked = async |client, user: &str, path, within| {
        db.store.repeat_of(client, &user.parse().unwrap(), path, "{}", within).await.unwrap()
    };
    assert_eq!(asked(ClientId::generate(), "", "/api/chat", WITHIN).await, None);
    assert_eq!(asked(db.client, "ada", "/api/chat", WITHIN).await, None, "another user of the same client");
    assert_eq!(asked(db.client, "", "/api/generate", WITHIN).await, None);
    assert_eq!(asked(db.client, "", "/api/chat", Duration::ZERO).await, None, "that is too long ago");
}

#[tokio::test]
async fn a_call_that_has_ended_or_is_being_cancelled_is_neither_found_nor_adopted() {
    let db = Db::fresh().await;
    let holder = db.holder().await;
    let api = ApiId::generate();
    let job = call(&db, "{}").await;
    let lease = db.start(&holder).await;
    assert_eq!(repeat_of(&db, "{}").await, Some(job), "it runs");
    assert!(db.store.adopt(job, api).await.unwrap());
    assert_eq!(db.value::<ApiId>("SELECT api_id FROM job").await, api);

    db.store.cancel(db.client, job).await.unwrap();
    assert_eq!(repeat_of(&db, "{}").await, None);
    assert!(!db.store.adopt(job, api).await.unwrap());
    db.settle(&[(lease, success())]).await.unwrap();
    assert_eq!(db.room(job).await, "done");
    assert_eq!(repeat_of(&db, "{}").await, None);
    assert!(!db.store.adopt(job, api).await.unwrap());
}

#[tokio::test]
async fn nobody_adopts_a_job_that_no_caller_waited_for() {
    let db = Db::fresh().await;
    let job = db.accept(1).await[0];
    assert!(!db.store.adopt(job, ApiId::generate()).await.unwrap());
    assert!(!db.store.adopt(JobId::generate(), ApiId::generate()).await.unwrap());
}

#[tokio::test]
async fn a_caller_that_has_gone_takes_no_adopted_job_with_it() {
    let db = Db::fresh().await;
    let holder = db.holder().await;
    let (first, second) = (ApiId::generate(), ApiId::generate());
    let gone = async |job, api| db.store.cancel_all(&[(db.client, job)], Some(&[api])).await.unwrap();
    for is_leased in [false, true] {
        let request = JobRequest { body: "{}".to_owned(), ..db.request() };
        let job = db.accept_all(&[NewJob { api: Some(first), ..db.job(request) }]).await[0];
        if is_leased {
            db.start(&holder).await;
        }
        assert!(db.store.adopt(job, second).await.unwrap());
        assert_eq!(gone(job, first).await, [Cancelling::Adopted]);
        assert_eq!(repeat_of(&db, "{}").await, Some(job), "it goes on");
        let asked = if is_leased { Cancelling::Asked } else { Cancelling::Cancelled };
        assert_eq!(gone(job, second).await, [asked]);
    }
    let nobodys = db.accept(1).await[0];
    assert_eq!(gone(nobodys, first).await, [Cancelling::Adopted], "nobody waits for it, so nobody has gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_hang_up_and_an_adoption_at_the_same_time_one_wins() {
    let db = Db::fresh().await;
    let (first, second) = (ApiId::generate(), ApiId::generate());
    let mut adoptions = 0;
    for round in 0..300 {
        let job = db.accept_all(&[NewJob { api: Some(first), ..db.new_job() }]).await[0];
        let (jobs, waited_at) = ([(db.client, job)], [first]);
        let gone = db.store.cancel_all(&jobs, Some(&waited_at));
        let adopted = db.store.adopt(job, second);
        // One after the other begins first, so that each wins sometimes.
        let (adopted, gone) = match round % 3 {
            0 => (adopted.await.unwrap(), gone.await.unwrap()),
            1 => {
                let gone = gone.await.unwrap();
                (adopted.await.unwrap(), gone)
            }
            _ => {
                let (adopted, gone) = join!(adopted, gone);
                (adopted.unwrap(), gone.unwrap())
            }
        };
        let expected = if adopted { Cancelling::Adopted } else { Cancelling::Cancelled };
        assert_eq!(gone, [expected]);
        adoptions += u32::from(adopted);
    }
    assert!((100..=200).contains(&adoptions), "{adoptions} of 300 were adopted");
}
