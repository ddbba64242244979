//! The timing that was observed in a real Ollama, replayed in virtual time.

use std::pin::Pin;

use bytes::Bytes;
use futures_util::FutureExt as _;

use super::*;
use crate::config::Config;
use crate::faults::{Fault, Moment, Trouble};
use crate::model::Model;
use crate::options::RunnerOptions;
use crate::request::{RunRequest, Shape};

const MINUTE: Duration = Duration::from_secs(60);

type Waiting = Pin<Box<dyn Future<Output = Result<Lease, NoRunner>> + Send>>;

struct House {
    residency: Arc<Residency>,
    journal: Arc<Journal>,
    faults: Arc<Faults>,
    config: Arc<Config>,
    _stop: tokio_util::sync::DropGuard,
}

impl House {
    fn new(config: Config) -> Self {
        let config = Arc::new(Config { load_delay: Duration::from_secs(2), ..config });
        let journal = Arc::new(Journal::new(100));
        let faults = Arc::new(Faults::default());
        let stop = CancellationToken::new();
        let residency =
            Residency::start(Arc::clone(&config), Arc::clone(&journal), Arc::clone(&faults), stop.clone());
        Self { residency, journal, faults, config, _stop: stop.drop_guard() }
    }

    /// Sends a request for a model, with these further members in its body, and waits until nothing moves any more.
    async fn ask(&self, model: &str, body: &str) -> Waiting {
        let request = RunRequest::decode(Shape::Chat, format!("{{{body}}}").as_bytes()).unwrap();
        let model = self.config.models.iter().find(|known| known.name == format!("{model}:latest")).unwrap();
        let (options, _) = RunnerOptions::read(&request, model, self.config.context_length).unwrap();
        let want = Want {
            options,
            keep_alive: request.keep_alive,
            written: model.name.clone(),
            body: Bytes::from(body.to_owned()),
            ordered_fault: None,
            model: Arc::new(model.clone()),
        };
        let residency = Arc::clone(&self.residency);
        let mut waiting: Waiting = Box::pin(async move { residency.acquire(want).await });
        // Polls the request once to start it, and then everything that it set in motion.
        if let Some(done) = (&mut waiting).now_or_never() {
            waiting = Box::pin(std::future::ready(done));
        }
        quiet().await;
        waiting
    }

    async fn get(&self, model: &str, body: &str) -> Lease {
        self.ask(model, body).await.await.unwrap()
    }

    fn resident(&self) -> Vec<String> {
        self.residency.list().iter().map(|one| one.model.name.replace(":latest", "")).collect()
    }

    fn count(&self, what: Happening) -> usize {
        self.journal.read(|log| log.events.iter().filter(|event| event.what == what).count())
    }
}

/// Lets every task run that can, in almost no time.
async fn quiet() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

/// Whether an answer arrives within this time.
async fn within(waiting: &mut Waiting, time: Duration) -> bool {
    match tokio::time::timeout(time, waiting.as_mut()).await {
        Ok(answer) => {
            *waiting = Box::pin(std::future::ready(answer));
            true
        }
        Err(_) => false,
    }
}

#[tokio::test(start_paused = true)]
async fn a_load_takes_its_time_once_and_nothing_is_listed_meanwhile() {
    let house = House::new(Config::default());
    let began = Instant::now();
    let mut first = house.ask("tiny-a", "").await;
    let second = house.ask("tiny-a", "").await;
    assert!(house.resident().is_empty() && !within(&mut first, Duration::from_secs(1)).await);
    let (_first, _second) = (first.await.unwrap(), second.await.unwrap());
    assert!(began.elapsed() >= Duration::from_secs(2) && began.elapsed() < Duration::from_secs(3));
    assert_eq!((house.resident(), house.count(Happening::Loaded)), (vec!["tiny-a".to_owned()], 1));
    let began = Instant::now();
    house.get("tiny-a", "").await;
    assert!(began.elapsed() < Duration::from_millis(10), "a resident model answers at once");
}

