//! `foreman webhook`: the registered endpoints of a client. A secret is shown once, when it is made.

mod show;

use std::process::ExitCode;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use clap::error::ErrorKind;
use foreman_runtime::{Env, settings::cli};
use serde_json::{Map, Value, json};

use crate::api::{Api, endpoint_id};
use crate::exit;
use crate::help;
use crate::moment::ago;
use crate::terminal::{print, say};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Register an endpoint for all jobs of this client, and show its secret, once
    #[command(after_help = "\
Examples:
  foreman webhook create https://example.org/hook
  foreman webhook create https://example.org/hook --event done --event failed --model llama3.2 --header 'X-Team: gpu'")]
    Create {
        #[arg(value_name = "URL")]
        url: String,
        #[command(flatten)]
        fields: Fields,
        /// Print the endpoint as JSON
        #[arg(long)]
        json: bool,
    },
    /// Show every endpoint, newest first
    #[command(after_help = "Example: foreman webhook list")]
    List {
        /// Print one JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Show an endpoint, how it answers, and what waits for it
    #[command(after_help = "Example: foreman webhook show 01JD8Z6Q2M5V0R3N7K4T9W1XYA")]
    Show {
        #[arg(value_name = "ID", value_parser = endpoint_id)]
        id: String,
        /// Print the endpoint as JSON
        #[arg(long)]
        json: bool,
    },
    /// Change an endpoint; what is not named stays
    #[command(after_help = "\
Examples:
  foreman webhook update 01JD8Z6Q2M5V0R3N7K4T9W1XYA --url https://example.org/new
  foreman webhook update 01JD8Z6Q2M5V0R3N7K4T9W1XYA --event done --all-models
  foreman webhook update 01JD8Z6Q2M5V0R3N7K4T9W1XYA --disable

The headers that --header names replace all that the endpoint has. The same holds for --event and --model.")]
    Update {
        #[arg(value_name = "ID", value_parser = endpoint_id)]
        id: String,
        /// Where its webhooks go from now on
        #[arg(long)]
        url: Option<String>,
        #[command(flatten)]
        fields: Fields,
        #[command(flatten)]
        cleared: Cleared,
        /// Gather its webhooks until it is enabled
        #[arg(long, conflicts_with = "enable")]
        disable: bool,
        /// Send what was gathered, and go on
        #[arg(long)]
        enable: bool,
        /// Print the endpoint as JSON
        #[arg(long)]
        json: bool,
    },
    /// Delete an endpoint; what waits for it ends as endpoint_deleted at the time of its next attempt
    #[command(after_help = "Example: foreman webhook delete 01JD8Z6Q2M5V0R3N7K4T9W1XYA")]
    Delete {
        #[arg(value_name = "ID", value_parser = endpoint_id)]
        id: String,
    },
    /// Give an endpoint a new secret; the old one signs too for a while
    #[command(after_help = "\
Example: foreman webhook rotate 01JD8Z6Q2M5V0R3N7K4T9W1XYA --overlap 1h

A second rotation within the overlap ends the secret from before the first one at once.")]
    Rotate {
        #[arg(value_name = "ID", value_parser = endpoint_id)]
        id: String,
        /// How long both secrets sign, at most 7d
        #[arg(long, default_value = "24h", value_parser = duration)]
        overlap: Duration,
        /// Print the endpoint as JSON
        #[arg(long)]
        json: bool,
    },
    /// Send a signed example, and show what the endpoint answers
    #[command(after_help = "Example: foreman webhook test 01JD8Z6Q2M5V0R3N7K4T9W1XYA --event failed")]
    Test {
        #[arg(value_name = "ID", value_parser = endpoint_id)]
        id: String,
        /// The state that the example tells of
        #[arg(long, default_value = "done")]
        event: String,
        /// Print what came of it as JSON
        #[arg(long)]
        json: bool,
    },
    /// Send an endpoint what failed or was missed since a moment
    #[command(after_help = "\
Examples:
  foreman webhook recover 01JD8Z6Q2M5V0R3N7K4T9W1XYA --since 2h
  foreman webhook recover 01JD8Z6Q2M5V0R3N7K4T9W1XYA --since 2026-11-22T08:00:00Z")]
    Recover {
        #[arg(value_name = "ID", value_parser = endpoint_id)]
        id: String,
        /// A time as in RFC 3339, or how long ago, such as 90m, 2h or 3d
        #[arg(long, value_parser = moment)]
        since: DateTime<Utc>,
    },
}

/// What an endpoint may have beside its URL.
#[derive(Debug, clap::Args)]
pub(crate) struct Fields {
    /// Up to 200 characters for people
    #[arg(long)]
    description: Option<String>,
    /// A state to tell of, such as done; all states if none is named
    #[arg(long = "event", value_name = "STATE")]
    events: Vec<String>,
    /// A model whose jobs to tell of; all models if none is named
    #[arg(long = "model", value_name = "MODEL")]
    models: Vec<String>,
    /// A header to send along; its value is never shown again
    #[arg(long = "header", value_name = "NAME: VALUE", value_parser = header)]
    headers: Vec<(String, String)>,
    /// Webhooks per second
    #[arg(long, value_name = "NUMBER")]
    rate_limit: Option<u32>,
}

