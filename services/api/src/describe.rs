//! Makes the description of the api in OpenAPI 3.1, which `/openapi.json` and `/docs` show. It comes from the annotations of the
//! handlers and of the types in their answers.

use std::collections::BTreeMap;

use utoipa::openapi::schema::ArrayItems;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{Content, OpenApi as Description, Ref, RefOr, Response, Schema, SecurityRequirement};
use utoipa::{Modify, OpenApi};

use crate::http::problem;
use crate::routes::{
    artifacts, batch, deliveries, events, hosts, job, jobs, models, queue, stream, usage, webhook_actions,
    webhooks,
};

pub(crate) mod docs;
mod page;
pub(crate) mod schema;

/// The ways to send a key, by their names in the description.
fn ways_to_send_a_key() -> [(&'static str, SecurityScheme); 3] {
    let http = |scheme| SecurityScheme::Http(Http::new(scheme));
    let x_api_key = SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::new("x-api-key")));
    [
        ("key", http(HttpAuthScheme::Bearer)),
        ("x_api_key", x_api_key),
        ("password", http(HttpAuthScheme::Basic)),
    ]
}

/// Stands for any content type.
const ANYTHING: &str = "*/*";

/// The fields that an answer may leave out, by type. All other fields are always there.
const OPTIONAL: [(&str, &[&str]); 4] = [
    ("Job", &["result"]),
    ("BatchLine", &["job_id", "error"]),
    ("Artifact", &["data", "url"]),
    ("Endpoint", &["secret", "health"]),
];

/// Types that only requests have.
const INCOMING: &[&str] =
    &["NewJob", "EndpointFields", "Rotation", "Example", "Recovery", "Warming", "NoFields"];

/// The problems of every route that needs a key.
const EVERYWHERE: [(&str, &str); 5] = [
    ("400", "`invalid_parameter`, `invalid_query`"),
    ("401", "`key_missing`, `key_wrong`, `key_ambiguous`"),
    (
        "403",
        "Where no key is needed: `foreign_host`, `foreign_origin`, `address_revoked`, `bound_client_missing`",
    ),
    ("500", "`internal`"),
    ("503", "`database_away`, `too_many_strangers`"),
];

/// The further problems of every route that reads a body.
const WITH_A_BODY: [(&str, &str); 5] = [
    ("400", "`body_incomplete`"),
    ("408", "`body_too_slow`"),
    ("413", "`body_too_large`"),
    ("429", "`too_much_under_way`"),
    ("503", "`busy`"),
];

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Foreman",
        description = "A durable queue in front of Ollama. Errors are RFC 9457 problems with a stable `code` and, in `error`, \
                       one sentence with the mend; 429 and 503 carry `Retry-After`. A query parameter that a route does not \
                       know, or that is there twice, is refused with `invalid_parameter`. A webhook's body is an `Event`.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    tags(
        (name = "jobs", description = "Submitting jobs and following them"),
        (name = "webhooks", description = "Webhooks that were sent to receivers, and endpoints that receive them for all jobs"),
        (name = "hosts", description = "The Ollama hosts and their models; for administrators, or, where no key is needed, for callers on the machine of the api itself"),
        (name = "about", description = "Routes without data, which need no key"),
    ),
    paths(
        jobs::submit, jobs::list, batch::submit, job::show, job::cancel, job::retry, events::show, stream::follow, artifacts::show,
        deliveries::list, deliveries::redeliver, webhooks::list, webhooks::create, webhooks::show, webhooks::change,
        webhooks::delete, webhook_actions::rotate, webhook_actions::test, webhook_actions::recover,
        webhook_actions::deliveries, queue::show, usage::show, hosts::list, hosts::drain, hosts::resume, models::warm, models::unload, docs::root, docs::openapi, docs::page,
    ),
    components(schemas(problem::Body)),
    modifiers(&Common),
)]
struct Api;

