//! What an api asks of a worker: the answers of jobs that run, whose callers wait at the api, and examples for registered
//! endpoints. Here are the paths, the frames, and the bearer by which the two know each other. Both sides use these types, so
//! they cannot disagree.
//!
//! Pure. Must never open a connection, and never know what a job is for.

mod announcement;
mod bearer;
mod example;
mod frame;

pub use announcement::{ANNOUNCEMENTS, ANSWERS, Announcement, DIRECT, HEARTBEAT, SILENCE};
pub use bearer::Bearer;
pub use example::{ENDPOINTS, ExampleSent};
pub use frame::{ATTEMPT_HEADER, End, Frame, FrameError, Frames, Head, TOO_LONG};
