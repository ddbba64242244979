//! What the jobs of clients and users have used: written with the end of each attempt and job, added up by the hour, and read
//! from there. It outlives the jobs.

pub(crate) mod used;
pub(crate) mod add_up;
pub(crate) mod report;
