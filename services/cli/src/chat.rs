//! `foreman chat`: a conversation with a model through the queue, on Ollama's own route. The history stays here; each prompt is
//! a job that carries all of it.

use std::process::ExitCode;

use anyhow::bail;
use console::{Term, style};
use foreman_runtime::{Env, settings::cli};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader, stdin};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::api::Api;
use crate::terminal::{print, print_raw, say, sentence};
use crate::{exit, help};

#[derive(Debug, clap::Args)]
#[command(after_help = help::after("\
Example: foreman chat llama3.2

Ctrl-C cancels the answer that is being given; at an empty prompt it ends the conversation, and so do Ctrl-D and /bye. /clear
forgets what was said. In a pipe each line is a prompt, and the exit code is 1 if an answer failed.", &[cli::URL, cli::API_KEY]))]
pub(crate) struct Args {
    /// As `ollama list` shows it
    model: String,
    /// What the model is told before the first prompt
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Let the model think before it answers; its thoughts are shown on a terminal alone
    #[arg(long)]
    think: bool,
}

/// What was said so far.
struct Conversation {
    api: Api,
    model: String,
    think: bool,
    messages: Vec<Value>,
    /// How many of the first messages `/clear` leaves.
    kept: usize,
    interrupts: Signal,
    /// Whether a person watches.
    watched: bool,
}

/// How an answer went.
enum Answered {
    Whole(String),
    Cancelled,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let api = Api::from_env(&Env::from_process())?;
    let messages: Vec<Value> = args.system.map(|text| message("system", &text)).into_iter().collect();
    let mut conversation = Conversation {
        api,
        model: args.model,
        think: args.think,
        kept: messages.len(),
        messages,
        interrupts: signal(SignalKind::interrupt())?,
        watched: Term::stdout().is_term(),
    };
    let mut prompts = BufReader::new(stdin()).lines();
    let mut all_went_well = true;
    loop {
        if conversation.watched {
            print_raw(b">>> ")?;
        }
        let prompt = tokio::select! {
            prompt = prompts.next_line() => prompt?,
            _ = conversation.interrupts.recv() => None,
        };
        match prompt.as_deref().map(str::trim) {
            None | Some("/bye") => break,
            Some("") => {}
            Some("/clear") => conversation.messages.truncate(conversation.kept),
            Some(prompt) => {
                if let Err(error) = conversation.ask(prompt).await {
                    if exit::quietly(&error).is_some() {
                        return Err(error);
                    }
                    say(format_args!("foreman: {}", sentence(&error)));
                    all_went_well = false;
                }
            }
        }
    }
    if conversation.watched {
        print("")?;
    }
    Ok(if all_went_well || conversation.watched { ExitCode::SUCCESS } else { exit::FAILED.into() })
}

impl Conversation {
    /// Asks, shows the answer as it comes, and remembers both. What failed or was cancelled is forgotten.
    async fn ask(&mut self, prompt: &str) -> anyhow::Result<()> {
        self.messages.push(message("user", prompt));
        let answered = self.answer().await;
        match answered {
            Ok(Answered::Whole(answer)) => self.messages.push(message("assistant", &answer)),
            Ok(Answered::Cancelled) => {
                self.messages.pop();
                say("cancelled");
            }
            Err(error) => {
                self.messages.pop();
                return Err(error);
            }
        }
        Ok(())
    }

    async fn answer(&mut self) -> anyhow::Result<Answered> {
        let mut body = json!({"model": self.model, "messages": self.messages});
        if self.think {
            body["think"] = true.into();
        }
        let mut answer = tokio::select! {
            answer = self.api.chat(body.to_string()) => answer?,
            _ = self.interrupts.recv() => return Ok(Answered::Cancelled),
        };
        let mut whole = String::new();
        loop {
            let chunk = tokio::select! {
                chunk = answer.next() => chunk?,
                _ = self.interrupts.recv() => return Ok(Answered::Cancelled),
            };
            let Some(chunk) = chunk else { bail!("the answer broke off; ask again") };
            if let Some(error) = chunk.error {
                bail!(error);
            }
            if self.watched && !chunk.message.thinking.is_empty() {
                print_raw(style(plain(&chunk.message.thinking)).dim().to_string().as_bytes())?;
            }
            let content = chunk.message.content;
            print_raw(if self.watched { plain(&content) } else { content.clone() }.as_bytes())?;
            whole.push_str(&content);
            if chunk.done {
                print("")?;
                return Ok(Answered::Whole(whole));
            }
        }
    }
}

fn message(role: &str, content: &str) -> Value {
    json!({"role": role, "content": content})
}

/// Without control characters, except those that only move on: what a model says must not steer the terminal.
fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect()
}

#[cfg(test)]
mod tests {
    use super::plain;

    #[test]
    fn what_a_model_says_does_not_steer_the_terminal() {
        assert_eq!(plain("a\u{1b}[2Jb\nc\td\u{9b}"), "a[2Jb\nc\td");
    }
}
