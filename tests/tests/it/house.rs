//! What most tests of sync calls need: an Ollama, a worker before it, and an api.

use foreman_tests::{Api, Db, Worker, eventually, http};
use ollama_sim::{Config, Sim};
use serde_json::Value;

/// An api and a worker before one Ollama.
pub(crate) struct House {
    pub(crate) db: Db,
    pub(crate) sim: Sim,
    pub(crate) api: Api,
    _worker: Worker,
}

impl House {
    pub(crate) async fn start(api: &[(&str, &str)], worker: &[(&str, &str)]) -> Self {
        Self::before(Config::default(), api, worker).await
    }

    pub(crate) async fn before(ollama: Config, api: &[(&str, &str)], worker: &[(&str, &str)]) -> Self {
        let db = Db::fresh().await;
        let sim = Sim::start(ollama).await.unwrap();
        let ollama = sim.url();
        let (api, worker) = tokio::join!(Api::start(&db, api), Worker::start(&db, &ollama, worker));
        Self { db, sim, api, _worker: worker }
    }

    pub(crate) async fn call(&self, path: &str, body: &Value) -> reqwest::Response {
        call(&self.api.url, path, body).await
    }

    pub(crate) async fn jobs_in(&self, state: &str) -> usize {
        let jobs = self.api.get(&format!("/jobs?limit=100&state={state}")).await;
        jobs["data"].as_array().unwrap().len()
    }

    pub(crate) async fn until_jobs(&self, state: &str, count: usize) {
        eventually(&format!("{count} jobs that are {state}"), async || match self.jobs_in(state).await {
            there if there == count => Ok(()),
            there => Err(format!("{there} are")),
        })
        .await;
    }
}

pub(crate) async fn call(url: &str, path: &str, body: &Value) -> reqwest::Response {
    http().post(format!("{url}{path}")).body(body.to_string()).send().await.unwrap()
}
