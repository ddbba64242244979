//! Tells a client at once if its webhook URL may not be called.
//!
//! This is a convenience for the client. The guard protects the network: it checks every connection that the worker
//! makes. So this check may give up, and accept the URL.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use super::{Guard, GuardError, Refused};
use crate::receiver_url::{ReceiverUrl, Target, UrlError};

/// The time for all lookups of one request together. A name that needs longer is accepted.
pub const SUBMISSION_BUDGET: Duration = Duration::from_millis(500);

/// How long the result of a lookup is used. It is short, so that a name is accepted soon after somebody has mended it.
const BELIEVED_FOR: Duration = Duration::from_secs(30);

/// How many names are remembered. If clients send more, each further name is looked up every time.
const MAX_REMEMBERED: usize = 10_000;

/// How many lookups for submissions may run at the same time.
const MAX_LOOKUPS: usize = 64;

#[derive(Debug, Clone)]
pub struct SubmissionCheck {
    guard: Guard,
    lookups: Arc<Semaphore>,
    known: Arc<Mutex<HashMap<String, KnownName>>>,
}

/// The result of the last lookup of a name.
#[derive(Debug, Clone)]
struct KnownName {
    /// `None` if the name may be called, or does not resolve yet.
    refused: Option<Refused>,
    believed_until: Instant,
}

impl SubmissionCheck {
    pub fn new(guard: Guard) -> Self {
        Self { guard, lookups: Arc::new(Semaphore::new(MAX_LOOKUPS)), known: Arc::default() }
    }

    /// Refuses an address that is not allowed at once. Refuses a name if its lookup finds no allowed address before
    /// `deadline`.
    ///
    /// Use one deadline per request, `Instant::now() + SUBMISSION_BUDGET`, even for a batch of many URLs.
    pub async fn check(&self, url: &ReceiverUrl, deadline: Instant) -> Result<(), UrlError> {
        url.check_literal(self.guard.allow())?;
        let Target::Name(host) = url.target() else { return Ok(()) };
        let refused = match self.remembered(host) {
            Some(name) => name.refused,
            None => {
                let (guard, name, port) = (self.guard.clone(), host.to_owned(), url.port());
                let lookup = async move { guard.resolve(&name, port).await.map(drop) };
                self.ask(host, deadline, lookup).await
            }
        };
        refused.map_or(Ok(()), |refused| Err(UrlError::Refused(refused)))
    }

    /// Runs `lookup` to its end, but waits for it only until `deadline`. A result that comes later is for the next request.
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
        let (known, host) = (Arc::clone(&self.known), host.to_owned());
        let asked = tokio::spawn(async move {
            let _permit = permit;
            let refused = match lookup.await {
                Err(GuardError::Blocked(refused)) => Some(refused),
                // A name that does not resolve now may resolve when its job is done. The worker looks it up again then.
                Ok(()) | Err(GuardError::Lookup { .. } | GuardError::NoAddress { .. }) => None,
            };
            remember(&known, host, refused.clone());
            refused
        });
        timeout_at(deadline, asked).await.ok()?.ok()?
    }

    fn remembered(&self, host: &str) -> Option<KnownName> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(host).filter(|name| name.believed_until > Instant::now()).cloned()
    }
}

fn remember(known: &Mutex<HashMap<String, KnownName>>, host: String, refused: Option<Refused>) {
    let now = Instant::now();
    let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
    if known.len() >= MAX_REMEMBERED {
        known.retain(|_, name| name.believed_until > now);
    }
    if known.len() < MAX_REMEMBERED {
        known.insert(host, KnownName { refused, believed_until: now + BELIEVED_FOR });
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
        assert!(check.remembered("h").is_some_and(|name| name.refused.is_some()));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(check.remembered("h").is_none());
        assert_eq!(check.ask("h", soon(), ready(Ok(()))).await, None);
        assert!(check.remembered("h").is_some_and(|name| name.refused.is_none()));
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
            remember(&check.known, host.to_string(), None);
        }
        assert_eq!(check.known.lock().unwrap().len(), MAX_REMEMBERED);
    }
}
