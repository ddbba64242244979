//! A claim takes the offered jobs in the given order, each job once, and only for a live holder.

use std::{collections::HashSet, sync::Arc};

use chrono::TimeDelta;
use foreman_store::{
    ApiId, Begin, Claimed, ClientId, Exit, Holder, JobId, JobRequest, NewJob, Offer, Permit, Phase, UserName,
    WorkerId,
};
use foreman_tests::{Db, reason, success};

#[tokio::test]
async fn offers_are_served_in_their_order_and_the_oldest_first_within_each() {
    let db = Db::fresh().await;
    let (one, other) = (ClientId::generate(), ClientId::generate());
    let job = |client, priority| db.job(JobRequest { client, priority, ..db.request() });
    let jobs = [job(one, 0), job(other, 0), job(one, 7), job(one, 0), job(other, 0), job(one, 0)];
    let id: Vec<JobId> = db.accept_all(&jobs).await;
    let holder = db.holder().await;
    let offer = |client, priority, at_most| Offer { client, priority, at_most, ..db.offer(0) };
    let claim = async |offers: &[Offer], limit| {
        ids(&db.store.claim(&holder, offers, limit, Permit::Ask).await.unwrap())
    };
    assert_eq!(
        claim(&[offer(other, 0, 1), offer(one, 7, 5), offer(one, 0, 1)], 9).await,
        [id[1], id[2], id[0]]
    );
    assert_eq!(
        claim(&[offer(one, 0, 9), offer(other, 0, 9)], 2).await,
        [id[3], id[5]],
        "the limit is for all"
    );
    assert_eq!(claim(&[offer(one, 0, 9), offer(other, 0, 9)], 9).await, [id[4]]);
    db.every_job_has_one_room().await;
}

fn ids(claimed: &[Claimed]) -> Vec<JobId> {
    claimed.iter().map(|claimed| claimed.lease.job_id).collect()
}

#[tokio::test]
async fn one_claim_takes_jobs_of_several_load_keys_and_users_in_the_order_of_its_offers() {
    let db = Db::fresh().await;
    let user = |name: &str| name.parse::<UserName>().unwrap();
    let job = |load_key: &str, name| {
        db.job(JobRequest { load_key: load_key.to_owned(), user: user(name), ..db.request() })
    };
    let call = NewJob { api: Some(ApiId::generate()), ..job("a", "ada") };
    let jobs =
        [job("a", "ada"), job("a", "bob"), job("a num_ctx=8192", "ada"), job("b", ""), job("a", "ada"), call];
    let id: Vec<JobId> = db.accept_all(&jobs).await;
    let offer = |load_key: &str, name, sync, at_most| Offer {
        load_key: load_key.into(),
        user: user(name),
        sync,
        at_most,
        ..db.offer(0)
    };
    let offers = [
        offer("b", "", false, 9),
        offer("a", "ada", true, 9),
        offer("a num_ctx=8192", "ada", false, 9),
        offer("a", "ada", false, 1),
        offer("a", "bob", false, 9),
        offer("b", "bob", false, 9),
    ];
    let holder = db.holder().await;
    let claimed = db.store.claim(&holder, &offers, 4, Permit::Ask).await.unwrap();
    assert_eq!(ids(&claimed), [id[3], id[5], id[2], id[0]]);
    let said = claimed.iter().map(|job| (job.load_key.as_str(), job.user.as_str(), job.sync));
    let said: Vec<_> = said.collect();
    assert_eq!(
        said,
        [("b", "", false), ("a", "ada", true), ("a num_ctx=8192", "ada", false), ("a", "ada", false)]
    );
    let claimed = db.store.claim(&holder, &offers, 4, Permit::Begun).await.unwrap();
    assert_eq!(ids(&claimed), [id[4], id[1]]);
    db.every_job_has_one_room().await;
}

