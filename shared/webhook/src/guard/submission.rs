//! The early word to a client whose webhook URL could never be called.
//!
//! A courtesy, not the guard: it may give up and accept, because every dial is checked again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use super::{Guard, GuardError, Refused};
use crate::receiver_url::{ReceiverUrl, Target, UrlError};

/// What all lookups of one request may take together; a name that needs longer is accepted.
pub const SUBMISSION_BUDGET: Duration = Duration::from_millis(500);

/// How long an answer is believed: short, so that a mended name is accepted soon.
const BELIEVED_FOR: Duration = Duration::from_secs(30);

/// Names remembered; a client that sends more distinct ones only makes us look them up again.
const MAX_REMEMBERED: usize = 10_000;

/// Lookups on behalf of submissions at the same time.
const MAX_LOOKUPS: usize = 64;

#[derive(Debug, Clone)]
pub struct SubmissionCheck {
    guard: Guard,
    lookups: Arc<Semaphore>,
    answers: Arc<Mutex<HashMap<String, Answer>>>,
}

/// None where the name may be called, or does not resolve (yet).
#[derive(Debug, Clone)]
struct Answer {
    refused: Option<Refused>,
    believed_until: Instant,
}

impl SubmissionCheck {
    pub fn new(guard: Guard) -> Self {
        Self { guard, lookups: Arc::new(Semaphore::new(MAX_LOOKUPS)), answers: Arc::default() }
    }

    /// Refuses literals at once, and names that are known before `deadline` to lead nowhere allowed.
    ///
    /// Take one deadline a request, `Instant::now() + SUBMISSION_BUDGET`, also for a batch of many URLs.
    pub async fn check(&self, url: &ReceiverUrl, deadline: Instant) -> Result<(), UrlError> {
        url.check_literal(self.guard.allow())?;
        let Target::Name(host) = url.target() else { return Ok(()) };
        let refused = match self.remembered(host) {
            Some(answer) => answer.refused,
            None => {
                let (guard, name, port) = (self.guard.clone(), host.to_owned(), url.port());
                let lookup = async move { guard.resolve(&name, port).await.map(drop) };
                self.ask(host, deadline, lookup).await
            }
        };
        refused.map_or(Ok(()), |refused| Err(UrlError::Refused(refused)))
    }

    /// Runs `lookup` to its end, and waits for it until `deadline`. An answer that comes later serves the next.
    async fn ask(
        &self,
        host: &str,
        deadline: Instant,
        lookup: impl Future<Output = Result<(), GuardError>> + Send + 'static,
    ) -> Option<Refused> {
        if Instant::now() >= deadline {
            return None;
        }
        let permit = timeout_at(deadline, Arc::clone(&self.lookups).acquire_owned()).await.ok()?.ok()?;
        let (answers, host) = (Arc::clone(&self.answers), host.to_owned());
        let asked = tokio::spawn(async move {
            let _permit = permit;
            let refused = match lookup.await {
                Err(GuardError::Blocked(refused)) => Some(refused),
                // A name that does not resolve now may do so when its job is done; the dial will see.
                Ok(()) | Err(GuardError::Lookup { .. } | GuardError::NoAddress { .. }) => None,
            };
            remember(&answers, host, refused.clone());
            refused
        });
        timeout_at(deadline, asked).await.ok()?.ok()?
    }

    fn remembered(&self, host: &str) -> Option<Answer> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.get(host).filter(|answer| answer.believed_until > Instant::now()).cloned()
    }
}

fn remember(answers: &Mutex<HashMap<String, Answer>>, host: String, refused: Option<Refused>) {
    let now = Instant::now();
    let mut answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
    if answers.len() >= MAX_REMEMBERED {
        answers.retain(|_, answer| answer.believed_until > now);
    }
    if answers.len() < MAX_REMEMBERED {
        answers.insert(host, Answer { refused, believed_until: now + BELIEVED_FOR });
    }
}
