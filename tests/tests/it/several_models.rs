//! An Ollama that holds several models: no loads between those that are loaded, and Foreman chooses what makes room.

use std::time::Duration;

use foreman_tests::{Api, Db, Worker, eventually};
use ollama_sim::{Config, Happening, Log, Sim};

use crate::chat;

const MODELS: [&str; 3] = ["tiny-a", "tiny-b", "tiny-c"];

/// How often Ollama has chosen what makes room.
fn chosen_by_ollama(log: &Log) -> usize {
    log.events.iter().filter(|event| event.what == Happening::Doomed).count()
}

/// What an Ollama that holds so many models has seen, when as many jobs of each model come in turn, and Foreman is told that
/// it holds `together`.
async fn seen<const N: usize>(models: [&str; N], holds: usize, together: &str) -> Log {
    let db = Db::fresh().await;
    let config = Config { max_loaded: holds, load_delay: Duration::from_millis(100), ..Config::default() };
    let sim = Sim::start(config.models(models)).await.unwrap();
    let api = Api::start(&db, &[]).await;
    let settings = [("FOREMAN_MODELS_TOGETHER", together), ("FOREMAN_WORKER_SLOTS", "2")];
    let _worker = Worker::start(&db, &sim.url(), &settings).await;
    for nth in 0..30 {
        for model in models {
            let mut job = chat(&format!("{nth} sim:tokens=10 sim:token-delay=10ms"));
            job["model"] = model.into();
            api.submit(&job).await;
        }
    }
    db.every_job_ends().await;
    eventually("the queue tells what is loaded", async || {
        let queue = api.get("/queue").await;
        let loaded = queue["hosts"][0]["loaded"].as_array().unwrap();
        let mut told: Vec<_> = loaded.iter().map(|loaded| loaded["model"].as_str().unwrap()).collect();
        told.sort_unstable();
        let mut resident = sim.resident();
        resident.sort_unstable();
        let is_right = told == resident && loaded.iter().all(|loaded| loaded["context"] == 2_048);
        if is_right { Ok(()) } else { Err(format!("{resident:?} {queue}")) }
    })
    .await;
    let log = sim.log();
    assert_eq!(log.runs().len(), 30 * N, "each job ran once");
    assert!(log.max_in_flight <= 2, "{} in flight", log.max_in_flight);
    log
}

#[tokio::test(flavor = "multi_thread")]
async fn models_that_fit_together_are_loaded_once_and_run_beside_each_other() {
    let log = seen(["tiny-a", "tiny-b"], 2, "2").await;
    assert_eq!((log.loads, log.evictions), (2, 0));
    let order = log.order();
    let changes = order.windows(2).filter(|pair| pair[0] != pair[1]).count();
    assert!(changes > 10, "one client sends both, and its models take turns: {changes} changes");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_room_is_unloaded_by_foreman_and_not_chosen_by_ollama() {
    let log = seen(MODELS, 2, "2").await;
    assert_eq!(chosen_by_ollama(&log), 0, "{:?}", log.happenings());
    assert!(log.loads >= 3 && log.evictions >= 1, "{:?}", log.happenings());
}

#[tokio::test(flavor = "multi_thread")]
async fn models_that_did_not_fit_are_not_loaded_together_again() {
    let log = seen(MODELS, 2, "3").await;
    // Each pair of the three is tried at most once.
    assert!(chosen_by_ollama(&log) <= 3, "{:?}", log.happenings());
}