#[tokio::test]
async fn a_job_that_its_claim_begins_has_passed_every_state() {
    let db = Db::fresh().await;
    db.accept(3).await;
    let holder = db.holder().await;
    let claimed = db.store.claim(&holder, &[db.offer(9)], 9, Permit::Begun).await.unwrap();
    let [done, back, cancelled] = claimed.try_into().unwrap();
    for job in [&done, &back, &cancelled] {
        assert_eq!(db.history(job.lease.job_id).await, ["queued", "loading", "working"]);
        assert_eq!(db.room(job.lease.job_id).await, "lease");
    }
    // A holder that asks a second time whether it may begin learns that it has begun.
    let again = db.store.begin(&[(&done.lease, Phase::Working)]).await.unwrap();
    assert_eq!(again, [Begin::Go]);
    db.store.cancel(db.client, cancelled.lease.job_id).await.unwrap();

    let ids = [done.lease.job_id, back.lease.job_id, cancelled.lease.job_id];
    let hand_back = || Exit::HandBack { reason: reason() };
    let exits = [(done.lease, success()), (back.lease, hand_back()), (cancelled.lease, hand_back())];
    db.settle(&exits).await.unwrap();
    for (id, last) in ids.into_iter().zip(["done", "queued", "cancelled"]) {
        assert_eq!(db.history(id).await, ["queued", "loading", "working", last]);
    }
    assert_eq!(db.room(ids[1]).await, "ready");
    db.every_job_has_one_room().await;
}

#[tokio::test]
async fn a_job_that_may_be_sent_ahead_is_queued_until_it_is_recorded_as_working() {
    let db = Db::fresh().await;
    let [job, soon] = db.accept(2).await.try_into().unwrap();
    // It could expire before its request is sent.
    let soon_over = "UPDATE job_ready SET expires_at = now() + interval '9 seconds'";
    db.run(&format!("{soon_over} WHERE job_id = '{}'", soon.uuid())).await;
    let holder = db.holder().await;
    let claimed = db.store.claim(&holder, &[db.offer(9)], 9, Permit::SendAhead).await.unwrap();
    assert_eq!(claimed.iter().map(|job| job.permit).collect::<Vec<_>>(), [Permit::SendAhead, Permit::Ask]);
    assert_eq!(db.history(job).await, ["queued"]);
    let leases: Vec<_> = claimed.into_iter().map(|claimed| claimed.lease).collect();
    let working = leases.iter().map(|lease| (lease, Phase::Working)).collect::<Vec<_>>();
    assert_eq!(db.store.begin(&working).await.unwrap(), [Begin::Go, Begin::Go]);
    assert_eq!(db.history(job).await, ["queued", "loading", "working"]);
}

#[tokio::test]
async fn a_job_with_a_large_body_is_held_until_that_is_read_by_itself() {
    let db = Db::fresh().await;
    let sized = |bytes: usize| db.job(JobRequest { body: "b".repeat(bytes), ..db.request() });
    let (large, small) = (sized((64 << 10) + 1), sized(64 << 10));
    db.accept_all(&[large.clone(), small.clone()]).await;
    let holder = db.holder().await;
    let claimed = db.store.claim(&holder, &[db.offer(9)], 2, Permit::Begun).await.unwrap();
    let [held, begun] = claimed.try_into().unwrap();
    assert_eq!((begun.permit, begun.body), (Permit::Begun, Some(small.request.body)));
    assert_eq!((held.permit, held.body, held.bytes), (Permit::Ask, None, (64 << 10) + 1));
    assert_eq!(db.history(held.lease.job_id).await, ["queued"], "nothing is sent for it yet");
    let read = db.store.job_body(held.lease.job_id, held.bytes).await.unwrap();
    assert_eq!(read, Some(large.request.body));
    assert_eq!(db.store.begin(&[(&held.lease, Phase::Working)]).await.unwrap(), [Begin::Go]);
    assert_eq!(db.history(held.lease.job_id).await, ["queued", "loading", "working"]);
}

#[tokio::test]
async fn a_claim_of_many_jobs_brings_no_more_bytes_than_one_of_few() {
    let db = Db::fresh().await;
    let holder = db.holder().await;
    let job = db.job(JobRequest { body: "b".repeat(8 << 10), ..db.request() });
    let jobs = [(); 3].map(|()| NewJob { id: db.store.clock().next_job_id(), ..job.clone() });
    db.accept_all(&jobs).await;
    for (limit, comes_along) in [(256, true), (257, false)] {
        let claimed = db.store.claim(&holder, &[db.offer(1)], limit, Permit::Ask).await.unwrap();
        assert_eq!(claimed[0].body.is_some(), comes_along, "{limit} at once");
    }
}

