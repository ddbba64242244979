//! The children of `foreman up` together: started in order, watched, stopped in the opposite order.

use std::convert::Infallible;
use std::fs;

use anyhow::{anyhow, bail};
use tokio::sync::mpsc;

use super::child::{Child, Death, Spec};
use super::home::Home;
use crate::terminal::say;

/// How many lines of a log are shown to explain why a child cannot start.
const LAST_LINES: usize = 3;

pub(super) struct Stack<'a> {
    home: &'a Home,
    children: Vec<Child>,
    died: mpsc::UnboundedReceiver<Death>,
    deaths: mpsc::UnboundedSender<Death>,
}

impl<'a> Stack<'a> {
    pub(super) fn new(home: &'a Home) -> Self {
        let (deaths, died) = mpsc::unbounded_channel();
        Self { home, children: Vec::new(), died, deaths }
    }

    pub(super) fn start(&mut self, spec: Spec) -> anyhow::Result<()> {
        self.children.push(Child::keep(spec, self.home, self.deaths.clone())?);
        Ok(())
    }

    /// Runs one step of the start. Fails if a child dies meanwhile: it would die again after a restart.
    pub(super) async fn unless_one_dies<T>(
        &mut self,
        step: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<T> {
        tokio::select! {
            done = step => done,
            Some(death) = self.died.recv() => Err(self.explain(&death)),
        }
    }

    /// Once everything runs: a child that dies is started again, unless that cannot help.
    pub(super) async fn watch(&mut self) -> anyhow::Result<Infallible> {
        while let Some(death) = self.died.recv().await {
            let Death { name, how, again_in } = &death;
            match again_in {
                Some(pause) => {
                    say(format_args!("{name} {how}; it is started again in {:.1} s.", pause.as_secs_f32()));
                }
                None => return Err(self.explain(&death)),
            }
        }
        bail!("nobody is left to watch")
    }

    /// Stops the children in the opposite order of their start, so that none loses one that it needs.
    pub(super) async fn stop(&mut self) {
        for child in self.children.iter_mut().rev() {
            child.stop().await;
            say(format_args!("{} has stopped.", child.name()));
        }
    }

    pub(super) async fn stop_now(&mut self) {
        self.children.iter().for_each(Child::stop_now);
        for child in &mut self.children {
            child.ended().await;
        }
    }

    fn explain(&self, death: &Death) -> anyhow::Error {
        let log = self.home.log_of(death.name);
        let text = fs::read(&log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text.lines().collect();
        let last = lines[lines.len().saturating_sub(LAST_LINES)..].join(" / ");
        anyhow!("{} {}: {last} (more in {})", death.name, death.how, log.display())
    }
}
