//! What Ollama answers to requests for embeddings that need no model to run, in the bytes that were recorded of real ones.

use serde_json::json;

use crate::route::Route;

/// The answer to a request that brings nothing to embed, so that it only loads or unloads its model.
pub fn no_embeddings(route: Route, model: &str) -> String {
    match route {
        Route::Embeddings => json!({"embedding": []}).to_string(),
        _ => json!({"model": model, "embeddings": []}).to_string(),
    }
}

/// The status and the body with which Ollama refuses to embed with a model that does not.
pub fn cannot_embed(route: Route) -> (u16, String) {
    let text = "This server does not support embeddings. Start it with `--embeddings`";
    match route {
        // Only this route tells all failures as Ollama's own.
        Route::Embeddings => (500, json!({"error": text}).to_string()),
        route if route.is_native() => (501, json!({"error": text}).to_string()),
        _ => {
            let error = json!({"message": text, "type": "api_error", "param": null, "code": null});
            (501, format!("{}\n", json!({"error": error})))
        }
    }
}
