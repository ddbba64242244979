//! HTTP itself, whatever is asked for: heads and bodies as they come in, answers as they go out, and how a refusal is
//! rendered. Nothing here decides what becomes of a job.

pub(crate) mod answer;
pub(crate) mod body;
pub(crate) mod framing;
pub(crate) mod observe;
pub(crate) mod outgoing;
pub(crate) mod path;
pub(crate) mod prefer;
pub(crate) mod problem;
pub(crate) mod query;
pub(crate) mod range;
pub(crate) mod sse;
pub(crate) mod traceparent;
