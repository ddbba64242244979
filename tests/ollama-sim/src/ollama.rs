//! What every request may use: the models, the log, the faults and the runners.

use std::sync::Arc;

use bytes::Bytes;

use crate::config::Config;
use crate::faults::{Due, Faults, Stage};
use crate::journal::{Entry, Journal};
use crate::model::{self, Model};
use crate::options::{RunOptions, RunnerOptions};
use crate::orders;
use crate::request::RunRequest;
use crate::residency::{Lease, Residency};
use crate::runner::{NoRunner, Want};

/// Everything that a request may use.
#[derive(Debug)]
pub(crate) struct Ollama {
    pub(crate) config: Arc<Config>,
    pub(crate) models: Vec<Arc<Model>>,
    pub(crate) journal: Arc<Journal>,
    pub(crate) faults: Arc<Faults>,
    pub(crate) residency: Arc<Residency>,
}

impl Ollama {
    pub(crate) fn find(&self, name: &str) -> Option<&Arc<Model>> {
        let name = model::canonical(name)?;
        self.models.iter().find(|model| model.name.eq_ignore_ascii_case(&name))
    }

    /// The options of a request for this model, or Ollama's error about a wrong type.
    pub(crate) fn options(
        &self,
        request: &RunRequest,
        model: &Model,
    ) -> Result<(RunnerOptions, RunOptions), String> {
        RunnerOptions::read(request, model, self.config.context_length)
    }

    /// A runner for a request, as soon as there is one.
    pub(crate) async fn acquire(
        &self,
        entry: &mut Entry,
        model: &Arc<Model>,
        options: RunnerOptions,
        request: &RunRequest,
        body: &Bytes,
    ) -> Result<Lease, NoRunner> {
        let want = Want {
            model: Arc::clone(model),
            options,
            keep_alive: request.keep_alive,
            written: request.model.clone(),
            body: body.clone(),
            ordered_fault: orders::ordered_fault(request, Stage::Load),
        };
        let lease = self.residency.acquire(want).await?;
        if lease.caused_load {
            entry.caused_load();
        }
        Ok(lease)
    }

    pub(crate) fn due(&self, stage: Stage, request: &RunRequest, body: &[u8]) -> Option<Due> {
        orders::ordered_fault(request, stage).or_else(|| self.faults.due(stage, &request.model, body))
    }
}
