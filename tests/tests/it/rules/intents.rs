//! Before a host loads a model it says so, and of several hosts that say the same one is heard.

use foreman_store::PublishedModel;
use foreman_tests::{Db, LOAD_KEY};

const KEY: &str = "a:latest";

#[tokio::test]
async fn of_many_hosts_that_say_the_same_one_is_heard_and_the_next_must_have_seen_it() {
    let db = Db::fresh().await;
    let say =
        async |host: usize| db.another_store().intend(&format!("host {host}"), KEY, 0, &[], 0).await.unwrap();
    let heard: Vec<_> = futures_util::future::join_all((0..8).map(say)).await;
    assert_eq!(heard.into_iter().flatten().collect::<Vec<_>>(), [1]);
    let said = db.store.host_intents().await.unwrap();
    assert!(said.len() == 1 && said[0].number == 1 && said[0].is_new, "{said:?}");
    assert_eq!(db.store.intend("other", KEY, 1, &[], 0).await.unwrap(), Some(2));
    assert_eq!(db.store.intend("late", KEY, 1, &[], 0).await.unwrap(), None);
    assert_eq!(db.store.host_intents().await.unwrap()[0].host, "other");
}

#[tokio::test]
async fn a_host_does_not_come_for_fewer_jobs_than_it_wants() {
    let db = Db::fresh().await;
    db.accept(3).await;
    let keys = [LOAD_KEY, "another"];
    assert_eq!(db.store.intend("host", KEY, 0, &keys, 4).await.unwrap(), None);
    assert_eq!(db.store.host_intents().await.unwrap(), []);
    assert_eq!(db.store.intend("host", KEY, 0, &keys, 3).await.unwrap(), Some(1));
}

#[tokio::test]
async fn an_old_intent_counts_for_nothing_and_is_forgotten() {
    let db = Db::fresh().await;
    db.store.intend("host", KEY, 0, &[], 0).await.unwrap();
    db.run("UPDATE host_intent SET said_at = now() - interval '6 seconds'").await;
    assert!(!db.store.host_intents().await.unwrap()[0].is_new);
    assert_eq!(db.store.prune_host_intents().await.unwrap(), 0);
    db.run("UPDATE host_intent SET said_at = now() - interval '11 minutes'").await;
    assert_eq!(db.store.host_intents().await.unwrap(), []);
    assert_eq!(db.store.intend("other", KEY, 0, &[], 0).await.unwrap(), Some(2));
    db.run("UPDATE host_intent SET said_at = now() - interval '11 minutes'").await;
    assert_eq!(db.store.prune_host_intents().await.unwrap(), 1);
}

#[tokio::test]
async fn only_hosts_that_take_jobs_are_neighbours() {
    let db = Db::fresh().await;
    for host in ["me", "away", "drained", "free", "there"] {
        let holder = db.holder_of(host).await;
        let model = PublishedModel { canonical: KEY.to_owned(), label: KEY.to_owned(), completes: true };
        db.store.publish_models(&holder, &[model]).await.unwrap();
        match host {
            "away" => db.store.note_unreachable(&holder).await.unwrap(),
            "free" => assert!(db.store.release_host(&holder).await.unwrap()),
            _ => {}
        }
    }
    db.store.drain_host("drained").await.unwrap();
    let neighbours = async || -> Vec<String> {
        db.store.neighbours("me").await.unwrap().into_iter().map(|host| host.id).collect()
    };
    assert_eq!(neighbours().await, ["there"]);
    assert_eq!(db.store.neighbours("me").await.unwrap()[0].models, [KEY]);
    db.run("UPDATE host SET renewed_at = now() - interval '1 hour'").await;
    assert_eq!(neighbours().await, [""; 0]);
}
