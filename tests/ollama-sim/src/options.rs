//! The options of a request: their types, and which of them make Ollama reload a model.

use std::fmt;

use crate::go_json::Json;
use crate::model::Model;
use crate::request::RunRequest;

/// The options that a runner was started with. A request with other ones reloads the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RunnerOptions {
    pub(crate) num_ctx: i64,
    /// Whether neither the request nor the model names a context.
    automatic: bool,
    num_batch: i64,
    num_gpu: i64,
    main_gpu: i64,
    num_thread: i64,
    draft_num_predict: i64,
    shift: bool,
}

/// Options that change the answer but never reload the model.
#[derive(Clone, Debug, Default)]
pub(crate) struct RunOptions {
    pub(crate) num_predict: Option<u32>,
    pub(crate) stop: Vec<String>,
}

/// The value for options that Ollama chooses itself.
const AUTOMATIC: i64 = -1;

const INTEGERS: [&str; 13] = [
    "num_ctx",
    "num_batch",
    "num_gpu",
    "main_gpu",
    "num_thread",
    "draft_num_predict",
    "num_predict",
    "num_keep",
    "seed",
    "top_k",
    "repeat_last_n",
    "mirostat",
    "typical",
];
const FLOATS: [&str; 8] = [
    "temperature",
    "top_p",
    "min_p",
    "typical_p",
    "repeat_penalty",
    "presence_penalty",
    "frequency_penalty",
    "mirostat_tau",
];
const BOOLEANS: [&str; 4] = ["use_mmap", "use_mlock", "numa", "penalize_newline"];

impl RunnerOptions {
    /// The options of a request on top of the model's own, or Ollama's error about a wrong type. `context_length` is the context
    /// where neither names one.
    pub(crate) fn read(
        request: &RunRequest,
        model: &Model,
        context_length: i64,
    ) -> Result<(Self, RunOptions), String> {
        check_types(request)?;
        let given = |name: &str| {
            let of_request = match request.option(name) {
                Some(Json::Number(number)) => Some(truncated(number)),
                _ => None,
            };
            of_request.or_else(|| model.parameters.get(name).copied())
        };
        let runner = Self {
            // A context longer than the model supports is cut, so it causes no reload either.
            num_ctx: given("num_ctx").unwrap_or(context_length).clamp(4, model.context_length),
            automatic: given("num_ctx").is_none(),
            num_batch: given("num_batch").unwrap_or(512),
            num_gpu: given("num_gpu").unwrap_or(AUTOMATIC).max(AUTOMATIC),
            main_gpu: given("main_gpu").unwrap_or(0),
            num_thread: given("num_thread").unwrap_or(0),
            draft_num_predict: given("draft_num_predict").unwrap_or(0),
            shift: request.shift.unwrap_or(true),
        };
        let stop = match request.option("stop") {
            Some(Json::Array(words)) => {
                words.iter().filter_map(|word| word.as_str().map(str::to_owned)).collect()
            }
            _ => Vec::new(),
        };
        // Zero and less mean "until it stops by itself".
        let num_predict =
            given("num_predict").and_then(|number| u32::try_from(number).ok()).filter(|number| *number > 0);
        Ok((runner, RunOptions { num_predict, stop }))
    }

    /// Whether a runner with these options can serve a request with the `wanted` ones.
    pub(crate) fn serve(&self, wanted: &Self) -> bool {
        // A request that leaves `num_gpu` out again causes no reload.
        let num_gpu = if wanted.num_gpu == AUTOMATIC { self.num_gpu } else { wanted.num_gpu };
        // A runner with the automatic context serves a request that names the same length. But a request that names none is not
        // served by a runner whose context was named, even if the length is the same.
        let automatic = self.automatic || wanted.automatic;
        *self == Self { num_gpu, automatic, ..*wanted }
    }
}

impl fmt::Display for RunnerOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "num_ctx={} num_batch={} num_gpu={} main_gpu={} num_thread={} draft_num_predict={} shift={}",
            self.num_ctx,
            self.num_batch,
            self.num_gpu,
            self.main_gpu,
            self.num_thread,
            self.draft_num_predict,
            self.shift
        )
    }
}

fn check_types(request: &RunRequest) -> Result<(), String> {
    for (name, value) in &request.options {
        let wanted = match (name.as_str(), value) {
            (_, Json::Null) => continue,
            (known, Json::Number(_)) if INTEGERS.contains(&known) || FLOATS.contains(&known) => continue,
            (known, Json::Bool(_)) if BOOLEANS.contains(&known) => continue,
            ("stop", Json::Array(words)) if words.iter().all(|word| word.as_str().is_some()) => continue,
            ("stop", Json::Array(_)) => "an array of strings",
            ("stop", _) => "type array",
            (known, _) if INTEGERS.contains(&known) => "type integer",
            (known, _) if FLOATS.contains(&known) => "type float32",
            (known, _) if BOOLEANS.contains(&known) => "type boolean",
            // Ollama warns about an unknown option, and goes on.
            _ => continue,
        };
        return Err(format!("option \"{name}\" must be of {wanted}"));
    }
    Ok(())
}

/// A number as Go turns it into an integer.
fn truncated(number: &str) -> i64 {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a number out of range is cut, which is what is wanted"
    )]
    number.parse().unwrap_or_else(|_| number.parse::<f64>().map_or(0, |number| number as i64))
}
