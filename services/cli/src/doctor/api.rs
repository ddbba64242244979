//! The api that this environment names: whether it answers, whether it is ours, and whether it knows our key.

use std::time::Duration;

use foreman_runtime::config::form;
use foreman_runtime::settings::cli;
use reqwest::{StatusCode, header};
use serde_json::Value;
use url::Url;

use super::finding::Finding;
use super::installation::Installation;
use crate::terminal::one_line;

const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// How the api begins its `Server` header.
const NAME: &str = "foreman/";

struct ApiReply {
    status: StatusCode,
    /// The api's version, where no gateway has replaced the header.
    version: Option<String>,
    body: Value,
}

pub(super) async fn look(site: &Installation) -> anyhow::Result<Vec<Finding>> {
    let (base, is_named) = match site.api_url() {
        Ok(named) => named,
        Err(error) => {
            return Ok(vec![Finding::trouble(format!("{error:#}."), "FOREMAN_URL=http://127.0.0.1:8080")]);
        }
    };
    let key = site.env.read_optional(&cli::API_KEY, form::text)?;
    let answer = ask(&base, key.as_deref()).await?;
    let base = without_password(base);
    Ok(match answer {
        Ok(answer) if answer.is_ours() => judge(&base, &answer, key.is_some()),
        Ok(ApiReply { status, .. }) if matches!(status.as_u16(), 502..=504) => {
            vec![Finding::trouble(format!("The gateway at {base} finds no api behind it ({status})."), START)]
        }
        Ok(ApiReply { status, .. }) => {
            vec![absent(format!("What answers at {base} is not Foreman's api ({status})."), is_named)]
        }
        Err(why) => vec![absent(format!("No api answers at {base}: {why}."), is_named)],
    })
}

const START: &str = "foreman-api  (or foreman up; if it is elsewhere, set FOREMAN_URL)";

/// The URL as it may be shown.
fn without_password(mut base: Url) -> Url {
    // Only a URL without a host refuses this, and that has no password either.
    let _no_host = base.set_password(None);
    base
}

/// Only a note where FOREMAN_URL is not set, because the api may well be elsewhere.
fn absent(what: String, is_named: bool) -> Finding {
    if is_named { Finding::trouble(what, START) } else { Finding::note(what, START) }
}

async fn ask(base: &Url, key: Option<&str>) -> anyhow::Result<Result<ApiReply, &'static str>> {
    let http = reqwest::Client::builder().no_proxy().timeout(ANSWER_WITHIN).build()?;
    let mut request = http.get(format!("{}/jobs?limit=1", base.as_str().trim_end_matches('/')));
    if let Some(key) = key {
        request = request.bearer_auth(key);
    }
    let answer = match request.send().await {
        Ok(answer) => answer,
        Err(error) if error.is_timeout() => return Ok(Err("no answer within 5 s")),
        Err(error) if error.is_connect() => return Ok(Err("no connection")),
        Err(_broken) => return Ok(Err("the connection broke off")),
    };
    let server = answer.headers().get(header::SERVER).and_then(|value| value.to_str().ok());
    let version = server.and_then(|server| server.strip_prefix(NAME)).map(str::to_owned);
    let status = answer.status();
    let body = answer.bytes().await.unwrap_or_default();
    Ok(Ok(ApiReply { status, version, body: serde_json::from_slice(&body).unwrap_or_default() }))
}

impl ApiReply {
    /// A gateway may replace the header, so a body in the api's form counts as well.
    fn is_ours(&self) -> bool {
        let has = |name| self.body.get(name).is_some();
        self.version.is_some() || (has("data") && has("has_more")) || (has("code") && has("error"))
    }
}

fn judge(base: &Url, reply: &ApiReply, has_key: bool) -> Vec<Finding> {
    let said = one_line(reply.body["error"].as_str().unwrap_or_default());
    let mut found = vec![match reply.status {
        StatusCode::OK => Finding::ok(format!("The api answers at {base}.")),
        StatusCode::UNAUTHORIZED if has_key => Finding::trouble(
            format!("The api at {base} does not know the key in FOREMAN_API_KEY."),
            "set it to the key that `foreman client create` showed, or get a new one: foreman client rotate NAME",
        ),
        StatusCode::UNAUTHORIZED => Finding::ok(format!("The api answers at {base}, and wants a key.")),
        status if status.is_server_error() => Finding::trouble(
            format!("The api at {base} answers {status}: {said}."),
            "curl its /readyz (FOREMAN_API_OPS_ADDR), and look at its log",
        ),
        status => Finding::trouble(format!("The api at {base} refuses us with {status}."), said),
    }];
    let ours = env!("CARGO_PKG_VERSION");
    if let Some(version) = reply.version.as_deref().filter(|version| *version != ours) {
        found.push(Finding::note(
            format!("The api is foreman {version}, and this is {ours}."),
            "install one release for api, worker and the command line",
        ));
    }
    found
}
