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

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use tokio::sync::oneshot;

    use super::*;
    use crate::guard::{Allow, Kind};

    fn check_with(allow: &str) -> SubmissionCheck {
        SubmissionCheck::new(Guard::new(Allow::parse(allow).unwrap()))
    }

    fn soon() -> Instant {
        Instant::now() + SUBMISSION_BUDGET
    }

    fn blocked() -> GuardError {
        GuardError::Blocked(Refused::name("h", Kind::Private))
    }

    #[tokio::test]
    async fn literals_and_localhost_are_judged_without_a_lookup_even_past_the_deadline() {
        let (check, past) = (check_with(""), Instant::now());
        for (url, refused) in [
            ("http://127.0.0.1/", true),
            ("http://0x7f.1/", true),
            ("http://[::1]/", true),
            ("http://localhost:8080/", true),
            ("https://8.8.8.8/", false),
        ] {
            let answer = check.check(&ReceiverUrl::parse(url).unwrap(), past).await;
            assert_eq!(answer.is_err(), refused, "{url}: {answer:?}");
        }
    }

    #[tokio::test]
    async fn localhost_passes_where_loopback_is_allowed() {
        let url = ReceiverUrl::parse("http://localhost:8080/").unwrap();
        assert_eq!(check_with("loopback").check(&url, soon()).await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_whose_lookup_takes_too_long_is_accepted_and_its_answer_serves_the_next() {
        let check = check_with("");
        let (answer, lookup) = oneshot::channel::<GuardError>();
        let slow = async move { Err(lookup.await.unwrap()) };
        assert_eq!(check.ask("h", soon(), slow).await, None);
        assert!(check.remembered("h").is_none());

        answer.send(blocked()).unwrap();
        while check.remembered("h").is_none() {
            tokio::task::yield_now().await;
        }
        let url = ReceiverUrl::parse("http://h/").unwrap();
        assert!(matches!(check.check(&url, soon()).await, Err(UrlError::Refused(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_has_used_its_time_asks_for_no_more_lookups() {
        let check = check_with("");
        assert_eq!(check.ask("h", Instant::now(), ready(Err(blocked()))).await, None);
        tokio::task::yield_now().await;
        assert!(check.remembered("h").is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn names_that_never_resolve_cannot_take_more_than_their_lookups() {
        let check = check_with("");
        for lookup in 0..MAX_LOOKUPS {
            check.ask(&lookup.to_string(), Instant::now() + Duration::from_millis(1), pending()).await;
        }
        assert_eq!(check.lookups.available_permits(), 0);
        assert_eq!(check.ask("h", soon(), ready(Err(blocked()))).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_believed_for_a_while_and_then_asked_for_again() {
        let check = check_with("");
        assert!(check.ask("h", soon(), ready(Err(blocked()))).await.is_some());
        tokio::time::advance(BELIEVED_FOR - Duration::from_millis(1)).await;
        assert!(check.remembered("h").is_some_and(|answer| answer.refused.is_some()));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(check.remembered("h").is_none());
        assert_eq!(check.ask("h", soon(), ready(Ok(()))).await, None);
        assert!(check.remembered("h").is_some_and(|answer| answer.refused.is_none()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_does_not_resolve_is_accepted() {
        let unresolved = GuardError::NoAddress { host: "h".to_owned() };
        assert_eq!(check_with("").ask("h", soon(), ready(Err(unresolved))).await, None);
    }

    #[tokio::test]
    async fn what_is_remembered_is_bounded() {
        let check = check_with("");
        for host in 0..MAX_REMEMBERED + 10 {
            remember(&check.answers, host.to_string(), None);
        }
        assert_eq!(check.answers.lock().unwrap().len(), MAX_REMEMBERED);
    }
}
