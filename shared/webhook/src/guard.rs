//! Which addresses webhooks may go to.
//!
//! A client that submits a job makes us send a request from inside the operator's network. So only public unicast
//! addresses may be called, and the addresses that the operator allows. A name is checked when the worker connects: the
//! guard resolves the name, checks the addresses, and the worker connects only to those. The worker must never resolve the
//! name a second time, because DNS rebinding gives another address then.

use std::net::IpAddr;

mod allow;
mod dial;
mod names;
mod nameservers;
mod ranges;
mod submission;
mod system;

pub use allow::{Allow, AllowError};
pub use dial::{Guard, GuardError, Policy};
pub use names::{Asker, LookupError};
pub use nameservers::{Nameservers, NameserversError};
pub use ranges::{Kind, classify};
pub use submission::{SUBMISSION_BUDGET, SubmissionCheck};

/// The refusal of a destination, as one sentence that says how to mend it.
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

    /// Says which kind of address a name leads to, but not which address. Clients must not learn the addresses in the
    /// operator's network.
    fn name(host: &str, kind: Kind) -> Self {
        Self { destination: format!("{host}, which leads to"), kind }
    }
}
