//! Tells a client at once if its webhook URL may not be called.
//!
//! This is a convenience for the client. The guard protects the network: it checks every connection that the worker
//! makes. So this check may give up, and accept the URL.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::{Asker, Guard, GuardError};
use crate::receiver_url::{ReceiverUrl, Target, UrlError};

/// The time for all lookups of one request together. A name that needs longer is accepted.
pub const SUBMISSION_BUDGET: Duration = Duration::from_millis(500);

#[derive(Debug, Clone)]
pub struct SubmissionCheck {
    guard: Guard,
}

impl SubmissionCheck {
    pub fn new(guard: Guard) -> Self {
        Self { guard }
    }

    /// Refuses at once what the text of the URL already forbids. Refuses a name if its lookup finds no allowed address
    /// before `deadline`.
    ///
    /// Use one deadline per request, `Instant::now() + SUBMISSION_BUDGET`, even for a batch of many URLs.
    pub async fn check(&self, asker: Asker, url: &ReceiverUrl, deadline: Instant) -> Result<(), UrlError> {
        self.guard.check(url)?;
        let Target::Name(host) = url.target() else { return Ok(()) };
        if Instant::now() >= deadline {
            return Ok(());
        }
        match timeout_at(deadline, self.guard.resolve(asker, host, url.port())).await {
            Ok(Err(GuardError::Blocked(refused))) => Err(UrlError::Refused(refused)),
            // A name that does not resolve now may resolve when its job is done. The worker looks it up again then.
            Ok(Ok(_) | Err(GuardError::Lookup { .. })) | Err(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::{Allow, Nameservers, Policy};

    fn check_with(allow: &str) -> SubmissionCheck {
        let (allow, nameservers) = (Allow::parse(allow).unwrap(), Nameservers::parse("127.0.0.1:1").unwrap());
        SubmissionCheck::new(Guard::new(Policy {
            allow,
            nameservers: Some(nameservers),
            ..Policy::default()
        }))
    }

    async fn check(allow: &str, url: &str, deadline: Instant) -> Result<(), UrlError> {
        check_with(allow).check(Asker::of(1), &ReceiverUrl::parse(url).unwrap(), deadline).await
    }

    #[tokio::test]
    async fn literals_and_localhost_are_judged_without_a_lookup_even_past_the_deadline() {
        for (url, refused) in [
            ("http://127.0.0.1/", true),
            ("http://0x7f.1/", true),
            ("http://[::1]/", true),
            ("http://localhost:8080/", true),
            ("https://8.8.8.8/", false),
            ("https://example.com/", false),
        ] {
            let answer = check("", url, Instant::now()).await;
            assert_eq!(answer.is_err(), refused, "{url}: {answer:?}");
        }
    }

    #[tokio::test]
    async fn localhost_passes_where_loopback_is_allowed() {
        let deadline = Instant::now() + SUBMISSION_BUDGET;
        assert_eq!(check("loopback", "http://localhost:8080/", deadline).await, Ok(()));
    }

    #[tokio::test]
    async fn a_name_that_nobody_knows_is_accepted() {
        let deadline = Instant::now() + SUBMISSION_BUDGET;
        assert_eq!(check("", "http://receiver.example/", deadline).await, Ok(()));
    }
}
