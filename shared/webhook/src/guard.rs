//! Which addresses webhooks may go to.
//!
//! Whoever submits a job makes us send a request from inside the operator's network, so only public unicast
//! addresses may be called, and whatever the operator allows beside them. Names are judged by what they resolve
//! to at the moment of the dial, and exactly the addresses that were judged may be dialled: asking a resolver
//! twice is what DNS rebinding lives on.

use std::net::IpAddr;

mod allow;
mod dial;
mod ranges;
mod submission;

pub use allow::{Allow, AllowError};
pub use dial::{Guard, GuardError};
pub use ranges::{Kind, classify};
pub use submission::{SUBMISSION_BUDGET, SubmissionCheck};

/// A destination that may not be called, in one sentence with the mend.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("webhooks may not go to {destination} {kind}; {}", kind.mend())]
pub struct Refused {
    destination: String,
    pub kind: Kind,
}

impl Refused {
    fn address(address: IpAddr, kind: Kind) -> Self {
        Self { destination: format!("{address},"), kind }
    }

    /// Says what kind of address a name leads to, but not which: names inside the operator's network are none of
    /// the client's business.
    fn name(host: &str, kind: Kind) -> Self {
        Self { destination: format!("{host}, which leads to"), kind }
    }
}
