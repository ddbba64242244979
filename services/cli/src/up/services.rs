//! How each child of `foreman up` is run: its command, its environment, its end.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use foreman_ollama::{Client, OllamaHost};
use foreman_runtime::settings::{api, shared, worker};
use foreman_runtime::{ConfigError, Env};

use super::addresses::{Addresses, free_port};
use super::child::{Ending, Spec};
use super::environment::{Environment, is_set};
use super::home::Home;
use super::postgres::{self, Postgres};
use super::programs::Programs;
use super::{API, Kind, POSTGRES, SIM, WORKER};
use crate::tether::Shown;

pub(super) struct Services<'a> {
    programs: &'a Programs,
    environment: Environment,
    postgres: Option<Postgres>,
    ollama: OllamaHost,
    grace: Duration,
    verbose: bool,
    remark: Option<&'static str>,
}

impl<'a> Services<'a> {
    pub(super) async fn configure(
        env: &Env,
        kind: Kind,
        verbose: bool,
        home: &Home,
        programs: &'a Programs,
        addresses: &Addresses,
    ) -> anyhow::Result<Self> {
        let mut environment = Environment::inherited();
        addresses.put_into(&mut environment);
        let ollama = ollama(env, kind, &mut environment)?;
        let (postgres, remark) = database(kind, home, &mut environment).await?;
        let secrets = home.secrets();
        secrets.make_once()?;
        environment.set_default_file(&shared::SECRET_KEY, &secrets.key);
        environment.set_default_file(&shared::WEBHOOK_SECRET, &secrets.webhook);
        environment.set_default(&shared::WEBHOOK_ALLOW, "loopback");
        environment.set_default(&api::AUTH, "off");
        environment.set_default(&shared::LOG_FORMAT, "text");
        let grace = shared::shutdown_grace(env)?;
        Ok(Self { programs, environment, postgres, ollama, grace, verbose, remark })
    }

    /// What the user should know about how this was configured.
    pub(super) fn remark(&self) -> Option<&'static str> {
        self.remark
    }

    pub(super) fn ollama(&self) -> anyhow::Result<Client> {
        Ok(Client::new(self.ollama.clone())?)
    }

    /// None where the user has a database.
    pub(super) fn postgres(&self) -> Option<Spec> {
        let postgres = self.postgres.as_ref()?;
        Some(Spec {
            name: POSTGRES,
            command: postgres.command(),
            environment: Environment::only(postgres::environment()),
            owner: postgres.account().map(|account| format!("{}:{}", account.uid(), account.gid())),
            // What it says is for its administrator; what it refuses, our services report.
            shown: self.shown(Shown::Nothing),
            ending: Ending::postgres(self.grace),
        })
    }

    pub(super) fn simulator(&self) -> Spec {
        let address = format!("127.0.0.1:{}", self.ollama.port());
        let spec = self.service(SIM, ["--addr".into(), address.into(), "--simulated-mark".into()]);
        Spec { shown: self.shown(Shown::Nothing), ..spec }
    }

    pub(super) fn worker(&self) -> Spec {
        self.service(WORKER, [])
    }

    pub(super) fn api(&self) -> Spec {
        self.service(API, [])
    }

    /// As a process of its own, whose environment can be ours to choose.
    pub(super) async fn migrate(&self) -> anyhow::Result<()> {
        let mut command = Command::new(std::env::current_exe()?);
        self.environment.apply(&mut command);
        command.args(["migrate", "--quiet"]).stdin(Stdio::null()).process_group(0);
        let mut command = tokio::process::Command::from(command);
        let status = command.kill_on_drop(true).status().await.context("the migrations cannot be run")?;
        if !status.success() {
            bail!("the database could not be brought up to date");
        }
        Ok(())
    }

    fn shown(&self, otherwise: Shown) -> Shown {
        if self.verbose { Shown::All } else { otherwise }
    }

    fn service<const N: usize>(&self, name: &'static str, arguments: [OsString; N]) -> Spec {
        let mut command = vec![self.programs.path(name).into()];
        command.extend(arguments);
        Spec {
            name,
            command,
            environment: self.environment.clone(),
            owner: None,
            shown: self.shown(Shown::Warnings),
            ending: Ending::service(self.grace),
        }
    }
}

fn ollama(env: &Env, kind: Kind, environment: &mut Environment) -> anyhow::Result<OllamaHost> {
    match kind {
        Kind::Real => Ok(env.read(&worker::OLLAMA_HOST, OllamaHost::parse)?),
        Kind::Demo => {
            let address = free_port()?.to_string();
            environment.set(&worker::OLLAMA_HOST, &address);
            // The port is another one each time, and the host stays the same.
            environment.set(&worker::HOST_ID, "simulator");
            Ok(OllamaHost::parse(&address)?)
        }
    }
}

/// The private Postgres, unless the user has a database; and what to say about that.
async fn database(
    kind: Kind,
    home: &Home,
    environment: &mut Environment,
) -> anyhow::Result<(Option<Postgres>, Option<&'static str>)> {
    let theirs = is_set(&shared::DATABASE_URL);
    match kind {
        Kind::Real if theirs => return Ok((None, Some("DATABASE_URL is set, so no Postgres is started."))),
        Kind::Real if is_set(&shared::DATABASE_DIRECT_URL) => {
            let problem = "it is set without DATABASE_URL; set both or neither";
            return Err(ConfigError::refused(&shared::DATABASE_DIRECT_URL, problem).into());
        }
        _ => {}
    }
    let postgres = Postgres::prepare(home).await?;
    environment.remove_postgres();
    environment.remove(&shared::DATABASE_DIRECT_URL);
    environment.remove(&shared::PGBOUNCER);
    environment.set(&shared::DATABASE_URL, postgres.url());
    let remark = theirs.then_some("DATABASE_URL is set, but a demo keeps to a Postgres of its own.");
    Ok((Some(postgres), remark))
}
