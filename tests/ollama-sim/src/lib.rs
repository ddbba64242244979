//! A stand-in for an Ollama v0.32.15: the same answers, errors and habits, without a GPU.
//!
//! [`Sim`] runs inside a test's own process; the binary of the same name is for people, and for tests with real
//! processes. Its answers are checked against recordings of a real server. `residency.rs` describes how it behaves
//! over time.
//!
//! Must never share code with Foreman, because no test would find an error that both have.

mod admission;
mod config;
mod control;
mod embed;
mod faults;
mod gate;
mod generation;
mod go_json;
mod http;
mod journal;
mod keep_alive;
mod log;
mod model;
mod ollama;
mod options;
mod orders;
mod replies;
mod request;
mod residency;
mod routes;
mod runner;
mod script;
mod server;
mod surface;
mod v1;
mod vectors;
mod voice;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use tokio_util::sync::CancellationToken;

pub use config::{Config, LoadDelay};
pub use faults::{Fault, Moment, Trouble};
pub use keep_alive::KeepAlive;
pub use log::{Event, Happening, Kind, Log, Outcome, Record};
pub use model::Model;

use crate::faults::Faults;
use crate::journal::Journal;
use crate::ollama::Ollama;
use crate::residency::Residency;
use crate::server::Server;

/// A running simulator. Dropping it stops it and resets its connections.
#[derive(Debug)]
pub struct Sim {
    ollama: Arc<Ollama>,
    server: Arc<Server>,
    stop: CancellationToken,
}

impl Sim {
    /// Starts to listen. The simulator runs on the runtime that starts it.
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

    /// The address at which the routes of `/sim` stay reachable while the simulator is away, if there is one.
    pub fn control_addr(&self) -> Option<SocketAddr> {
        self.server.control_addr()
    }

    /// The value for `OLLAMA_HOST`.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr())
    }

    /// Adds a fault.
    pub fn fault(&self, fault: Fault) {
        self.ollama.faults.add(fault);
    }

    /// The faults that are not used up.
    pub fn faults(&self) -> Vec<Fault> {
        self.ollama.faults.list()
    }

    pub fn clear_faults(&self) {
        self.ollama.faults.clear();
    }

    /// The moment from which the times of the log count.
    pub fn began(&self) -> Instant {
        self.ollama.journal.began()
    }

    /// A copy of the log.
    pub fn log(&self) -> Log {
        self.look(Log::clone)
    }

    /// Reads the log in place. The simulator waits meanwhile.
    pub fn look<T>(&self, look: impl FnOnce(&Log) -> T) -> T {
        self.ollama.journal.read(look)
    }

    /// Waits until the log fulfils a condition. Checks it again after every change.
    pub async fn until(&self, condition: impl FnMut(&Log) -> bool) {
        self.ollama.journal.until(condition).await;
    }

    /// Kills the process that holds a model, as the system does when memory runs out. Returns false if no process
    /// holds the model.
    pub fn kill_runner(&self, model: &str) -> bool {
        self.ollama.kill(model)
    }

    /// The resident models, as `/api/ps` lists them.
    pub fn resident(&self) -> Vec<String> {
        self.ollama.residency.list().iter().map(|one| one.model.name.clone()).collect()
    }

    /// Dies: resets every connection, loses all resident models, and refuses connections until it comes back.
    pub async fn go_away(&self) {
        self.server.go_away().await;
    }

    /// Listens again at the same address.
    pub async fn come_back(&self) -> io::Result<()> {
        self.server.come_back().await
    }

    /// Forgets the faults, the log and the resident models. Open requests continue.
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
