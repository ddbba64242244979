//! The routes of an Ollama: which request goes where, and the listings.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::{Method, Request, Response};

use crate::control::Control;
use crate::embed::Route;
use crate::gate;
use crate::go_json::{self, Json};
use crate::http::{self, Body, ResponseOrCut, read};
use crate::model::{self, Model};
use crate::ollama::Ollama;
use crate::replies;
use crate::surface::Surface;
use crate::v1::models;

pub(crate) async fn serve(
    ollama: &Arc<Ollama>,
    control: &Control,
    request: Request<Incoming>,
) -> ResponseOrCut {
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    if path.starts_with("/sim/") {
        return control.serve(ollama, &head, body).await;
    }
    ollama.journal.count(path);
    let allowed = match path {
        "/" | "/api/version" | "/api/tags" => "GET, HEAD",
        "/api/ps" | "/v1/models" => "GET",
        _ if v1_model(path).is_some() => "GET",
        "/api/show" => "POST",
        _ if Surface::at(path).is_some() || Route::at(path).is_some() => "POST",
        _ => "",
    };
    let refused = gate::check_host(ollama.config.addr.ip(), &head.headers)
        .or_else(|| gate::check_origin(&head.method, &head.headers, allowed));
    if let Some(answer) = refused {
        return Ok(answer);
    }
    let mut answer = match (head.method, path) {
        (Method::GET | Method::HEAD, "/") => http::running(),
        (Method::GET | Method::HEAD, "/api/version") => {
            http::json(format!("{{\"version\":{}}}", go_json::string(&ollama.config.version)))
        }
        (Method::GET | Method::HEAD, "/api/tags") => http::json(model::tags(&ollama.config.models)),
        (Method::GET, "/api/ps") => http::json(ollama.ps()),
        (Method::POST, "/api/show") => ollama.show(&read(body).await?),
        (Method::GET, "/v1/models") => models::list(&ollama.config.models),
        (method, path) => match (Surface::at(path), Route::at(path), v1_model(path)) {
            (Some(surface), ..) if method == Method::POST => ollama.run(surface, read(body).await?).await?,
            (_, Some(route), _) if method == Method::POST => ollama.embed(route, read(body).await?).await?,
            (.., Some(name)) if method == Method::GET => models::one(&name, ollama.named(&name)),
            _ if allowed.is_empty() => http::not_found(),
            _ => http::wrong_method(allowed),
        },
    };
    gate::admit(&head.headers, &mut answer);
    Ok(answer)
}

impl Ollama {
    fn ps(&self) -> String {
        let entries: Vec<_> = self
            .residency
            .list()
            .iter()
            .map(|one| model::running(&one.model, &replies::time_from_now(one.expires_in), one.num_ctx))
            .collect();
        format!("{{\"models\":[{}]}}", entries.join(","))
    }

    fn show(&self, body: &[u8]) -> Response<Body> {
        let name = match go_json::decode(body) {
            Ok(None) => return http::error(400, "missing request body"),
            Err(error) => return http::error(400, &error),
            Ok(Some(value)) => {
                let name = ["model", "name"].iter().find_map(|key| value.get(key).and_then(Json::as_str));
                name.unwrap_or_default().to_owned()
            }
        };
        match self.named(&name) {
            Ok(model) => http::json(model::show(model)),
            Err((status, text)) => http::error(status, &text),
        }
    }

    /// The model of this name, or the refusal of the name.
    fn named(&self, name: &str) -> Result<&Model, (u16, String)> {
        match (self.find(name), model::canonical(name)) {
            (Some(model), _) => Ok(model),
            (None, Some(name)) => Err((404, format!("model '{name}' not found"))),
            (None, None) if name.is_empty() => Err((400, "model is required".to_owned())),
            (None, None) => Err((400, "invalid model name".to_owned())),
        }
    }
}

/// The name in a path of `/v1/models/{name}`, in which clients escape the colon.
fn v1_model(path: &str) -> Option<String> {
    let name = path.strip_prefix("/v1/models/").filter(|name| !name.is_empty() && !name.contains('/'))?;
    Some(name.replace("%3A", ":").replace("%3a", ":"))
}
