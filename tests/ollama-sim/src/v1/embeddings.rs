//! `/v1/embeddings`: OpenAI's embeddings on top of `/api/embed`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::Fields;
use crate::go_json::Json;
use crate::vectors::{EmbedRequest, Vectors};

pub(crate) fn read(body: &[u8]) -> Result<EmbedRequest, String> {
    let fields = Fields::decode("openai.EmbedRequest", body)?;
    let encoding = fields.text("encoding_format")?.to_lowercase();
    if !matches!(encoding.as_str(), "" | "float" | "base64") {
        return Err(format!(
            "Invalid value for 'encoding_format' = {encoding}. Supported values: ['float', 'base64']."
        ));
    }
    let input = match fields.get("input") {
        None => return Err("invalid input".to_owned()),
        Some(Json::Array(texts)) if texts.is_empty() => return Err("invalid input".to_owned()),
        Some(Json::String(text)) => Some(Json::Array(vec![Json::String(text.clone())])),
        Some(other) => Some(other.clone()),
    };
    Ok(EmbedRequest {
        model: fields.text("model")?,
        input,
        dimensions: fields.integer("dimensions")?,
        base64: encoding == "base64",
        ..EmbedRequest::default()
    })
}

pub(crate) fn answer(asked: &EmbedRequest, vectors: &Vectors) -> Value {
    let data: Vec<_> = vectors
        .all
        .iter()
        .enumerate()
        .map(|(index, vector)| {
            let embedding = if asked.base64 { base64(vector) } else { Vectors::numbers(vector) };
            json!({"object": "embedding", "embedding": embedding, "index": index})
        })
        .collect();
    json!({
        "object": "list",
        "data": data,
        "model": asked.model,
        "usage": {"prompt_tokens": vectors.tokens, "total_tokens": vectors.tokens},
    })
}

fn base64(vector: &[f32]) -> Value {
    let bytes: Vec<u8> = vector.iter().flat_map(|number| number.to_le_bytes()).collect();
    STANDARD.encode(bytes).into()
}