/// The description of all routes.
pub(crate) fn description() -> Description {
    Api::openapi()
}

/// Adds what is the same for all routes.
struct Common;

impl Modify for Common {
    fn modify(&self, api: &mut Description) {
        let components = api.components.get_or_insert_default();
        let keys = ways_to_send_a_key();
        let any_key: Vec<_> =
            keys.iter().map(|(name, _)| SecurityRequirement::new(*name, Vec::<String>::new())).collect();
        keys.into_iter().for_each(|(name, scheme)| components.add_security_scheme(name, scheme));
        let pages = components.schemas.iter_mut();
        let items: Vec<_> =
            pages.filter_map(|(name, page)| page_items(name.strip_prefix("Page_")?, page)).collect();
        components.schemas.extend(items);
        for (name, schema) in &mut components.schemas {
            require_all(name, schema);
        }
        for (path, item) in &mut api.paths.paths {
            let operations = [
                ("get", &mut item.get),
                ("post", &mut item.post),
                ("patch", &mut item.patch),
                ("delete", &mut item.delete),
            ];
            for (method, operation) in operations {
                let Some(operation) = operation else { continue };
                operation.operation_id = Some(operation_id(method, path));
                let is_open =
                    operation.tags.as_ref().is_some_and(|tags| tags.iter().any(|tag| tag == "about"));
                if !is_open {
                    operation.security = Some(any_key.clone());
                    add_problems(&mut operation.responses.responses, &EVERYWHERE);
                }
                if operation.request_body.is_some() {
                    add_problems(&mut operation.responses.responses, &WITH_A_BODY);
                }
                for (status, response) in &mut operation.responses.responses {
                    let RefOr::T(response) = response else { continue };
                    // Bytes of any content type have no schema.
                    if let Some(content) = response.content.get_mut(ANYTHING) {
                        *content = Content::new(None::<Ref>).into();
                    }
                    if status.as_str() >= "400" {
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

/// Takes the schema of its entries out of the schema of a page, leaves a reference in its place, and returns it with its name.
fn page_items(of: &str, page: &mut RefOr<Schema>) -> Option<(String, RefOr<Schema>)> {
    let RefOr::T(Schema::Object(page)) = page else { return None };
    let RefOr::T(Schema::Array(data)) = page.properties.get_mut("data")? else { return None };
    let ArrayItems::RefOrSchema(items) = &mut data.items else { return None };
    let reference = RefOr::Ref(Ref::from_schema_name(of));
    Some((of.to_owned(), std::mem::replace(items.as_mut(), reference)))
}

/// A unique name for an operation, such as `get_jobs_id_events`. Generators of clients need one.
fn operation_id(method: &str, path: &str) -> String {
    let words = path.split(|letter: char| !letter.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.fold(method.to_owned(), |id, word| format!("{id}_{word}"))
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

fn add_problems(responses: &mut BTreeMap<String, RefOr<Response>>, problems: &[(&str, &str)]) {
    for (status, codes) in problems {
        match responses.get_mut(*status) {
            Some(RefOr::T(response)) => response.description = format!("{}, {codes}", response.description),
            _ => _ = responses.insert((*status).to_owned(), Response::new(*codes).into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    #[test]
    fn pages_refer_to_the_types_of_their_entries() {
        let api = serde_json::to_value(super::description()).unwrap();
        for name in ["Job", "Event", "Delivery"] {
            let items = &api["components"]["schemas"][format!("Page_{name}")]["properties"]["data"]["items"];
            assert_eq!(items["$ref"], format!("#/components/schemas/{name}"));
        }
        let event = &api["components"]["schemas"]["Event"];
        assert_eq!(
            event["required"].as_array().unwrap().len(),
            event["properties"].as_object().unwrap().len()
        );
    }

    #[test]
    fn every_type_and_every_field_that_is_named_exists() {
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
        assert_eq!(open, ["/", "/docs", "/openapi.json"], "all other routes need a key");
    }
}
