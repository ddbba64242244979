//! Broken in the work: it waits, and nobody does it.

use foreman_store::{Holder, PublishedModel};
use foreman_tests::LOAD_KEY;

use super::House;

impl House {
    /// Makes a worker's row one that does everything, and has it publish the model of plain jobs.
    pub(super) async fn speaks_for(&self, holder: &Holder) {
        self.db.run("UPDATE worker SET roles = '{run,relay,dispatch,janitor}'").await;
        self.publishes(holder, &[LOAD_KEY]).await;
    }

    async fn publishes(&self, holder: &Holder, models: &[&str]) {
        let model = |name: &&str| PublishedModel {
            canonical: format!("{name}:latest"),
            label: format!("{name}:latest"),
            completes: true,
        };
        let models: Vec<_> = models.iter().map(model).collect();
        assert!(self.db.store.publish_models(holder, &models).await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_that_wait_for_a_worker() {
    let house = House::sound().await;
    let holder = house.db.holder().await;
    house.speaks_for(&holder).await;
    house.db.accept(2).await;
    assert_eq!(house.examined(&[]).await.checks("trouble"), Vec::<&str>::new());

    house.db.run("UPDATE worker SET roles = '{relay,dispatch,janitor}'").await;
    let examined = house.examined(&[]).await;
    examined.only_trouble(
        "workers",
        "2 jobs wait, and no live worker has the role run",
        "FOREMAN_WORKER_ROLES",
    );
    house.db.silence(&holder).await;
    let examined = house.examined(&[]).await;
    examined.only_trouble("workers", "2 jobs wait", "start a foreman-worker");
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_whose_model_no_host_has() {
    let house = House::sound().await;
    let holder = house.db.holder().await;
    house.speaks_for(&holder).await;
    house.db.accept(1).await;
    house.publishes(&holder, &["another"]).await;
    let examined = house.examined(&[]).await;
    examined.only_trouble("models", "1 job waits for tiny-a, which no host has", "ollama pull tiny-a");
    house.publishes(&holder, &[]).await;
    let examined = house.examined(&[]).await;
    examined.trouble("models", "No host has any model", "ollama pull");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_ollama_went_away() {
    let house = House::sound().await;
    let holder = house.db.holder().await;
    house.speaks_for(&holder).await;
    house.db.store.note_unreachable(&holder).await.unwrap();
    let examined = house.examined(&[]).await;
    examined.only_trouble("hosts", "does not reach Ollama at http://127.0.0.1:11434", "start Ollama there");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_says_no_more_what_its_ollama_has() {
    let house = House::sound().await;
    let holder = house.db.holder().await;
    house.speaks_for(&holder).await;
    house.db.run("UPDATE host SET published_at = now() - interval '5 minutes'").await;
    let examined = house.examined(&[]).await;
    assert_eq!((examined.checks("note"), examined.code), (vec!["hosts", "api"], 0), "{examined:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_in_the_hands_of_the_dead() {
    let house = House::sound().await;
    let holder = house.db.holder().await;
    house.speaks_for(&holder).await;
    house.db.accept(1).await;
    house.db.start(&holder).await;
    assert_eq!(house.examined(&[]).await.checks("trouble"), Vec::<&str>::new());
    house.db.silence(&holder).await;
    house.db.run("DELETE FROM outbox").await;
    let examined = house.examined(&[]).await;
    assert_eq!(examined.checks("trouble"), ["workers", "leases"], "{examined:#?}");
    examined.trouble("leases", "1 job is in the hands of workers that are gone", "role janitor");
    examined.trouble("workers", "no live worker has the role janitor", "FOREMAN_WORKER_ROLES");
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_state_that_nobody_relays() {
    let house = House::sound().await;
    let holder = house.db.holder().await;
    house.speaks_for(&holder).await;
    house.db.accept(1).await;
    house.db.run("UPDATE outbox SET at = now() - interval '5 minutes'").await;
    house.examined(&[]).await.only_trouble("outbox", "has waited for 5m", "the log of the workers");
    house.db.run("UPDATE worker SET roles = '{run,dispatch,janitor}'").await;
    let examined = house.examined(&[]).await;
    assert_eq!(examined.checks("trouble"), ["workers", "outbox"], "{examined:#?}");
    examined.trouble("outbox", "webhooks wait with it", "role relay");
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_that_nobody_sends() {
    let house = House::sound().await;
    let holder = house.db.holder().await;
    house.speaks_for(&holder).await;
    house
        .db
        .run(
            "INSERT INTO webhook_delivery (lane_id, job_id, seq, terminal, next_attempt_at)
             VALUES (gen_random_uuid(), gen_random_uuid(), 1, false, now() - interval '10 minutes')",
        )
        .await;
    let busy = house.examined(&[]).await;
    assert_eq!(
        (busy.checks("trouble"), busy.checks("note")),
        (vec![], vec!["deliveries", "api"]),
        "{busy:#?}"
    );
    house.db.run("UPDATE worker SET roles = '{run,relay,janitor}'").await;
    let examined = house.examined(&[]).await;
    assert_eq!(examined.checks("trouble"), ["workers", "deliveries"], "{examined:#?}");
    examined.trouble("deliveries", "the first since 10m", "role dispatch");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_somebody_has_drained() {
    let house = House::sound().await;
    let holder = house.db.holder().await;
    house.speaks_for(&holder).await;
    assert!(house.db.store.drain_host(&holder.host).await.unwrap());
    let examined = house.examined(&[]).await;
    assert_eq!((examined.checks("note"), examined.code), (vec!["hosts", "api"], 0), "{examined:#?}");
}
