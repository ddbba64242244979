//! The rules of a job's life: for each, the interleaving that breaks it where it is not kept.

mod holding;