#[tokio::test(start_paused = true)]
async fn newcomers_for_the_resident_model_go_first_for_ever() {
    let house = House::new(Config::default());
    let mut newest = house.get("tiny-a", "").await;
    let mut waiting = house.ask("tiny-b", "").await;
    assert_eq!(house.count(Happening::Doomed), 1);
    for _ in 0..1_000 {
        // The next request is always under way before the last one ends.
        let next = house.get("tiny-a", "").await;
        drop(std::mem::replace(&mut newest, next));
        assert!(!within(&mut waiting, Duration::from_secs(1)).await);
    }
    drop(newest);
    assert!(
        within(&mut waiting, Duration::from_secs(3)).await,
        "it gets its turn when nobody comes any more"
    );
    assert_eq!((house.count(Happening::Loaded), house.count(Happening::Evicted)), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_keep_alive_for_the_resident_model_hangs_whoever_waits_for_its_place() {
    let house = House::new(Config::default());
    let running = house.get("tiny-a", "").await;
    let mut waiting = house.ask("tiny-b", "").await;
    drop(house.get("tiny-a", r#""keep_alive":"30m""#).await);
    let mut later = house.ask("tiny-tools", "").await;
    drop(running);
    assert!(!within(&mut waiting, 29 * MINUTE).await, "nothing is in its way, and still it hangs");
    assert!(!within(&mut later, MINUTE / 2).await, "and later requests for other models with it");
    assert_eq!(house.resident(), ["tiny-a"]);
    drop(house.get("tiny-a", "").await);
    assert!(!within(&mut waiting, 29 * MINUTE).await, "every use of the resident model prolongs it");
}

#[tokio::test(start_paused = true)]
async fn without_a_keep_alive_the_waiting_one_gets_its_turn() {
    let house = House::new(Config::default());
    let running = house.get("tiny-a", r#""keep_alive":"30m""#).await;
    let mut waiting = house.ask("tiny-b", "").await;
    drop(house.get("tiny-a", "").await);
    drop(running);
    assert!(within(&mut waiting, Duration::from_secs(3)).await);
}

#[tokio::test(start_paused = true)]
async fn who_hangs_up_while_waiting_still_throws_the_resident_out() {
    let house = House::new(Config::default());
    let running = house.get("tiny-a", "").await;
    drop(house.ask("tiny-b", "").await);
    drop(running);
    quiet().await;
    assert!(house.resident().is_empty());
    assert_eq!(
        (house.count(Happening::Evicted), house.count(Happening::LoadStarted)),
        (1, 1),
        "and loads nothing"
    );
    house.get("tiny-a", "").await;
    assert_eq!(house.count(Happening::Loaded), 2, "the next one for it loads it anew");
}

#[tokio::test(start_paused = true)]
async fn hanging_up_during_a_load_aborts_it() {
    let house = House::new(Config::default());
    let loading = house.ask("tiny-a", "").await;
    let mut other = house.ask("tiny-a", "").await;
    drop(loading);
    quiet().await;
    assert_eq!((house.resident().len(), house.count(Happening::LoadAborted)), (0, 1));
    assert!(!within(&mut other, Duration::from_secs(1)).await, "the next one loads from the start");
    assert!(within(&mut other, Duration::from_secs(2)).await);
}

#[tokio::test(start_paused = true)]
async fn a_model_stays_for_its_keep_alive_and_the_last_one_given_sticks() {
    let house = House::new(Config::default());
    drop(house.get("tiny-a", "").await);
    tokio::time::sleep(5 * MINUTE - Duration::from_secs(1)).await;
    assert_eq!(house.resident(), ["tiny-a"], "the default is five minutes from the end of the last request");
    drop(house.get("tiny-a", r#""keep_alive":"10m""#).await);
    drop(house.get("tiny-a", "").await);
    tokio::time::sleep(9 * MINUTE).await;
    assert_eq!(house.resident(), ["tiny-a"]);
    tokio::time::sleep(MINUTE + Duration::from_secs(1)).await;
    assert!(house.resident().is_empty());

    drop(house.get("tiny-a", r#""keep_alive":-1"#).await);
    tokio::time::sleep(100_000 * MINUTE).await;
    assert_eq!(house.resident(), ["tiny-a"]);
    drop(house.get("tiny-a", r#""keep_alive":"2s""#).await);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(house.resident().is_empty(), "a shorter one is heeded at once");

    let zero = house.get("tiny-a", r#""keep_alive":0"#).await;
    let other = house.get("tiny-a", "").await;
    drop(zero);
    assert_eq!(house.resident(), ["tiny-a"], "somebody still uses it");
    drop(other);
    assert!(house.resident().is_empty(), "zero sticks too");
}

#[tokio::test(start_paused = true)]
async fn an_unload_waits_for_the_last_request_but_is_answered_at_once() {
    let house = House::new(Config::default());
    let model = house.config.models[0].clone();
    let running = house.get("tiny-a", "").await;
    house.residency.expire(&model).await;
    assert_eq!(house.resident(), ["tiny-a"]);
    drop(running);
    assert!(house.resident().is_empty());
    house.residency.expire(&model).await;
}

#[tokio::test(start_paused = true)]
async fn of_two_residents_the_one_that_nobody_wants_may_stay() {
    let house =
        House::new(Config { max_loaded: 2, ..Config::default().models(["unwanted", "one", "other"]) });
    let names = |which: usize| house.config.models[which].name.replace(":latest", "");
    // The victim is the first by its weights. The model that nobody needs is any other one.
    let mut by_weights = [0, 1, 2];
    by_weights.sort_by_key(|which| &house.config.models[*which].weights);
    let (one, other, unwanted) = (names(by_weights[0]), names(by_weights[1]), names(by_weights[2]));
    house.get(&unwanted, "").await;
    for _ in 0..3 {
        house.get(&one, "").await;
        house.get(&other, "").await;
        assert!(house.resident().contains(&unwanted));
    }
    assert_eq!(house.count(Happening::Loaded), 7, "the two wanted ones threw each other out");
}

#[tokio::test(start_paused = true)]
async fn two_names_on_the_same_weights_share_one_runner() {
    let first = Model::new("first");
    let second = Model::new("second").on_the_weights_of(&first);
    let house = House::new(Config { models: vec![first, second], ..Config::default() });
    house.get("first", "").await;
    house.get("second", "").await;
    assert_eq!((house.resident(), house.count(Happening::Loaded)), (vec!["first".to_owned()], 1));
}

#[tokio::test(start_paused = true)]
async fn some_options_reload_and_others_do_not() {
    let house = House::new(Config::default());
    house.get("tiny-a", "").await;
    let mut loads = 1;
    for (options, reloads) in [
        (r#""options":{"num_ctx":1024}"#, true),
        (
            r#""options":{"num_ctx":1024,"seed":1,"temperature":0,"top_k":3,"num_keep":5,"use_mlock":true,"numa":true}"#,
            false,
        ),
        (r#""options":{"num_ctx":1024,"use_mmap":false},"shift":true"#, false),
        (r#""options":{"num_ctx":1024},"shift":false"#, true),
        (r#""options":{"num_batch":64}"#, true),
        (r#""options":{"num_thread":3}"#, true),
        (r#""options":{"main_gpu":1}"#, true),
        (r#""options":{"draft_num_predict":2}"#, true),
        ("", true),
        (r#""options":{"num_gpu":1}"#, true),
        ("", false),
        (r#""options":{"num_ctx":2048}"#, false),
        (r#""options":{"num_ctx":1000000}"#, false),
    ] {
        house.get("tiny-a", options).await;
        loads += usize::from(reloads);
        assert_eq!(house.count(Happening::Loaded), loads, "{options}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_refuses_but_lets_the_resident_model_pass() {
    let house = House::new(Config { max_queue: 2, ..Config::default() });
    let _running = house.get("tiny-a", "").await;
    let mut waiting = Vec::new();
    for _ in 0..3 {
        waiting.push(house.ask("tiny-b", "").await);
    }
    let refused = house.ask("tiny-b", "").await.await.unwrap_err();
    assert_eq!(refused, NoRunner::Busy, "one is being served and two wait");
    house.get("tiny-a", "").await;
}

#[tokio::test(start_paused = true)]
async fn a_runner_killed_while_idle_is_listed_until_it_is_needed() {
    let house = House::new(Config::default());
    house.get("tiny-a", "").await;
    assert!(house.residency.kill("tiny-a:latest") && !house.residency.kill("tiny-a:latest"));
    assert_eq!(house.resident(), ["tiny-a"]);
    house.get("tiny-a", "").await;
    assert_eq!(house.count(Happening::Loaded), 2);
}

#[tokio::test(start_paused = true)]
async fn a_load_can_fail_and_the_next_one_succeed() {
    let house = House::new(Config::default());
    house.faults.add(Fault::out_of_memory().once());
    house.faults.add(Fault::new(Trouble::RunnerKilled, Moment::Load).once());
    let text = |failure: NoRunner| failure.answer().unwrap().1;
    let mut first = house.ask("tiny-a", "").await;
    let second = house.ask("tiny-a", "").await;
    assert!(within(&mut first, Duration::from_secs(2)).await);
    assert!(text(first.await.unwrap_err()).contains("requires more system memory"));
    assert_eq!(text(second.await.unwrap_err()), "llama-server process has terminated: signal: killed");
    house.get("tiny-a", "").await;
    assert_eq!((house.count(Happening::LoadFailed), house.count(Happening::Loaded)), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_runner_killed_during_its_load_fails_it() {
    let house = House::new(Config::default());
    let loading = house.ask("tiny-a", "").await;
    assert!(house.residency.kill("tiny-a:latest"));
    assert!(matches!(loading.await.unwrap_err(), NoRunner::Failed { status: 500, .. }));
}
