//! Keeps the last answer of each host to one question, so that a caller gets an answer within a moment even if a host is slow or
//! away: then with what the host answered before. The question goes on behind, for the next caller.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::hosts;
use crate::workers::Workers;

/// An answer is used again for this long. Clients ask for several listings within a second, and again after minutes.
const FRESH_FOR: Duration = Duration::from_secs(1);

/// A question may keep callers waiting for this long where an earlier answer is known. So one caller in ten seconds waits for a host
/// that hangs, and half of the 100 ms in which clients get their answer are left for everything else.
const PATIENCE: Duration = Duration::from_millis(50);

/// A caller waits this long if no host has ever answered: until workers are looked for the next time, and one second more.
const PATIENCE_AT_FIRST: Duration = Duration::from_secs(3);

pub(super) struct Kept<T> {
    path: &'static str,
    /// Reads an answer. `None` if it is not one of Ollama's.
    read: fn(&Bytes) -> Option<T>,
    /// By the host's id. The answers of a host that is away stay, as its models stay known.
    hosts: Mutex<BTreeMap<String, watch::Sender<Host<T>>>>,
}

struct Host<T> {
    last: Option<Arc<T>>,
    /// When the question was last asked, with or without success.
    asked: Option<Instant>,
    is_being_asked: bool,
}

impl<T> Default for Host<T> {
    fn default() -> Self {
        Self { last: None, asked: None, is_being_asked: false }
    }
}

impl<T> Host<T> {
    /// Whether the caller is to ask the host now.
    fn begin(&mut self) -> bool {
        let is_fresh = self.asked.is_some_and(|asked| asked.elapsed() < FRESH_FOR);
        if self.is_being_asked || is_fresh {
            return false;
        }
        (self.asked, self.is_being_asked) = (Some(Instant::now()), true);
        true
    }
}

impl<T: Send + Sync + 'static> Kept<T> {
    pub(super) fn new(path: &'static str, read: fn(&Bytes) -> Option<T>) -> Self {
        Self { path, read, hosts: Mutex::default() }
    }

    /// The last answers of all hosts, by their ids. Asks those hosts whose answers are not fresh.
    pub(super) async fn latest(&self, workers: &Workers) -> BTreeMap<String, Arc<T>> {
        for mut host in self.ask_all(workers) {
            let asked = host.borrow().asked.unwrap_or_else(Instant::now);
            answered(&mut host, asked + PATIENCE).await;
        }
        let answers = self.last_answers();
        if answers.is_empty() { self.first_answers(workers).await } else { answers }
    }

    /// The answers of the first hosts that this api learns of.
    async fn first_answers(&self, workers: &Workers) -> BTreeMap<String, Arc<T>> {
        let deadline = Instant::now() + PATIENCE_AT_FIRST;
        // After the deadline there is nobody to ask.
        _ = timeout_at(deadline, workers.addresses().wait_for(|known| !known.is_empty())).await;
        for mut host in self.ask_all(workers) {
            answered(&mut host, deadline).await;
        }
        self.last_answers()
    }

    /// Asks all hosts whose answers are not fresh. Returns every host.
    fn ask_all(&self, workers: &Workers) -> Vec<watch::Receiver<Host<T>>> {
        let ask_one = |(host, urls): (String, Vec<String>)| {
            let kept = self.host(&host);
            if kept.send_if_modified(Host::begin) {
                tokio::spawn(ask(kept.clone(), workers.clone(), urls, self.path, self.read));
            }
            kept.subscribe()
        };
        hosts::urls(workers).into_iter().map(ask_one).collect()
    }

    fn host(&self, id: &str) -> watch::Sender<Host<T>> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.entry(id.to_owned()).or_default().clone()
    }

    fn last_answers(&self) -> BTreeMap<String, Arc<T>> {
        let hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.iter().filter_map(|(id, host)| Some((id.clone(), host.borrow().last.clone()?))).collect()
    }
}

/// Waits until the host is not being asked, or until the deadline.
async fn answered<T>(host: &mut watch::Receiver<Host<T>>, deadline: Instant) {
    _ = timeout_at(deadline, host.wait_for(|host| !host.is_being_asked)).await;
}

async fn ask<T>(
    host: watch::Sender<Host<T>>,
    workers: Workers,
    urls: Vec<String>,
    path: &'static str,
    read: fn(&Bytes) -> Option<T>,
) {
    let answer = hosts::ask(&workers, &urls, path).await;
    let answer = answer.as_ref().and_then(read);
    if answer.is_none() {
        tracing::debug!(path, ?urls, "no worker of this host gave an answer of its Ollama");
    }
    host.send_modify(|host| {
        host.is_being_asked = false;
        if let Some(answer) = answer {
            host.last = Some(Arc::new(answer));
        }
    });
}
