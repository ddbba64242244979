//! How an api has a worker send an example to a registered endpoint.

use serde::{Deserialize, Serialize};

/// `POST /endpoints/<id>/example?state=<state>` answers with [`ExampleSent`] when the receiver has answered, or has not in
/// time. 404: this worker sends no webhooks. 503: it cannot send one to this endpoint now.
pub const ENDPOINTS: &str = "/endpoints";

/// What came of an example.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExampleSent {
    /// The status of the receiver's answer, if it answered.
    pub status: Option<u16>,
    /// Why it does not count as delivered.
    pub error_code: Option<String>,
    pub latency_ms: u64,
    /// The first bytes of the answer, if the receiver has a public address.
    pub response: Option<String>,
}
