//! How an answer travels from the worker that runs a job to the api whose caller waits for it: the paths, the frames, and the
//! bearer by which the two know each other. Both sides use these types, so they cannot disagree.
//!
//! Pure. Must never open a connection, and never know what a job is for.

mod announcement;
mod bearer;
mod frame;

pub use announcement::{ANNOUNCEMENTS, ANSWERS, Announcement, DIRECT, HEARTBEAT, SILENCE};
pub use bearer::Bearer;
pub use frame::{ATTEMPT_HEADER, End, Frame, FrameError, Frames, Head, TOO_LONG};
