//! What `/openapi.json` and `/docs` say: OpenAPI 3.1, gathered from the handlers and the types that they answer with.

use std::collections::BTreeMap;

use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{Content, OpenApi as Description, Ref, RefOr, Response, Schema, SecurityRequirement};
use utoipa::{Modify, OpenApi};

use crate::problem;
use crate::routes::{artifacts, batch, deliveries, docs, events, job, jobs, queue};

pub(crate) mod page;
pub(crate) mod schema;

const KEY: &str = "key";

/// Types whose fields may be missing, and which; all else always stands in an answer.
const OPTIONAL: [(&str, &[&str]); 3] =
    [("Job", &["result"]), ("BatchLine", &["job_id", "error"]), ("Artifact", &["data", "url"])];

/// Types that come in and never go out.
const INCOMING: &[&str] = &["NewJob"];

/// Problems that every route behind a key has.
const EVERYWHERE: [(&str, &str); 4] = [
    ("401", "`key_missing`, `key_wrong`"),
    ("403", "With authentication off: `foreign_host`, `foreign_origin`, `address_revoked`"),
    ("500", "`internal`"),
    ("503", "`database_away`, `too_many_strangers`"),
];

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Foreman",
        description = "A durable queue in front of Ollama. Errors are RFC 9457 problems with a stable `code` and, in `error`, \
                       one sentence with the mend; 429 and 503 carry `Retry-After`. A webhook's body is an `Event`.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    tags(
        (name = "jobs", description = "Submitting jobs, and what becomes of them"),
        (name = "webhooks", description = "What was sent to receivers"),
        (name = "about", description = "No key needed, no data in them"),
    ),
    paths(
        jobs::submit, jobs::list, batch::submit, job::show, job::cancel, job::retry, events::show, artifacts::show,
        deliveries::list, deliveries::redeliver, queue::show, docs::root, docs::openapi, docs::page,
    ),
    components(schemas(problem::Body)),
    modifiers(&Common),
)]
struct Api;

/// The description of all routes.
pub(crate) fn description() -> Description {
    Api::openapi()
}

/// What holds for all routes alike.
struct Common;

impl Modify for Common {
    fn modify(&self, api: &mut Description) {
        let components = api.components.get_or_insert_default();
        let bearer = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        components.add_security_scheme(KEY, bearer);
        for (name, schema) in &mut components.schemas {
            require_all(name, schema);
        }
        for item in api.paths.paths.values_mut() {
            let operations = [&mut item.get, &mut item.post].into_iter().flatten();
            for operation in operations {
                let is_open =
                    operation.tags.as_ref().is_some_and(|tags| tags.iter().any(|tag| tag == "about"));
                if !is_open {
                    operation.security = Some(vec![SecurityRequirement::new(KEY, Vec::<String>::new())]);
                    add_common_problems(&mut operation.responses.responses);
                }
                for (status, response) in &mut operation.responses.responses {
                    if let RefOr::T(response) = response
                        && status.as_str() >= "400"
                    {
                        let problem = Ref::from_schema_name("Problem");
                        response
                            .content
                            .insert(problem::CONTENT_TYPE.to_owned(), Content::new(Some(problem)).into());
                    }
                }
            }
        }
    }
}

fn require_all(name: &str, schema: &mut RefOr<Schema>) {
    let RefOr::T(Schema::Object(object)) = schema else { return };
    if INCOMING.contains(&name) {
        return;
    }
    let optional = OPTIONAL.into_iter().find(|(of, _)| *of == name).map_or(&[][..], |(_, fields)| fields);
    object.required =
        object.properties.keys().filter(|field| !optional.contains(&field.as_str())).cloned().collect();
}

fn add_common_problems(responses: &mut BTreeMap<String, RefOr<Response>>) {
    for (status, codes) in EVERYWHERE {
        match responses.get_mut(status) {
            Some(RefOr::T(response)) => response.description = format!("{}, {codes}", response.description),
            _ => _ = responses.insert(status.to_owned(), Response::new(codes).into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use crate::routes::ROUTES;

    #[test]
    fn every_route_is_described_and_nothing_else_is() {
        let api = serde_json::to_value(super::description()).unwrap();
        let described: BTreeSet<(&str, &str)> = api["paths"]
            .as_object()
            .unwrap()
            .iter()
            .flat_map(|(path, item)| {
                item.as_object().unwrap().keys().map(|method| (path.as_str(), method.as_str()))
            })
            .collect();
        let routed: BTreeSet<(&str, &str)> =
            ROUTES.iter().flat_map(|(path, methods)| methods.iter().map(|method| (*path, *method))).collect();
        assert_eq!(described, routed);
    }

    #[test]
    fn every_type_and_every_field_that_is_named_is_there() {
        let api = serde_json::to_value(super::description()).unwrap();
        let types = api["components"]["schemas"].as_object().unwrap();
        for (name, fields) in super::OPTIONAL {
            for field in fields {
                assert!(types[name]["properties"].get(field).is_some(), "{name} {field}");
            }
        }
        let text = api.to_string();
        for reference in text.split("#/components/schemas/").skip(1) {
            let name = reference.split('"').next().unwrap();
            assert!(types.contains_key(name), "{name}");
        }
        assert!(
            types.contains_key("NewJob") && api["openapi"].as_str().is_some_and(|v| v.starts_with("3.1"))
        );
        let open: Vec<&str> = api["paths"]
            .as_object()
            .unwrap()
            .iter()
            .filter(|(_, item)| {
                item.as_object().unwrap().values().any(|of| of.get("security").is_none_or(Value::is_null))
            })
            .map(|(path, _)| path.as_str())
            .collect();
        assert_eq!(open, ["/", "/docs", "/openapi.json"], "all else needs a key");
    }
}
