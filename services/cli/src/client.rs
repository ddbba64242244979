//! `foreman client`: the clients, their keys, their webhook secrets and their terms. A key and a secret are shown once, when
//! they are made.

mod terms;

use std::process::ExitCode;

use bytesize::ByteSize;
use foreman_runtime::Env;
use foreman_runtime::settings::{cli, shared};
use foreman_store::{Client, Credentials, TermsChange};
use serde::Serialize;

use self::terms::TermsArgs;
use crate::terminal::{print, say};
use crate::{database, help};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Make a client, and show its key and its webhook secret, once
    #[command(after_help = "Example: foreman client create reports --json")]
    Create {
        name: String,
        /// It sees the jobs of every client
        #[arg(long)]
        admin: bool,
        #[command(flatten)]
        terms: TermsArgs,
        /// Print {"client","key","secret"}
        #[arg(long)]
        json: bool,
    },
    /// Change on which terms a client is served
    #[command(after_help = "\
Examples:
  foreman client set reports --weight 2 --max-running 1
  foreman client set 'address 192.0.2.7' --max-queued 100 --weight default

The word default takes a term back to what every client has. A change has its effect within some seconds.")]
    Set {
        name: String,
        #[command(flatten)]
        terms: TermsArgs,
        /// Print the client as one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Show one client and its terms
    #[command(after_help = "Example: foreman client show reports")]
    Show {
        name: String,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Show every client
    #[command(after_help = "Example: foreman client list")]
    List {
        /// Print one JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Give a client a new key and secret; those of before stay good for a day
    #[command(after_help = "\
Example: foreman client rotate reports

A second rotation within that day ends the key and the secret from before the first one at once.")]
    Rotate {
        name: String,
        /// Print {"client","key","secret"}
        #[arg(long)]
        json: bool,
    },
    /// End a client's keys within two seconds and for good; its jobs go on
    #[command(after_help = "Example: foreman client revoke reports")]
    Revoke { name: String },
}

pub(crate) fn help() -> String {
    help::after(
        "\
Example: foreman client create reports

Where DATABASE_URL is not set, the clients are those of the `foreman up` that runs on this machine.",
        &[shared::DATABASE_URL, shared::SECRET_KEY, cli::HOME],
    )
}

pub(crate) async fn run(command: Command) -> anyhow::Result<ExitCode> {
    let (store, seal) = database::open_with_key(&Env::from_process())?;
    match command {
        Command::Create { name, admin, terms, json } => {
            let seal = database::needs_key(seal)?;
            show(&store.create_client(&seal, &name, admin).await?, json)?;
            if terms.change() != TermsChange::default() {
                store.change_terms(&name, &terms.change()).await?;
            }
        }
        Command::Set { name, terms, json } => {
            list(&[store.change_terms(&name, &terms.change()).await?], json)?
        }
        Command::Show { name, json } => list(&[store.client_named(&name).await?], json)?,
        Command::Rotate { name, json } => {
            let seal = database::needs_key(seal)?;
            show(&store.rotate_client(&seal, &name).await?, json)?;
            say("The key and the secret of before stay good for a day.");
        }
        Command::List { json } => list(&store.clients().await?, json)?,
        Command::Revoke { name } => {
            store.revoke_client(&name).await?;
            say(format_args!("{name} can no longer sign in."));
        }
    }
    store.close().await;
    Ok(ExitCode::SUCCESS)
}

#[derive(Serialize)]
struct Made<'a> {
    client: &'a str,
    key: &'a str,
    secret: &'a str,
}

fn show(made: &Credentials, json: bool) -> anyhow::Result<()> {
    if json {
        let Credentials { name, key, secret, .. } = made;
        print(serde_json::to_string(&Made { client: name, key, secret })?)?;
    } else {
        print(format_args!("client  {}\nkey     {}\nsecret  {}", made.name, made.key, made.secret))?;
        say(
            "Shown this once: the key goes with requests (Authorization: Bearer), the secret verifies webhooks.",
        );
    }
    Ok(())
}

#[derive(Serialize)]
struct Listed<'a> {
    client: &'a str,
    admin: bool,
    has_key: bool,
    created_at: String,
    previous_until: Option<String>,
    revoked_at: Option<String>,
    weight: Option<f64>,
    max_queued: Option<i64>,
    max_queued_bytes: Option<i64>,
    max_running: Option<i32>,
    gpu_seconds_a_day: Option<f64>,
}

fn list(clients: &[Client], json: bool) -> anyhow::Result<()> {
    let width = clients.iter().map(|client| client.name.chars().count()).max().unwrap_or_default();
    for client in clients {
        let listed = Listed {
            client: &client.name,
            admin: client.is_admin,
            has_key: client.has_key,
            created_at: foreman_webhook::rfc3339(client.created_at),
            previous_until: client.previous_until.map(foreman_webhook::rfc3339),
            revoked_at: client.revoked_at.map(foreman_webhook::rfc3339),
            weight: client.terms.weight,
            max_queued: client.terms.max_queued,
            max_queued_bytes: client.terms.max_queued_bytes,
            max_running: client.terms.max_running,
            gpu_seconds_a_day: client.terms.gpu_seconds_a_day,
        };
        if json {
            print(serde_json::to_string(&listed)?)?;
        } else {
            print(format_args!("{:width$}  {}", client.name, listed.in_words()))?;
        }
    }
    Ok(())
}

impl Listed<'_> {
    fn in_words(&self) -> String {
        let mut words = vec![format!("since {}", self.created_at)];
        if self.admin {
            words.push("sees every client's jobs".to_owned());
        }
        if !self.has_key {
            words.push("a source address, without a key".to_owned());
        }
        if let Some(at) = &self.revoked_at {
            words.push(format!("revoked {at}"));
        } else if let Some(until) = &self.previous_until {
            words.push(format!("its key of before is good until {until}"));
        }
        words.extend(self.terms_in_words());
        words.join(", ")
    }

    /// Only what differs from the default.
    fn terms_in_words(&self) -> impl Iterator<Item = String> {
        let bytes = |bytes: i64| ByteSize(bytes.unsigned_abs());
        [
            self.weight.map(|weight| format!("weight {weight}")),
            self.max_queued.map(|jobs| format!("at most {jobs} jobs queued")),
            self.max_queued_bytes.map(|size| format!("at most {} queued", bytes(size))),
            self.max_running.map(|jobs| format!("at most {jobs} running on each host")),
            self.gpu_seconds_a_day.map(|seconds| format!("{seconds} GPU-seconds a day")),
        ]
        .into_iter()
        .flatten()
    }
}
