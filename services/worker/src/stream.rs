//! What this worker gives out to apis: the answers of its running attempts, live; the word that an attempt has begun; and what
//! its Ollama answers without a job.

mod direct;
pub(crate) mod live;
pub(crate) mod server;
