//! An unload that somebody asked for is known to its host until that host's Ollama has answered it.

use foreman_store::{PublishedModel, wake::Topic};
use foreman_tests::Db;
use futures_util::FutureExt as _;

const MODEL: &str = "a:latest";

/// A host whose Ollama has these models.
async fn host(db: &Db, host: &str, models: &[&str]) {
    let holder = db.holder_of(host).await;
    let published = |name: &&str| PublishedModel {
        canonical: (*name).to_owned(),
        label: (*name).to_owned(),
        completes: true,
    };
    let models: Vec<_> = models.iter().map(published).collect();
    db.store.publish_models(&holder, &models).await.unwrap();
}

async fn asked(db: &Db, host: &str) -> Vec<String> {
    db.store.unloads(host).await.unwrap().into_iter().map(|unload| unload.canonical).collect()
}

#[tokio::test]
async fn every_host_that_has_the_model_is_asked_and_no_other_and_each_forgets_for_itself() {
    let db = Db::fresh().await;
    host(&db, "one", &[MODEL, "b:latest"]).await;
    host(&db, "two", &[MODEL]).await;
    host(&db, "three", &["b:latest"]).await;
    assert_eq!(db.store.ask_for_unload("c:latest").await.unwrap(), [""; 0]);
    let mut woken = db.store.wakeups().subscribe(Topic::Host);
    assert_eq!(db.store.ask_for_unload(MODEL).await.unwrap(), ["one", "two"]);
    assert!(woken.changed().now_or_never().is_some(), "their holders look at once");
    assert_eq!(asked(&db, "three").await, [""; 0]);
    let unload = db.store.unloads("one").await.unwrap().remove(0);
    db.store.forget_unload("one", &unload).await.unwrap();
    assert_eq!((asked(&db, "one").await, asked(&db, "two").await), (vec![], vec![MODEL.to_owned()]));
}

#[tokio::test]
async fn an_unload_outlives_a_change_of_holder_and_one_that_was_asked_for_again_is_not_forgotten() {
    let db = Db::fresh().await;
    host(&db, "one", &[MODEL]).await;
    db.store.ask_for_unload(MODEL).await.unwrap();
    let first = db.store.unloads("one").await.unwrap().remove(0);
    db.holder_of("one").await;
    assert_eq!(db.store.unloads("one").await.unwrap(), std::slice::from_ref(&first));

    db.store.ask_for_unload(MODEL).await.unwrap();
    db.store.forget_unload("one", &first).await.unwrap();
    let second = db.store.unloads("one").await.unwrap();
    assert!(second.len() == 1 && second[0].asked_at > first.asked_at, "{second:?}");
    db.store.forget_unload("one", &second[0]).await.unwrap();
    assert_eq!(asked(&db, "one").await, [""; 0]);
}

#[tokio::test]
async fn however_often_and_from_wherever_a_model_is_to_go_each_host_has_one_row_for_it() {
    let db = Db::fresh().await;
    for name in ["one", "two", "three"] {
        host(&db, name, &[MODEL]).await;
    }
    let ask = async |_| db.another_store().ask_for_unload(MODEL).await.unwrap();
    let answers = futures_util::future::join_all((0..16).map(ask)).await;
    assert!(answers.iter().all(|hosts| *hosts == ["one", "three", "two"]), "{answers:?}");
    assert_eq!(db.value::<i64>("SELECT count(*) FROM host_unload").await, 3);
}
