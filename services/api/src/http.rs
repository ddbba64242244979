//! HTTP itself, for all routes: reads heads and bodies, writes answers and refusals. Must never decide what becomes of a job.

pub(crate) mod etag;
pub(crate) mod body;
pub(crate) mod framing;
pub(crate) mod object;
pub(crate) mod observe;
pub(crate) mod outgoing;
pub(crate) mod path;
pub(crate) mod prefer;
pub(crate) mod problem;
pub(crate) mod query;
pub(crate) mod range;
pub(crate) mod sse;
pub(crate) mod traceparent;
pub(crate) mod user;
pub(crate) mod values;
