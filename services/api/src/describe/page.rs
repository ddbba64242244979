//! Writes the description as one HTML page for people. The page has no script, no font and nothing from another site. So it works
//! on a machine without internet, and an attacker has nothing to run in it.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use utoipa::openapi::OpenApi;

const STYLE: &str = "
:root { color-scheme: light dark; --line: color-mix(in srgb, currentColor 20%, transparent); }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; }
code { font: 0.9em ui-monospace, monospace; }
h1 { margin: 0; }
h2 { margin-top: 3rem; border-bottom: 1px solid var(--line); }
h3 { margin: 2.5rem 0 0; font: 600 1.05rem ui-monospace, monospace; }
h3 b { display: inline-block; min-width: 4rem; }
h4 { margin: 1rem 0 0; font-size: 0.9rem; opacity: 0.7; }
table { border-collapse: collapse; width: 100%; }
td { border-top: 1px solid var(--line); padding: 0.25rem 1rem 0.25rem 0; vertical-align: top; overflow-wrap: break-word; }
td:first-child { white-space: nowrap; }
nav { columns: 18rem; }
nav a { display: block; }
p { margin: 0.5rem 0; }
";

/// The digest of the style sheet, as a content security policy names it.
pub(crate) fn style_digest() -> String {
    STANDARD.encode(Sha256::digest(STYLE))
}

/// The whole page.
pub(crate) fn html(api: &OpenApi) -> String {
    let api = serde_json::to_value(api).expect("a description is plain JSON");
    let title = text(&api["info"]["title"]);
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>{title}</title><style>{STYLE}</style><h1>{title}</h1><p>{}</p>\
         <p>For programs: <a href=\"openapi.json\">openapi.json</a></p><nav>",
        prose(&api["info"]["description"])
    );
    for (path, method, _) in operations(&api) {
        write(&mut page, format_args!("<a href=\"#{0}\"><code>{0}</code></a>", escaped(&name(path, method))));
    }
    page.push_str("<a href=\"#types\">Types</a></nav>");
    for tag in items(&api["tags"]) {
        write(&mut page, format_args!("<h2>{}</h2>", prose(&tag["description"])));
        for (path, method, operation) in
            operations(&api).filter(|(.., operation)| operation["tags"][0] == tag["name"])
        {
            describe_operation(&mut page, path, method, operation);
        }
    }
    page.push_str("<h2 id=\"types\">Types</h2>");
    for (name, schema) in members(&api["components"]["schemas"]) {
        describe_type(&mut page, name, schema);
    }
    page.push_str("</html>\n");
    page
}

fn describe_operation(page: &mut String, path: &str, method: &str, operation: &Value) {
    let id = escaped(&name(path, method));
    write(page, format_args!("<h3 id=\"{id}\"><b>{}</b> {}</h3>", method.to_uppercase(), escaped(path)));
    write(
        page,
        format_args!("<p>{}</p><p>{}</p>", prose(&operation["summary"]), prose(&operation["description"])),
    );
    rows(page, "Parameters", items(&operation["parameters"]), |parameter| {
        let name = format!("<code>{}</code>", text(&parameter["name"]));
        (
            format!("{name} ({})", text(&parameter["in"])),
            shape(&parameter["schema"]),
            prose(&parameter["description"]),
        )
    });
    let body = &operation["requestBody"];
    rows(page, "Body", members(&body["content"]), |(kind, content)| {
        (escaped(kind), shape(&content["schema"]), prose(&body["description"]))
    });
    rows(page, "Answers", members(&operation["responses"]), |(status, response)| {
        let shapes: Vec<String> = members(&response["content"])
            .map(|(kind, content)| format!("{} {}", shape(&content["schema"]), escaped(kind)))
            .collect();
        (escaped(status), shapes.join("<br>"), prose(&response["description"]))
    });
}

fn describe_type(page: &mut String, name: &str, schema: &Value) {
    let name = escaped(name);
    write(page, format_args!("<h3 id=\"type-{name}\">{name}</h3><p>{}</p>", prose(&schema["description"])));
    if schema["enum"].is_array() {
        write(page, format_args!("<p>{}</p>", shape(schema)));
    }
    rows(page, "Fields", members(&schema["properties"]), |(field, of)| {
        let is_required = items(&schema["required"]).any(|required| required == field);
        let optional = if is_required { "" } else { ", optional" };
        (
            format!("<code>{}</code>", escaped(field)),
            format!("{}{optional}", shape(of)),
            prose(&of["description"]),
        )
    });
}

/// Writes a table of three columns. Without rows, writes nothing.
fn rows<T>(
    page: &mut String,
    title: &str,
    rows: impl Iterator<Item = T>,
    cells: impl Fn(T) -> (String, String, String),
) {
    let mut rows = rows.peekable();
    if rows.peek().is_none() {
        return;
    }
    write(page, format_args!("<h4>{title}</h4><table>"));
    for (first, second, third) in rows.map(cells) {
        write(page, format_args!("<tr><td>{first}<td>{second}<td>{third}"));
    }
    page.push_str("</table>");
}

/// The shape of a value in a few words.
fn shape(schema: &Value) -> String {
    if let Some(name) = schema["$ref"].as_str().and_then(|path| path.rsplit('/').next()) {
        let name = escaped(name);
        return format!("<a href=\"#type-{name}\">{name}</a>");
    }
    let alternatives: Vec<String> = items(&schema["oneOf"]).map(shape).collect();
    if !alternatives.is_empty() {
        return alternatives.join(" or ");
    }
    if schema["enum"].is_array() {
        return items(&schema["enum"])
            .map(|value| format!("<code>{}</code>", text(value)))
            .collect::<Vec<_>>()
            .join(", ");
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::String(one) => vec![one],
        several => items(several).filter_map(Value::as_str).collect(),
    };
    let types: Vec<String> =
        types
            .into_iter()
            .map(|name| {
                if name == "array" { format!("array of {}", shape(&schema["items"])) } else { escaped(name) }
            })
            .collect();
    let bounds = [("minimum", "from"), ("maximum", "to"), ("maxLength", "at most"), ("format", "as")];
    let bounds = bounds.into_iter().filter(|(name, _)| !schema[*name].is_null());
    let bounds: String = bounds.map(|(name, word)| format!(" {word} {}", text(&schema[name]))).collect();
    if types.is_empty() { "anything".to_owned() } else { format!("{}{bounds}", types.join(" or ")) }
}

fn operations(api: &Value) -> impl Iterator<Item = (&str, &str, &Value)> {
    members(&api["paths"])
        .flat_map(|(path, item)| members(item).map(move |(method, operation)| (path, method, operation)))
}

fn name(path: &str, method: &str) -> String {
    format!("{} {path}", method.to_uppercase())
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn members(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter).map(|(key, value)| (key.as_str(), value))
}

/// A value as text, safe in HTML.
fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => escaped(text),
        other => escaped(&other.to_string()),
    }
}

/// The same as [`text`], with `<code>` around each part that stands in backquotes.
fn prose(value: &Value) -> String {
    let text = text(value);
    let parts = text.split('`').enumerate();
    parts
        .map(|(index, part)| if index % 2 == 1 { format!("<code>{part}</code>") } else { part.to_owned() })
        .collect()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn write(page: &mut String, what: std::fmt::Arguments<'_>) {
    page.write_fmt(what).expect("a string takes whatever is written");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_cannot_become_markup() {
        let value = Value::from("<script>`a<b`\"&");
        assert_eq!(prose(&value), "&lt;script&gt;<code>a&lt;b</code>&quot;&amp;");
    }
}
