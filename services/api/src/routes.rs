//! The table of routes. A handler parses its request, calls the store once, and replies.

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::handler::Handler;
use axum::http::Uri;
use axum::middleware::{Next, from_fn};
use axum::routing::MethodRouter;

use crate::app::{App, Shared};
use crate::config::Embeddings;
use crate::describe::docs;
use crate::direct;
use crate::http::observe::observe;
use crate::http::{framing, query};
use crate::surface;

pub(crate) mod artifacts;
pub(crate) mod batch;
mod caller;
pub(crate) mod deliveries;
pub(crate) mod events;
pub(crate) mod hosts;
pub(crate) mod job;
pub(crate) mod jobs;
pub(crate) mod models;
pub(crate) mod queue;
mod show;
pub(crate) mod stream;
pub(crate) mod usage;
pub(crate) mod webhook_actions;
pub(crate) mod webhooks;

/// Makes the routes, and a list of them for the test that compares them with the description. The brackets name the query
/// parameters of a route. A route without brackets ignores its query.
macro_rules! routes {
    ($($path:literal => $($method:ident($handler:path $([$($name:literal),*])?)).+,)+) => {
        #[cfg(test)]
        const ROUTES: &[(&str, &[(&str, &[&str])])] =
            &[$(($path, &[$((stringify!($method), &[$($($name),*)?])),+])),+];

        fn routes() -> Router<Shared> {
            Router::new()$(.route($path, MethodRouter::new()$(.$method(handler!($handler $([$($name),*])?)))+))+
        }
    };
}

macro_rules! handler {
    ($handler:path) => {
        $handler
    };
    ($handler:path [$($name:literal),*]) => {
        with_parameters($handler, &[$($name),*])
    };
}

/// A handler that knows these query parameters and no others.
fn with_parameters<T: 'static>(
    handler: impl Handler<T, Shared>,
    known: &'static [&'static str],
) -> impl Handler<T, Shared> {
    handler.layer(from_fn(move |request: Request, next: Next| query::only(known, request, next)))
}

routes! {
    "/" => get(docs::root),
    "/openapi.json" => get(docs::openapi),
    "/docs" => get(docs::page),
    "/jobs" => get(jobs::list ["state", "model", "limit", "after"]).post(jobs::submit []),
    "/jobs/batch" => post(batch::submit []),
    "/jobs/{id}" => get(job::show ["wait", "after_seq"]),
    "/jobs/{id}/cancel" => post(job::cancel []),
    "/jobs/{id}/retry" => post(job::retry []),
    "/jobs/{id}/events" => get(events::show []),
    "/jobs/{id}/stream" => get(stream::follow []),
    "/jobs/{id}/artifacts/{name}" => get(artifacts::show []),
    "/jobs/{id}/deliveries" => get(deliveries::list ["status", "since", "limit", "after"]),
    "/queue" => get(queue::show []),
    "/usage" => get(usage::show ["from", "to", "by", "limit"]),
    "/hosts" => get(hosts::list []),
    "/hosts/{id}/drain" => post(hosts::drain []),
    "/hosts/{id}/resume" => post(hosts::resume []),
    "/models/{model}/warm" => post(models::warm []),
    "/models/{model}/unload" => post(models::unload []),
    "/deliveries/{id}/redeliver" => post(deliveries::redeliver []),
    "/webhooks" => get(webhooks::list ["limit", "after"]).post(webhooks::create []),
    "/webhooks/{id}" => get(webhooks::show []).patch(webhooks::change []).delete(webhooks::delete []),
    "/webhooks/{id}/rotate" => post(webhook_actions::rotate []),
    "/webhooks/{id}/test" => post(webhook_actions::test []),
    "/webhooks/{id}/recover" => post(webhook_actions::recover []),
    "/webhooks/{id}/deliveries" => get(webhook_actions::deliveries ["status", "since", "limit", "after"]),
}

pub(crate) fn table(app: Arc<App>, embeddings: Embeddings) -> Router {
    routes()
        .merge(surface::table(embeddings))
        .merge(direct::table(embeddings))
        .fallback(async |uri: Uri| surface::no_such_route(&uri))
        .method_not_allowed_fallback(async |uri: Uri| surface::wrong_method(&uri))
        .layer(from_fn(framing::check))
        .layer(from_fn(observe))
        .layer(from_fn(surface::speak))
        .with_state(app)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::ROUTES;
    use crate::describe::description;

    #[test]
    fn every_route_is_described_and_nothing_else_is() {
        let api = serde_json::to_value(description()).unwrap();
        let described: BTreeSet<(&str, &str)> = api["paths"]
            .as_object()
            .unwrap()
            .iter()
            .flat_map(|(path, item)| {
                item.as_object().unwrap().keys().map(|method| (path.as_str(), method.as_str()))
            })
            .collect();
        let routed: BTreeSet<(&str, &str)> = ROUTES
            .iter()
            .flat_map(|(path, methods)| methods.iter().map(|(method, _)| (*path, *method)))
            .collect();
        assert_eq!(described, routed);
    }

    #[test]
    fn the_query_parameters_of_every_route_are_described_in_the_same_order() {
        let api = serde_json::to_value(description()).unwrap();
        for (path, methods) in ROUTES {
            for (method, names) in *methods {
                let parameters = api["paths"][path][method]["parameters"].as_array().into_iter().flatten();
                let of_query = parameters.filter(|parameter| parameter["in"] == "query");
                let described: Vec<_> =
                    of_query.map(|parameter| parameter["name"].as_str().unwrap()).collect();
                assert_eq!(described, *names, "{method} {path}");
            }
        }
    }

    #[test]
    fn no_two_operations_have_the_same_name() {
        let text = serde_json::to_string(&description()).unwrap();
        let names: Vec<&str> =
            text.split(r#""operationId":""#).skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
        let routed: usize = ROUTES.iter().map(|(_, methods)| methods.len()).sum();
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), routed, "{names:?}");
        assert!(names.contains(&"get_jobs_id_events"));
    }
}
