//! `foreman top`: the queue, live. Where standard output is no terminal it shows the queue once.

mod screen;

use std::process::ExitCode;
use std::time::Duration;

use chrono::Utc;
use foreman_runtime::{Env, settings::cli};
use foreman_webhook::rfc3339;
use tokio::time::sleep;

use crate::api::{Api, ApiError, Queue};
use crate::help;
use crate::queue::tables;
use crate::terminal::{columns, print};
use screen::Screen;

/// The api reads the queue at most once a second.
const REFRESH: Duration = Duration::from_secs(1);

#[derive(Debug, clap::Args)]
#[command(after_help = help::after("\
Example: foreman top

q or Ctrl-C ends it. It shows what `foreman queue` shows, and that command's --help tells what the columns mean. In a pipe it
shows the queue once.", &[cli::URL, cli::API_KEY]))]
pub(crate) struct Args {}

pub(crate) async fn run(Args {}: Args) -> anyhow::Result<ExitCode> {
    let api = Api::from_env(&Env::from_process())?;
    // Whoever has no right to ask is told so before the screen changes.
    let queue = api.queue().await?.value;
    if columns().is_none() {
        print(tables::text(&queue, Utc::now(), None))?;
        return Ok(ExitCode::SUCCESS);
    }
    let screen = Screen::open()?;
    tokio::select! {
        failed = refresh(&api, queue, &screen) => failed?,
        ended = screen::until_it_ends() => ended?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Shows the queue again and again, until the terminal cannot be written.
async fn refresh(api: &Api, mut queue: Queue, screen: &Screen) -> anyhow::Result<()> {
    let mut trouble = None;
    loop {
        let now = Utc::now();
        let head = match &trouble {
            None => format!("foreman top  {}  q ends it", rfc3339(now)),
            Some(trouble) => format!("foreman top  {trouble}"),
        };
        screen.show(&head, &tables::text(&queue, now, columns()))?;
        sleep(REFRESH).await;
        trouble = match api.queue().await {
            Ok(reply) => {
                queue = reply.value;
                None
            }
            Err(error) => Some(why(&error)),
        };
    }
}

fn why(error: &ApiError) -> String {
    if error.is_away() {
        "The api is away; this is the last that it told.".to_owned()
    } else {
        error.to_string()
    }
}
