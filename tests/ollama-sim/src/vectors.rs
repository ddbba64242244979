//! Requests for embeddings, and the vectors that answer them.

use serde_json::Value;

use crate::go_json::Json;
use crate::keep_alive::KeepAlive;
use crate::model::Model;

/// A request for embeddings, as all three routes translate it.
#[derive(Clone, Debug, Default)]
pub(crate) struct EmbedRequest {
    pub(crate) model: String,
    pub(crate) input: Option<Json>,
    pub(crate) keep_alive: Option<KeepAlive>,
    pub(crate) options: Vec<(String, Json)>,
    pub(crate) truncate: Option<bool>,
    pub(crate) dimensions: Option<i64>,
    /// Whether the numbers are wanted as base64.
    pub(crate) base64: bool,
}

/// The vectors of an answer.
#[derive(Clone, Debug)]
pub(crate) struct Vectors {
    pub(crate) all: Vec<Vec<f32>>,
    /// The tokens of all texts.
    pub(crate) tokens: u64,
}

impl Vectors {
    /// Vectors of length 1, which depend on the model's weights and on the text alone.
    pub(crate) fn of(asked: &EmbedRequest, texts: &[String], model: &Model, num_ctx: i64) -> Self {
        let most = u64::try_from(num_ctx).unwrap_or_default();
        Self {
            all: texts.iter().map(|text| vector(text, model, asked.dimensions)).collect(),
            tokens: texts.iter().map(|text| tokens(text).min(most)).sum(),
        }
    }

    /// Numbers as Go writes those of 32 bits: with as few digits as tell them apart.
    pub(crate) fn numbers(vector: &[f32]) -> Value {
        vector.iter().filter_map(|number| number.to_string().parse::<f64>().ok()).map(Value::from).collect()
    }
}

fn vector(text: &str, model: &Model, dimensions: Option<i64>) -> Vec<f32> {
    let mut state =
        model.weights.bytes().chain(text.bytes()).fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    let full = usize::try_from(model.embedding_length).unwrap_or_default();
    let wanted = dimensions.and_then(|number| usize::try_from(number).ok()).filter(|number| *number > 0);
    let numbers: Vec<f64> = (0..full)
        .map(|_| {
            state = (state ^ (state >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9).wrapping_add(1);
            // Never so small that Go would write an exponent.
            let size = f64::from(u32::try_from(state >> 40).unwrap_or_default() + 1_000) / 16_778_216.0;
            if state & 1 == 0 { size } else { -size }
        })
        .take(wanted.unwrap_or(full))
        .collect();
    let length = numbers.iter().map(|number| number * number).sum::<f64>().sqrt();
    #[expect(clippy::cast_possible_truncation, reason = "Ollama's vectors have 32 bits per number")]
    numbers.into_iter().map(|number| (number / length) as f32).collect()
}

/// One per character, and two around them, as in the recorded models.
pub(crate) fn tokens(text: &str) -> u64 {
    text.chars().count() as u64 + 2
}