/// What an endpoint is to have no longer.
#[derive(Debug, clap::Args)]
pub(crate) struct Cleared {
    /// Tell of all states again
    #[arg(long, conflicts_with = "events")]
    all_events: bool,
    /// Tell of the jobs of all models again
    #[arg(long, conflicts_with = "models")]
    all_models: bool,
    /// Send no headers along any more
    #[arg(long, conflicts_with = "headers")]
    no_headers: bool,
    /// Send as many webhooks per second as there are
    #[arg(long, conflicts_with = "rate_limit")]
    no_rate_limit: bool,
}

pub(crate) fn help() -> String {
    help::after(
        "Example: foreman webhook create https://example.org/hook --event done",
        &[cli::URL, cli::API_KEY],
    )
}

pub(crate) async fn run(command: Command) -> anyhow::Result<ExitCode> {
    let api = Api::from_env(&Env::from_process())?;
    match command {
        Command::Create { url, fields, json } => {
            let mut fields = fields.into_json().unwrap_or_else(|error| error.exit());
            fields.insert("url".to_owned(), url.into());
            let made = api.create_endpoint(&fields.into()).await?;
            show::endpoint(&made, json)?;
        }
        Command::List { json } => show::list(&api, json).await?,
        Command::Show { id, json } => show::endpoint(&api.endpoint(&id).await?, json)?,
        Command::Update { id, url, fields, cleared, disable, enable, json } => {
            let mut fields = fields.into_json().unwrap_or_else(|error| error.exit());
            fields.extend(cleared.names().map(|name| (name.to_owned(), Value::Null)));
            fields.extend(url.map(|url| ("url".to_owned(), url.into())));
            if disable || enable {
                fields.insert("disabled".to_owned(), disable.into());
            }
            show::endpoint(&api.change_endpoint(&id, &fields.into()).await?, json)?;
        }
        Command::Delete { id } => {
            api.delete_endpoint(&id).await?;
            say(format_args!("{id} is gone."));
        }
        Command::Rotate { id, overlap, json } => {
            let fields = json!({ "overlap_seconds": overlap.as_secs() });
            show::endpoint(&api.rotate_endpoint(&id, &fields).await?, json)?;
        }
        Command::Test { id, event, json } => {
            let sent = api.send_example(&id, &json!({ "event": event })).await?;
            show::example(&sent, json)?;
            if !sent.value.delivered {
                say("The endpoint did not take the example.");
                return Ok(exit::FAILED.into());
            }
        }
        Command::Recover { id, since } => {
            let since = since.to_rfc3339_opts(SecondsFormat::Millis, true);
            let recovered = api.recover_endpoint(&id, &json!({ "since": since })).await?.value.recovered;
            print(recovered)?;
            say("So many webhooks are on their way because of this.");
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl Fields {
    /// The fields that were named.
    fn into_json(self) -> Result<Map<String, Value>, clap::Error> {
        let mut fields = Map::new();
        let mut add = |name: &str, value: Option<Value>| {
            fields.extend(value.map(|value| (name.to_owned(), value)));
        };
        add("description", self.description.map(Value::from));
        add("events", (!self.events.is_empty()).then(|| self.events.into()));
        add("models", (!self.models.is_empty()).then(|| self.models.into()));
        let mut headers: Map<String, Value> = Map::new();
        for (name, value) in self.headers {
            if headers.keys().any(|other| other.eq_ignore_ascii_case(&name)) {
                let error = format!("the header {name} is named twice; name it once\n");
                return Err(clap::Error::raw(ErrorKind::ValueValidation, error));
            }
            headers.insert(name, value.into());
        }
        add("headers", (!headers.is_empty()).then(|| headers.into()));
        add("rate_limit", self.rate_limit.map(Value::from));
        Ok(fields)
    }
}

impl Cleared {
    /// The fields that were named.
    fn names(&self) -> impl Iterator<Item = &'static str> {
        let all = [
            ("events", self.all_events),
            ("models", self.all_models),
            ("headers", self.no_headers),
            ("rate_limit", self.no_rate_limit),
        ];
        all.into_iter().filter_map(|(name, is_cleared)| is_cleared.then_some(name))
    }
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("expected a name and a value, such as 'X-Team: gpu'")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("expected a duration such as 24h ({error})"))
}

fn moment(text: &str) -> Result<DateTime<Utc>, String> {
    if let Ok(moment) = DateTime::parse_from_rfc3339(text) {
        return Ok(moment.to_utc());
    }
    ago(text)
        .ok_or_else(|| "expected a time such as 2026-11-22T08:00:00Z, or how long ago, such as 2h".to_owned())
}
