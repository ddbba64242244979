//! How endpoints are printed.

use chrono::Utc;

use crate::api::{Api, Endpoint, ExampleAnswer, Reply};
use crate::moment::from_now;
use crate::table;
use crate::terminal::{is_watched, one_line, print, say};

pub(super) fn endpoint(reply: &Reply<Endpoint>, json: bool) -> anyhow::Result<()> {
    if json {
        print(reply.json.trim_end())?;
        return Ok(());
    }
    let (endpoint, now) = (&reply.value, Utc::now());
    let mut lines = vec![("endpoint", endpoint.endpoint_id.clone()), ("url", endpoint.url.clone())];
    if !endpoint.description.is_empty() {
        lines.push(("about", endpoint.description.clone()));
    }
    lines.push(("events", some_of(endpoint.events.as_deref())));
    lines.push(("models", some_of(endpoint.models.as_deref())));
    if !endpoint.header_names.is_empty() {
        lines.push(("headers", endpoint.header_names.join(", ")));
    }
    if let Some(rate) = endpoint.rate_limit {
        lines.push(("limit", format!("{rate} a second")));
    }
    if let Some(why) = in_words(endpoint) {
        lines.push(("disabled", why.to_owned()));
    }
    if let Some(health) = &endpoint.health {
        let error = health.last_error.as_ref().map(|code| format!(", last {}", code.replace('_', " ")));
        let held = health.held_until.map(|at| format!(", tried again {}", from_now(at, now)));
        let state = health.state.replace('_', " ");
        lines.push(("health", [Some(state), error, held].into_iter().flatten().collect()));
        let due = health.oldest_due_at.map(|at| format!(", the oldest due {}", from_now(at, now)));
        lines.push(("waiting", format!("{}{}", health.pending, due.unwrap_or_default())));
    }
    lines.push(("made", from_now(endpoint.created_at, now)));
    match &endpoint.secret {
        Some(secret) => lines.push(("secret", secret.clone())),
        None => lines.push(("secret", format!("ends with {}", endpoint.secret_hint))),
    }
    if let Some(until) = endpoint.previous_secret_until {
        lines.push(("old secret", format!("signs too, and ends {}", from_now(until, now))));
    }
    for (name, value) in lines {
        print(format_args!("{name:10}  {}", one_line(&value)))?;
    }
    if endpoint.secret.is_some() {
        say("Shown this once: the secret verifies the webhooks of this endpoint.");
    }
    Ok(())
}

pub(super) async fn list(api: &Api, json: bool) -> anyhow::Result<()> {
    let mut table = table::with_header(["ENDPOINT", "EVENTS", "MODELS", "STATE", "URL"]);
    let (mut after, mut is_empty) = (None, true);
    loop {
        let page = api.endpoints(after.as_deref()).await?;
        for entry in &page.entries {
            is_empty = false;
            if json {
                print(entry.get())?;
                continue;
            }
            let endpoint: Endpoint =
                serde_json::from_str(entry.get()).map_err(|error| api.strange(&error))?;
            let state = in_words(&endpoint).map_or("enabled", |_| "disabled").to_owned();
            let (events, models) = (some_of(endpoint.events.as_deref()), some_of(endpoint.models.as_deref()));
            table::add_row(&mut table, [endpoint.endpoint_id, events, models, state, endpoint.url]);
        }
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    if is_empty && !json {
        if is_watched() {
            say("No endpoint is registered; `foreman webhook create URL` makes one.");
        }
    } else if !json {
        table::show(table)?;
    }
    Ok(())
}

pub(super) fn example(reply: &Reply<ExampleAnswer>, json: bool) -> anyhow::Result<()> {
    if json {
        print(reply.json.trim_end())?;
        return Ok(());
    }
    let sent = &reply.value;
    let status = sent.status.map(|status| status.to_string());
    let error = sent.error_code.as_deref().map(|code| code.replace('_', " "));
    let answer = [status, error].into_iter().flatten().collect::<Vec<_>>().join(" ");
    let verdict = if sent.delivered { "delivered" } else { "not delivered" };
    print(format_args!("{verdict}: {answer} in {} ms", sent.latency_ms))?;
    Ok(())
}

fn some_of(names: Option<&[String]>) -> String {
    names.map_or_else(|| "all".to_owned(), |names| names.join(", "))
}

fn in_words(endpoint: &Endpoint) -> Option<&'static str> {
    endpoint.disabled_because.as_deref().map(|why| match why {
        "gone" => "it answered 410; enable it with `foreman webhook update ID --enable`",
        _ => "it gathers its webhooks until it is enabled",
    })
}