#[tokio::test]
async fn another_load_key_and_another_client_are_left_alone() {
    let db = Db::fresh().await;
    db.accept_all(&[
        db.job(JobRequest { load_key: "tiny-b".to_owned(), ..db.request() }),
        db.job(JobRequest { client: ClientId::generate(), ..db.request() }),
        db.job(JobRequest { priority: 1, ..db.request() }),
    ])
    .await;
    assert!(db.claim(&db.holder().await, 9).await.is_empty());
}

#[tokio::test]
async fn a_bare_bound_skips_what_commits_late_until_it_is_lowered() {
    let db = Db::fresh().await;
    let holder = db.holder().await;
    // An api stamps an id and commits late. Meanwhile a later id is claimed, which raises the bound.
    let late = db.new_job();
    let early = db.new_job();
    db.accept_all(std::slice::from_ref(&early)).await;
    assert_eq!(db.claim(&holder, 1).await.len(), 1);
    db.accept_all(std::slice::from_ref(&late)).await;

    let bounded = Offer { lower_bound: early.id, ..db.offer(9) };
    assert!(db.store.claim(&holder, &[bounded], 9, Permit::Ask).await.unwrap().is_empty());
    // The rescan of the holder finds the job again.
    let groups = db.store.ready_groups(&[]).await.unwrap().groups;
    assert_eq!((groups.len(), groups[0].lowest), (1, late.id));
    let rescanned = Offer { lower_bound: groups[0].lowest, ..db.offer(9) };
    assert_eq!(db.store.claim(&holder, &[rescanned], 9, Permit::Ask).await.unwrap().len(), 1);
}

#[tokio::test]
async fn every_place_with_work_is_found() {
    let db = Db::fresh().await;
    let (clients, api) = ([(); 3].map(|()| ClientId::generate()), ApiId::generate());
    let mut jobs = Vec::new();
    for load_key in ["a", "B", "a num_ctx=1", "c"] {
        for client in clients {
            for (priority, user) in [(-100, ""), (0, ""), (0, ""), (5, ""), (100, ""), (0, "ada"), (9, "bob")]
            {
                let (load_key, user) = (load_key.to_owned(), user.parse().unwrap());
                let job = db.job(JobRequest { load_key, client, user, priority, ..db.request() });
                let call = NewJob { id: db.store.clock().next_job_id(), api: Some(api), ..job.clone() };
                if priority >= 5 {
                    jobs.push(call);
                }
                jobs.push(job);
            }
        }
    }
    db.accept_all(&jobs).await;
    let mut groups = db.store.ready_groups(&[]).await.unwrap().groups;
    assert_eq!(groups.len(), 4 * 3 * 9);
    assert_eq!(db.store.ready_groups_at(&groups).await.unwrap(), groups);
    groups[0].lowest = db.new_job().id;
    assert_eq!(db.store.ready_groups_at(&groups).await.unwrap(), groups[1..], "nothing is as young there");
    for group in db.store.ready_groups(&[]).await.unwrap().groups {
        let here = |job: &&NewJob| {
            let request = &job.request;
            (&request.load_key, request.client, &request.user) == (&group.load_key, group.client, &group.user)
                && (request.priority, job.api.is_some()) == (group.priority, group.sync)
        };
        assert_eq!(jobs.iter().find(here).unwrap().id, group.lowest, "the oldest there");
    }
}

