//! A stand-in for an Ollama v0.32.15: the same answers, errors and habits, without a GPU.
//!
//! [`Sim`] runs inside a test's own process; the binary of the same name is for people and for tests with real processes.
//! What it answers is held against recordings of a real server; what it does in time is told in `residency.rs`. It shares
//! no code with Foreman, because a fault in common would be found by no test.

mod config;
mod control;
mod faults;
mod gate;
mod generation;
mod go_json;
mod http;
mod journal;
mod keep_alive;
mod log;
mod model;
mod options;
mod orders;
mod replies;
mod request;
mod residency;
mod routes;
mod runner;
mod script;
mod server;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

pub use config::{Config, LoadDelay};
pub use faults::{Fault, Moment, Trouble};
pub use keep_alive::KeepAlive;
pub use log::{Event, Happening, Kind, Log, Outcome, Record};
pub use model::Model;

use crate::faults::Faults;
use crate::journal::Journal;
use crate::residency::Residency;
use crate::routes::Ollama;
use crate::server::Server;

/// A running simulator. Dropping it stops it and resets its connections.
#[derive(Debug)]
pub struct Sim {
    ollama: Arc<Ollama>,
    server: Arc<Server>,
    stop: CancellationToken,
}

impl Sim {
    /// Starts listening. Belongs to the runtime that it is started on.
    pub async fn start(config: Config) -> io::Result<Self> {
        let stop = CancellationToken::new();
        let journal = Arc::new(Journal::new(config.keep_records));
        let config = Arc::new(config);
        let faults = Arc::new(Faults::default());
        let ollama = Arc::new(Ollama {
            models: config.models.iter().cloned().map(Arc::new).collect(),
            residency: Residency::start(
                Arc::clone(&config),
                Arc::clone(&journal),
                Arc::clone(&faults),
                stop.clone(),
            ),
            faults,
            journal,
            config,
        });
        let server = Server::start(Arc::clone(&ollama), stop.clone()).await?;
        Ok(Self { ollama, server, stop })
    }

    pub fn addr(&self) -> SocketAddr {
        self.server.addr()
    }

    /// Where the routes of `/sim` stay reachable while it is away, if there is such a place.
    pub fn control_addr(&self) -> Option<SocketAddr> {
        self.server.control_addr()
    }

    /// What `OLLAMA_HOST` must be.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr())
    }

    /// Makes something go wrong.
    pub fn fault(&self, fault: Fault) {
        self.ollama.faults.add(fault);
    }

    /// The faults that have not been used up.
    pub fn faults(&self) -> Vec<Fault> {
        self.ollama.faults.list()
    }

    pub fn clear_faults(&self) {
        self.ollama.faults.clear();
    }

    /// What has happened so far.
    pub fn log(&self) -> Log {
        self.look(Log::clone)
    }

    /// Looks at the log in place; the simulator waits meanwhile.
    pub fn look<T>(&self, look: impl FnOnce(&Log) -> T) -> T {
        self.ollama.journal.read(look)
    }

    /// Waits until the log fulfils a condition, looking again after every change.
    pub async fn until(&self, condition: impl FnMut(&Log) -> bool) {
        self.ollama.journal.until(condition).await;
    }

    /// Kills the process that holds a model, as the system does when memory runs out. False if none does.
    pub fn kill_runner(&self, model: &str) -> bool {
        self.ollama.kill(model)
    }

    /// The models that are resident, as `/api/ps` lists them.
    pub fn resident(&self) -> Vec<String> {
        self.ollama.residency.list().iter().map(|one| one.model.name.clone()).collect()
    }

    /// Dies: resets every connection, loses what is resident, and refuses connections until it comes back.
    pub async fn go_away(&self) {
        self.server.go_away().await;
    }

    /// Listens again at the same address.
    pub async fn come_back(&self) -> io::Result<()> {
        self.server.come_back().await
    }

    /// Forgets faults, log and what is resident. Requests that are open go on.
    pub fn reset(&self) {
        self.ollama.reset();
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Ollama {
    fn kill(&self, model: &str) -> bool {
        model::canonical(model).is_some_and(|name| self.residency.kill(&name))
    }

    fn reset(&self) {
        self.faults.clear();
        self.residency.lose_everything();
        self.journal.reset();
    }
}
