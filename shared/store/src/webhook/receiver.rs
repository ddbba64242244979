//! Who receives the webhooks of a job: the URL that the job names, and the registered endpoints of its client. This file alone
//! says where receivers come from. Every statement that needs the receivers of a job takes them from
//! [`query_with_receivers`], so that a further kind of receiver is one more `SELECT` there.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::id::{ClientId, EndpointId, LaneId};
use crate::job::state::{JobState, states};

/// The receiver that a job names itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobReceiver {
    pub url: String,
    /// `scheme://host:port` of the URL.
    pub origin: String,
    /// The states to tell of; `None` for all of them.
    pub events: Option<Vec<JobState>>,
}

/// The receiver of a claimed delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receiver {
    pub lane: LaneId,
    /// Whose jobs it is told of.
    pub client: ClientId,
    pub url: String,
    pub signed_by: SecretOwner,
    /// `None` for a URL that the job names.
    pub endpoint: Option<EndpointId>,
    /// When its endpoint was last changed. Only the secrets and headers of that moment belong to this URL.
    pub changed_at: Option<DateTime<Utc>>,
}

/// Whose secrets sign the webhooks to a receiver. A registered endpoint has its own. For a URL that a job names these are the
/// secrets of its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, sqlx::Type)]
#[sqlx(transparent)]
pub struct SecretOwner(pub(crate) Uuid);

/// Runs `sqlx::query!`, and puts the receivers of a job where the text says `RECEIVERS`.
///
/// There must be a row `j` with the job's `client_id` and its `webhook_` columns. The statement joins to it a row
/// `receiver` for each receiver:
///
/// - `lane_id`, `origin`: the lane
/// - `url`, `signed_by`, `endpoint_id`, `changed_at`: what a claimed delivery needs, see [`Receiver`]
/// - `events`, `models`: the states and the models to tell of, NULL for all of them
/// - `deleted`: whether nothing may be sent there any more
///
/// A statement that begins with a delivery says `RECEIVER OF` and the lane instead. It gets the one receiver of that lane, by
/// the endpoint's key. So it never sends to one receiver what was made for another, and leaves alone what was made for a
/// kind of receiver that only a later version knows.
macro_rules! query_with_receivers {
    ($before:literal + RECEIVERS + $after:literal $($arguments:tt)*) => {
        query_with_receivers!(
            @where ["j.webhook_lane IS NOT NULL"] ["w.client_id = j.client_id"]
            $before, $after $($arguments)*
        )
    };
    ($before:literal + RECEIVER OF $lane:literal + $after:literal $($arguments:tt)*) => {
        query_with_receivers!(
            @where ["j.webhook_lane = " + $lane] ["(w.client_id = j.client_id) IS TRUE AND w.id = " + $lane]
            $before, $after $($arguments)*
        )
    };
    (@where [$($of_job:tt)*] [$($of_client:tt)*] $before:literal, $after:literal $($arguments:tt)*) => {
        sqlx::query!(
            $before + "LATERAL (
                SELECT j.webhook_lane AS lane_id, j.webhook_origin AS origin, j.webhook_url AS url,
                       j.client_id AS signed_by, NULL::uuid AS endpoint_id, NULL::timestamptz AS changed_at,
                       j.webhook_events AS events, NULL::text[] AS models, false AS deleted
                WHERE " + $($of_job)* + "
                UNION ALL
                SELECT w.id, w.origin, w.url, w.id, w.id, w.updated_at, w.events, w.models, w.deleted_at IS NOT NULL
                FROM webhook_endpoint w WHERE " + $($of_client)* + "
            ) AS receiver" + $after
            $($arguments)*
        )
    };
}
pub(crate) use query_with_receivers;

impl JobReceiver {
    /// The receiver in the columns of `job`, if it names one.
    pub(crate) fn from_columns(
        url: Option<String>,
        origin: Option<String>,
        events: Option<Vec<String>>,
    ) -> Option<Self> {
        let (url, origin) = url.zip(origin)?;
        Some(Self { url, origin, events: events.as_deref().map(states) })
    }

    /// The lane of this receiver where the job is this client's.
    pub(crate) fn lane(&self, client: ClientId) -> LaneId {
        LaneId::derive(client, &self.origin)
    }

    /// The names of the states to tell of, with commas between them.
    pub(crate) fn event_names(&self) -> Option<String> {
        let events = self.events.as_ref()?;
        Some(events.iter().map(|state| state.as_str()).collect::<Vec<_>>().join(","))
    }
}

impl From<EndpointId> for SecretOwner {
    fn from(endpoint: EndpointId) -> Self {
        Self(endpoint.uuid())
    }
}

impl From<ClientId> for SecretOwner {
    fn from(client: ClientId) -> Self {
        Self(client.uuid())
    }
}