#[tokio::test]
async fn a_client_with_many_groups_is_looked_at_part_by_part_and_another_client_each_time() {
    let db = Db::fresh().await;
    let other = ClientId::generate();
    let of_user = |user: usize| {
        let user = format!("user {user:03}").parse().unwrap();
        db.job(JobRequest { user, ..db.request() })
    };
    let mut jobs: Vec<NewJob> = (0..600).map(of_user).collect();
    jobs.push(db.job(JobRequest { client: other, ..db.request() }));
    db.accept_all(&jobs).await;

    let mut found = 0;
    let mut goes_on = Vec::new();
    for more in [true, false] {
        let look = db.store.ready_groups(&goes_on).await.unwrap();
        assert_eq!(
            look.have_more.into_iter().collect::<Vec<_>>(),
            if more { vec![db.client] } else { vec![] }
        );
        let (mine, others): (Vec<_>, Vec<_>) =
            look.groups.into_iter().partition(|group| group.client == db.client);
        assert_eq!(others.len(), 1);
        for (group, user) in mine.iter().zip(found..) {
            assert_eq!(group.user.as_str(), format!("user {user:03}"));
        }
        found += mine.len();
        goes_on = vec![(db.client, mine[mine.len() - 1].place())];
    }
    assert_eq!(found, 600);
    let clients = db.store.ready_groups(&goes_on).await.unwrap().groups.into_iter().map(|group| group.client);
    assert_eq!(clients.collect::<Vec<_>>(), [other], "behind the last group there is nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_claimers_never_share_a_job() {
    let db = Arc::new(Db::fresh().await);
    let jobs = db.accept(1_000).await;
    let holders = [db.holder_of("one").await, db.holder_of("another").await];
    let claimers: Vec<_> = (0..8)
        .map(|nth| {
            let (db, holder) = (Arc::clone(&db), holders[nth % 2].clone());
            tokio::spawn(async move {
                let mut mine = Vec::new();
                while mine.len() < 2_000 {
                    let claimed = db.claim(&holder, 7).await;
                    if claimed.is_empty() {
                        break;
                    }
                    mine.extend(claimed.into_iter().map(|claimed| (claimed.lease.job_id, claimed.lease.no)));
                }
                mine
            })
        })
        .collect();
    let mut all = Vec::new();
    for claimer in claimers {
        all.extend(claimer.await.unwrap());
    }
    // While other claims hold the last locks, an answer may be empty. In the end no job is left.
    all.extend(
        db.claim(&holders[0], 1_000)
            .await
            .into_iter()
            .map(|claimed| (claimed.lease.job_id, claimed.lease.no)),
    );
    assert_eq!(all.len(), jobs.len());
    assert_eq!(all.iter().map(|(job, _)| *job).collect::<HashSet<_>>(), jobs.into_iter().collect());
    assert_eq!(
        all.iter().map(|(_, no)| *no).collect::<HashSet<_>>().len(),
        1_000,
        "each has a number of its own"
    );
    db.every_job_has_one_room().await;
}

#[tokio::test]
async fn only_the_live_holder_of_the_host_claims() {
    let db = Db::fresh().await;
    db.accept(1).await;
    let old = db.holder().await;
    let new = db.holder().await;
    let nothing = async |holder: Holder, why: &str| assert!(db.claim(&holder, 1).await.is_empty(), "{why}");
    nothing(old.clone(), "it lost the host").await;
    nothing(Holder { fence: new.fence, ..old.clone() }, "it guesses the number").await;
    nothing(Holder { fence: new.fence - 1, ..new.clone() }, "its number is an old one").await;
    nothing(Holder { host: "elsewhere".to_owned(), ..new.clone() }, "another host").await;
    nothing(Holder { worker: WorkerId::generate(), ..new.clone() }, "no such worker").await;
    db.silence(&new).await;
    assert_eq!(db.claim(&new, 1).await.len(), 1, "a clock that was set takes no right away");
    db.rescue_from(&new).await;
    nothing(new.clone(), "it was taken for dead").await;
}

#[tokio::test]
async fn a_claim_brings_all_that_is_needed_to_run_the_job() {
    let db = Db::fresh().await;
    let request = JobRequest {
        path: "/api/generate".to_owned(),
        model_label: "Tiny-A:latest".to_owned(),
        max_attempts: Some(7),
        user: "ada".parse().unwrap(),
        ..db.request()
    };
    let traceparent = Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned());
    let job = NewJob { traceparent, api: Some(ApiId::generate()), ..db.job(request) };
    db.accept_all(std::slice::from_ref(&job)).await;
    let offer = Offer { user: job.request.user.clone(), sync: true, ..db.offer(1) };
    let claimed = db.store.claim(&db.holder().await, &[offer], 1, Permit::Ask).await.unwrap().pop().unwrap();
    assert_eq!(
        (claimed.lease.job_id, claimed.client, claimed.attempt, claimed.failures, claimed.max_attempts),
        (job.id, job.request.client, 1, 0, Some(7))
    );
    let JobRequest { path, model_label, body, load_key, .. } = job.request;
    assert_eq!((claimed.path, claimed.model_label, claimed.body), (path, model_label, Some(body)));
    assert_eq!((claimed.load_key, claimed.traceparent), (load_key, job.traceparent));
    assert_eq!((claimed.user.as_str(), claimed.sync, claimed.api), ("ada", true, job.api));
    assert!(claimed.eligible_at > chrono::Utc::now() - TimeDelta::minutes(1));
}
