//! The thread of the floor, of the attempts, and of their connections to Ollama. The GPU is idle from the end of an answer
//! until the next request. On the threads that the rest of the worker shares, several tasks in turn would wake another thread
//! in that time.

use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::thread;

use tokio::runtime::{Builder, Handle};

/// Starts the thread. It ends only with the process: connections to Postgres that were opened on it outlive the floor.
pub(super) fn start() -> io::Result<Handle> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    let run = move || match runtime.block_on(pending::<Infallible>()) {};
    thread::Builder::new().name("floor".to_owned()).spawn(run)?;
    Ok(handle)
}
