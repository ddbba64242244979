//! The jobs: all alike, and about as large as a short chat.

use foreman_ollama::{LoadKey, ModelName};
use foreman_store::{JobRequest, NewJob};
use foreman_tests::Db;

/// As `/api/tags` names it.
pub(crate) const MODEL: &str = "tiny-a:latest";

/// The length of a prompt that makes a request of 700 bytes.
const PROMPT: usize = 614;

/// How many jobs go to Postgres together.
const BATCH: usize = 500;

/// The body of `POST /jobs`, about 700 bytes.
pub(crate) fn request_body() -> String {
    let words = "What does a foreman do all day, and who would miss it? ";
    let prompt: String = words.chars().cycle().take(PROMPT).collect();
    format!(
        r#"{{"model":"tiny-a","messages":[{{"role":"user","content":"{prompt}"}}],"options":{{"temperature":0}}}}"#
    )
}

/// The body that Ollama gets for this request.
pub(crate) fn ollama_body() -> String {
    request_body().replacen(r#""options""#, r#""stream":true,"options""#, 1)
}

/// Accepts `count` jobs without the api. `finish` gets the number and the request of each job, and may change the
/// request.
pub(crate) async fn accept(db: &Db, count: usize, finish: impl Fn(usize, JobRequest) -> JobRequest) {
    let model = ModelName::parse(MODEL).expect("the model has a name");
    let load_key = LoadKey::of_model(model).as_str().to_owned();
    let body = ollama_body();
    let job = |number| {
        let request = JobRequest {
            model_label: MODEL.to_owned(),
            load_key: load_key.clone(),
            body: body.clone(),
            ..db.request()
        };
        db.job(finish(number, request))
    };
    let jobs: Vec<NewJob> = (0..count).map(job).collect();
    for batch in jobs.chunks(BATCH) {
        db.accept_all(batch).await;
    }
}
