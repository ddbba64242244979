//! Sends an example to a registered endpoint, when its owner wants to try it out. It is signed and sent as every webhook is,
//! but it is about no job, is never tried again, and changes nothing in Postgres.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use foreman_live::ExampleSent;
use foreman_store::{EndpointId, JobId, JobState, Store, StoreError};
use foreman_webhook::Event;
use tokio::sync::{Mutex, Semaphore};

use super::receivers::{Receivers, Withheld};
use super::sender::{Sender, Webhook};
use crate::worker::Worker;

const TASK: &str = "examples";

/// Examples under way at the same time. Each may wait for as long as a receiver may.
const AT_ONCE: usize = 32;

/// A model that an example names, and what else tells it from a webhook about a job.
const MODEL: &str = "example";
const SEQ: i32 = 1;
const METADATA: &str = r#"{"example":true}"#;

#[derive(Debug)]
pub(crate) struct Examples {
    store: Store,
    sender: Sender,
    receivers: Mutex<Receivers>,
    under_way: Semaphore,
}

/// Why no example was sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unsent {
    #[error("there is no such endpoint")]
    NoEndpoint,
    #[error("this worker sends as many examples as it may at the same time")]
    Busy,
    #[error("the secret or the headers of the endpoint cannot be read, or it was changed at this moment")]
    Withheld,
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Examples {
    pub(crate) fn new(worker: &Worker, sender: Sender) -> Arc<Self> {
        Arc::new(Self {
            store: worker.store.clone(),
            sender,
            receivers: Mutex::new(Receivers::new(worker.seal(), None)),
            under_way: Semaphore::new(AT_ONCE),
        })
    }

    /// Sends an example of a job's event, and waits for the receiver's answer.
    pub(crate) async fn send(&self, endpoint: EndpointId, state: JobState) -> Result<ExampleSent, Unsent> {
        let _permit = self.under_way.try_acquire().map_err(|_| Unsent::Busy)?;
        let receiver = self.store.endpoint_receiver(endpoint).await?.ok_or(Unsent::NoEndpoint)?;
        let address = {
            let mut receivers = self.receivers.lock().await;
            receivers.read(TASK, &self.store, [&receiver].into_iter()).await?;
            receivers.address(&receiver).map_err(|Withheld { .. }| Unsent::Withheld)?
        };
        let job_id = JobId::generate().to_string();
        let event = Event {
            job_id: &job_id,
            seq: SEQ.into(),
            state: state.as_str(),
            previous_state: None,
            timestamp: self.store.clock().now(),
            model: MODEL,
            attempt: 0,
            artifacts: &[],
            error: None,
            metadata: Some(METADATA),
        };
        let body = Bytes::from(event.to_json());
        let began = Instant::now();
        let webhook = Webhook { job_id: &job_id, seq: SEQ, body, traceparent: None };
        let received = self.sender.send(&address, webhook).await;
        Ok(ExampleSent {
            status: received.reaction.status(),
            error_code: received.reaction.error_code().map(str::to_owned),
            latency_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
            response: received.response.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
        })
    }
}
