//! Frequent steps of the store's tests: jobs, and what the holder of a host does with them.

use std::{collections::HashMap, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use foreman_store::{
    Acceptance, Claimed, Completion, Credentials, EndpointSettings, Exit, Heartbeat, Holder, HostOffer,
    JobId, JobRequest, Lease, NewJob, Offer, Permit, Phase, Reason, Rescued, Seal, Settled, Store,
    StoreError, UserName, WorkerId, ulid_floor,
};

use foreman_webhook::ReceiverUrl;

use super::Db;

/// The load key of [`Db::new_job`].
pub const LOAD_KEY: &str = "tiny-a";

/// The TTL of [`Db::holder`]. No test renews its row, and a busy machine may take long for the steps between.
const TTL: Duration = Duration::from_secs(120);

/// The Ollama host that [`Db::holder`] holds.
const HOST: &str = "test-host";

/// An endpoint at this URL that gets every event.
pub fn endpoint_at(url: &str) -> EndpointSettings {
    EndpointSettings {
        url: url.to_owned(),
        origin: ReceiverUrl::parse(url).expect("the URL is one").origin(),
        description: String::new(),
        events: None,
        models: None,
        rate_limit: None,
        is_disabled: false,
    }
}

impl Db {
    /// A plain chat job of [`Db::client`] that may be changed before it is accepted.
    pub fn new_job(&self) -> NewJob {
        self.job(self.request())
    }

    /// The same, with an id from the clock of this handle.
    pub fn new_job_by(&self, store: &Store) -> NewJob {
        NewJob { id: store.clock().next_job_id(), ..self.new_job() }
    }

    /// A job with this request.
    pub fn job(&self, request: JobRequest) -> NewJob {
        NewJob {
            id: self.store.clock().next_job_id(),
            request,
            api: None,
            run_at: None,
            expires_at: Utc::now() + TimeDelta::days(7),
            retry_of: None,
            traceparent: None,
            idempotency: None,
        }
    }

    /// The request of a plain chat job of [`Db::client`].
    pub fn request(&self) -> JobRequest {
        JobRequest {
            client: self.client,
            user: UserName::default(),
            model: LOAD_KEY.to_owned(),
            model_label: LOAD_KEY.to_owned(),
            load_key: LOAD_KEY.to_owned(),
            path: "/api/chat".to_owned(),
            body: r#"{"model":"tiny-a","messages":[{"role":"user","content":"hello"}],"stream":true}"#
                .to_owned(),
            priority: 0,
            max_attempts: Some(3),
            metadata: None,
            receiver: None,
        }
    }

    /// Makes a client with a key.
    pub async fn new_client(&self, name: &str, is_admin: bool) -> Credentials {
        let made = self.store.create_client(&Seal::new(&[7; 32]), name, is_admin).await;
        made.expect("the name is new and valid")
    }

    /// Accepts this many plain jobs.
    pub async fn accept(&self, count: usize) -> Vec<JobId> {
        let jobs: Vec<NewJob> = (0..count).map(|_| self.new_job()).collect();
        self.accept_all(&jobs).await
    }

    /// Accepts these jobs. Panics if one of them is refused.
    pub async fn accept_all(&self, jobs: &[NewJob]) -> Vec<JobId> {
        let answers = self.store.accept(jobs).await.expect("the jobs can be accepted");
        answers
            .into_iter()
            .map(|answer| match answer {
                Acceptance::Accepted(job) => job,
                refused => panic!("{refused:?}"),
            })
            .collect()
    }

    /// A live worker with a TTL of two minutes, which takes the test's host over from any other worker.
    pub async fn holder(&self) -> Holder {
        self.holder_of(HOST).await
    }

    /// The same with another host.
    pub async fn holder_of(&self, host: &str) -> Holder {
        let worker = WorkerId::generate();
        self.store
            .register_worker(worker, host, &["run", "janitor"], TTL, None)
            .await
            .expect("a worker row can be written");
        self.run(&format!("UPDATE host SET holder = NULL WHERE id = '{host}'")).await;
        let offer = HostOffer { id: host, url: "http://127.0.0.1:11434", slots: 4, ttl: TTL };
        self.store
            .take_host(worker, &offer, &[])
            .await
            .expect("a host row can be written")
            .expect("nobody holds it")
    }

    /// The row of a worker as it is now.
    pub async fn heartbeat(&self, holder: &Holder) -> Heartbeat<WorkerId> {
        let heartbeats = self.store.heartbeats().await.expect("the workers can be read");
        heartbeats.into_iter().find(|one| one.id == holder.worker).expect("the worker has a row")
    }

    /// Rescues the jobs of this worker as if it were dead.
    pub async fn rescue_from(&self, holder: &Holder) -> Rescued {
        let dead = self.heartbeat(holder).await;
        self.store.rescue(&[dead]).await.expect("a rescue gets an answer")
    }

    /// Makes this worker look as if it had been silent for an hour, or as if Postgres' clock had been set.
    pub async fn silence(&self, holder: &Holder) {
        let worker = holder.worker.uuid();
        self.run(&format!("UPDATE worker SET renewed_at = now() - interval '1 hour' WHERE id = '{worker}'"))
            .await;
    }

    /// An offer to take this many of [`Db::client`]'s plain jobs, starting at the first.
    pub fn offer(&self, at_most: i32) -> Offer {
        let lower_bound = ulid_floor(DateTime::UNIX_EPOCH);
        Offer {
            load_key: LOAD_KEY.into(),
            client: self.client,
            user: UserName::default(),
            priority: 0,
            sync: false,
            lower_bound,
            at_most,
        }
    }

    /// Renews this worker's row.
    pub async fn renew(&self, holder: &Holder) {
        let worker = holder.worker.uuid();
        self.run(&format!("UPDATE worker SET renewed_at = now() WHERE id = '{worker}'")).await;
    }

    /// Claims up to `limit` of [`Db::client`]'s plain jobs, and then of its sync calls.
    pub async fn claim(&self, holder: &Holder, limit: usize) -> Vec<Claimed> {
        let offer = self.offer(i32::try_from(limit).expect("a claim is small"));
        let calls = Offer { sync: true, ..offer.clone() };
        self.store.claim(holder, &[offer, calls], limit, Permit::Ask).await.expect("a claim gets an answer")
    }

    /// Claims one plain job and begins it.
    pub async fn start(&self, holder: &Holder) -> Lease {
        let lease = self.claim(holder, 1).await.pop().expect("there is a job to claim").lease;
        self.store.begin(&[(&lease, Phase::Working)]).await.expect("a beginning gets an answer");
        lease
    }

    /// Settles these leases, whose attempts have used nothing.
    pub async fn settle(&self, exits: &[(Lease, Exit)]) -> Result<Vec<Settled>, StoreError> {
        self.store.settle(exits, &HashMap::new()).await
    }
}

/// A success with a tiny result that no test looks at.
pub fn success() -> Exit {
    Exit::Done(Completion {
        completion: br#"{"message":{"role":"assistant","content":"hi"},"done":true}"#.to_vec(),
        content_type: "application/json".to_owned(),
        prompt_tokens: Some(3),
        completion_tokens: Some(1),
    })
}

/// A reason to fail, retry or hand back.
pub fn reason() -> Reason {
    Reason { error: "the runner stopped".to_owned(), code: "runner_stopped".to_owned() }
}

/// The same lease again, for a holder that repeats a settle because the answer was lost.
pub fn copy_of(lease: &Lease) -> Lease {
    Lease { job_id: lease.job_id, no: lease.no }
}
