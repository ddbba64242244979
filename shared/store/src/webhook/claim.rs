//! Claims deliveries. A claim is leased, numbered and counted before anything is sent. So a dispatcher that dies in the
//! middle has used up an attempt, and a slow one cannot overwrite the report of its successor.

use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::db::clock::seconds;
use crate::db::connect::Store;
use crate::db::error::StoreError;
use crate::db::partition::end_of_tomorrow;
use crate::db::wake::Write;
use crate::id::{ClientId, DeliveryId, EndpointId, JobId, LaneId};
use crate::job::artifact::ArtifactView;
use crate::job::history::JobEvent;
use crate::job::state::JobState;
use crate::webhook::lane::OPENS_AT;
use crate::webhook::receiver::{Receiver, SecretOwner, query_with_receivers};

/// A delivery with more bytes of artifacts than this is heavy: its artifacts are read by themselves, and its bytes are
/// bounded, in memory and on the line. For the light ones a bound on their number is enough.
pub(crate) const LIGHT: i64 = 16 << 10;

/// So many bytes of artifacts are read at once: a thin line is not filled with more than can be sent soon.
pub const PIECE: u64 = 512 << 10;

/// How much may be claimed of one lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneOffer {
    pub lane: LaneId,
    /// See [`KnownLane`](crate::KnownLane).
    pub since: DateTime<Utc>,
    pub at_most: i32,
    /// A heavy delivery of the lane is claimed if those claimed before it bring fewer bytes than this. So the first one
    /// fits, whatever its size, where this is above zero.
    pub heavy_bytes: i64,
}

/// The terms of a claim, the same for every delivery in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeliveryTerms {
    /// How long the claim holds. An attempt takes less, including all the work around it.
    pub lease: Duration,
    /// Attempts at a job's last event.
    pub max_attempts_terminal: i16,
    /// Attempts at any other.
    pub max_attempts: i16,
    /// Artifacts of at most this many bytes are sent inside the webhook.
    pub inline_limit: i64,
}

/// The right to report on one attempt. The report consumes it.
#[derive(Debug, PartialEq, Eq)]
pub struct DeliveryClaim {
    pub id: DeliveryId,
    pub(crate) no: i64,
}

/// A claimed delivery with all that is needed to send it.
#[derive(Debug)]
pub struct Delivery {
    pub claim: DeliveryClaim,
    pub receiver: Receiver,
    pub traceparent: Option<String>,
    /// The number of this attempt, from 1.
    pub attempt: i16,
    /// Whether the event is the job's last.
    pub terminal: bool,
    /// Whether a person asked for the webhook again.
    pub redelivery: bool,
    /// The age of the delivery at the claim.
    pub age: Duration,
    /// The age of the transition at the claim.
    pub event_age: Duration,
    pub job: JobId,
    /// As the client wrote it.
    pub model: String,
    /// A JSON object as it came.
    pub metadata: Option<String>,
    pub event: JobEvent,
    /// Whether the event has its artifacts. Otherwise they are read after the claim.
    pub is_complete: bool,
    /// The bytes of the artifacts that are sent inside the webhook.
    pub artifact_bytes: u64,
    /// Whether it tries out a lane that is held back. Until its report is written, it is the only one there.
    pub is_probe: bool,
    /// Whether its lane is open. Then a failure of this attempt is not counted against the delivery.
    pub lane_is_open: bool,
}

impl Delivery {
    /// Whether its artifacts must be read by themselves ([`Store::artifacts`]).
    pub fn is_heavy(&self) -> bool {
        self.artifact_bytes > LIGHT.unsigned_abs()
    }
}

/// The delivery of a row with these columns, for use where `?` returns an `Option`: each column is NULL where a row is about
/// something else.
macro_rules! delivery_of {
    ($row:ident) => {
        Delivery {
            claim: DeliveryClaim { id: $row.id?, no: $row.no? },
            receiver: Receiver {
                lane: $row.lane?,
                client: $row.client?,
                url: $row.url?,
                signed_by: $row.signed_by?,
                endpoint: $row.endpoint,
                changed_at: $row.changed_at,
            },
            traceparent: $row.traceparent,
            attempt: $row.number?,
            terminal: $row.terminal?,
            redelivery: $row.redelivery?,
            age: seconds($row.age?),
            event_age: seconds($row.event_age?),
            job: $row.job?,
            model: $row.model?,
            metadata: $row.metadata,
            artifact_bytes: $row.bytes?.unsigned_abs(),
            is_probe: $row.is_probe?,
            lane_is_open: $row.is_open?,
            is_complete: $row.is_complete?,
            event: JobEvent {
                seq: $row.seq?,
                attempt: $row.attempt?,
                state: $row.state?,
                previous_state: $row.previous_state?.parse().ok(),
                error: $row.error,
                at: $row.at?,
                artifacts: ArtifactView::of_arrays(
                    $row.names,
                    $row.content_types,
                    $row.sizes,
                    $row.digests,
                    $row.data,
                ),
            },
        }
    };
}
pub(crate) use delivery_of;

/// A delivery that the claim ended, because nothing may be sent for it any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndedUnsent {
    pub job: JobId,
    pub seq: i32,
    /// `dispatcher_lost`, `gone` or `endpoint_deleted`.
    pub code: &'static str,
}

/// What a claim brought.
#[derive(Debug, Default)]
pub struct ClaimedDeliveries {
    pub to_send: Vec<Delivery>,
    pub ended: Vec<EndedUnsent>,
    /// Earlier attempts that no dispatcher reported on. They are counted and logged.
    pub lost: usize,
}

impl Store {
    /// Claims due deliveries of these lanes, those due longest first, and of each lane at most as many as offered.
    ///
    /// An event waits for the earlier events of its job to the same receiver. A redelivery does not wait, and nothing
    /// waits for it. A claim whose end has passed is taken over: its attempt is logged as `dispatcher_lost` and stays
    /// counted, and if it was the last attempt, the delivery fails here, unless its lane is open. After a 410 the later events of the job end here
    /// unsent, and so do those for an endpoint that was deleted. Nothing is claimed for a disabled endpoint.
    ///
    /// A lane that is held back gives one delivery from its `not_before` on, whatever was offered, and an endpoint with a rate
    /// limit as many as have slots. Their rows are locked meanwhile, so this holds for all dispatchers together.
    ///
    /// Heavy deliveries are taken from the lanes in turn: the first of each lane, then the second of each, and so on,
    /// while those before bring fewer than `heavy_bytes` in all.
    pub async fn claim_deliveries(
        &self,
        offers: &[LaneOffer],
        heavy_bytes: i64,
        terms: DeliveryTerms,
    ) -> Result<ClaimedDeliveries, StoreError> {
        let lanes: Vec<_> = offers.iter().map(|offer| offer.lane.uuid()).collect();
        let since: Vec<_> = offers.iter().map(|offer| offer.since).collect();
        let at_most: Vec<_> = offers.iter().map(|offer| offer.at_most).collect();
        let of_lane: Vec<_> = offers.iter().map(|offer| offer.heavy_bytes).collect();
        // Few small artifacts come with the claim, which saves a lone webhook the wait for a second answer.
        let webhooks: i64 = at_most.iter().copied().map(i64::from).sum();
        let small = (i64::try_from(PIECE).unwrap_or(i64::MAX) / webhooks.max(1)).min(LIGHT);
        // Where the job's id leads to a row, lanes are compared with IS TRUE, because no index matches that form.
        // Otherwise a plan made while the tables were small might use an index on the lane, and read all rows of a lane.
        let rows = query_with_receivers!(
            r#"-- claim_deliveries
            WITH lane AS MATERIALIZED (
                SELECT t.*, l.id IS NOT NULL AS is_gated
                FROM unnest($1::uuid[], $2::timestamptz[], $3::integer[], $7::bigint[])
                    WITH ORDINALITY AS t (lane_id, since, at_most, heavy_bytes, turn)
                LEFT JOIN LATERAL (SELECT * FROM webhook_endpoint WHERE id = t.lane_id LIMIT 1) AS w ON true
                LEFT JOIN LATERAL (
                    SELECT id FROM webhook_lane l
                    WHERE l.id = t.lane_id AND (l.not_before IS NOT NULL OR w.rate_limit IS NOT NULL) LIMIT 1
                ) AS l ON true
                WHERE w.disabled_at IS NULL
            ), gate AS MATERIALIZED (
                SELECT l.id, l.failures >= $11 AS is_open, l.not_before, limited.spacing,
                       greatest(l.next_slot_at, now() - limited.spacing * limited.burst) AS paid_until
                FROM lane
                JOIN webhook_lane l ON l.id = lane.lane_id
                LEFT JOIN LATERAL (
                    SELECT rate_spacing(w.rate_limit) AS spacing, rate_burst(w.rate_limit) AS burst
                    FROM webhook_endpoint w
                    WHERE w.id = lane.lane_id AND w.rate_limit IS NOT NULL
                ) AS limited ON true
                WHERE lane.is_gated
                FOR NO KEY UPDATE OF l SKIP LOCKED
            ), offer AS MATERIALIZED (
                SELECT lane.lane_id, lane.since, lane.heavy_bytes, lane.turn, coalesce(gate.is_open, false) AS is_open,
                       gate.not_before IS NOT NULL AS is_probe,
                       CASE WHEN NOT lane.is_gated THEN lane.at_most
                            WHEN gate.not_before > now() THEN 0
                            ELSE least(CASE WHEN gate.not_before IS NULL THEN lane.at_most ELSE 1 END,
                                       CASE WHEN gate.spacing IS NULL THEN lane.at_most
                                            ELSE greatest(floor(extract(epoch FROM now() - gate.paid_until)
                                                                / extract(epoch FROM gate.spacing)), 0)::integer END)
                       END AS at_most
                FROM lane LEFT JOIN gate ON gate.id = lane.lane_id
                WHERE gate.id IS NOT NULL OR NOT lane.is_gated
            ), picked AS MATERIALIZED (
                SELECT d.*, offer.turn, offer.heavy_bytes, offer.is_open, offer.is_probe
                FROM offer
                CROSS JOIN LATERAL (
                    SELECT q.id, q.lane_id, q.job_id, q.seq, q.terminal, q.redelivery, q.attempts, q.claim_no,
                           q.claimed_at, q.created_at, q.next_attempt_at
                    FROM webhook_delivery q
                    WHERE q.lane_id = offer.lane_id
                      AND q.next_attempt_at >= offer.since AND q.next_attempt_at <= now()
                      AND q.job_id < $12
                      AND (q.claim_no IS NULL OR q.claimed_until <= now())
                      AND (q.redelivery OR NOT EXISTS (
                          SELECT FROM webhook_delivery e
                          WHERE e.job_id = q.job_id AND e.seq < q.seq AND (e.lane_id = q.lane_id) IS TRUE
                            AND NOT e.redelivery))
                    ORDER BY q.next_attempt_at LIMIT offer.at_most FOR UPDATE SKIP LOCKED
                ) AS d
            ), judged AS MATERIALIZED (
                SELECT p.*, receiver.url, receiver.signed_by, receiver.endpoint_id, receiver.changed_at, j.client_id, j.model, j.metadata, j.traceparent,
                       e.attempt, e.state, e.previous_state, e.error, e.at, made.bytes,
                       CASE WHEN made.bytes > $9 THEN made.bytes ELSE 0 END AS heavy,
                       CASE WHEN p.claim_no IS NOT NULL AND NOT p.is_open
                             AND p.attempts >= CASE WHEN p.terminal THEN $5::smallint ELSE $6 END
                            THEN 'dispatcher_lost'
                            WHEN NOT p.redelivery AND EXISTS (
                                SELECT FROM webhook_attempt a
                                WHERE a.job_id = p.job_id AND a.outcome = 'failed' AND a.error_code = 'gone'
                                  AND (a.lane_id = p.lane_id) IS TRUE AND a.job_id < $12)
                            THEN 'gone'
                            WHEN receiver.deleted THEN 'endpoint_deleted'
                       END AS ends_as
                FROM picked p
                CROSS JOIN LATERAL (SELECT * FROM job WHERE id = p.job_id AND id < $12 LIMIT 1) AS j
                CROSS JOIN "# + RECEIVER OF "p.lane_id" + r#"
                CROSS JOIN LATERAL (
                    SELECT attempt, state, previous_state, error, at FROM job_event
                    WHERE job_id = p.job_id AND seq = p.seq AND job_id < $12 LIMIT 1
                ) AS e
                CROSS JOIN LATERAL (
                    SELECT coalesce(sum(size), 0)::bigint AS bytes FROM artifact
                    WHERE p.terminal AND job_id = p.job_id AND size <= $10 AND job_id < $12
                ) AS made
            ), of_lane AS (
                SELECT *, row_number() OVER line AS nth, sum(heavy) OVER line - heavy AS before
                FROM judged WINDOW line AS (PARTITION BY turn, heavy > 0 ORDER BY next_attempt_at, id)
            ), of_all AS (
                SELECT *, sum(heavy) OVER (ORDER BY nth, turn, heavy) - heavy AS before_in_all
                FROM of_lane WHERE heavy = 0 OR before < heavy_bytes
            ), fitting AS MATERIALIZED (
                SELECT * FROM of_all WHERE heavy = 0 OR before_in_all < $8::bigint
            ), logged AS (
                INSERT INTO webhook_attempt (job_id, delivery_id, attempt, seq, lane_id, endpoint_id, url, state, at, outcome,
                                             error_code)
                SELECT job_id, id, attempts, seq, lane_id, endpoint_id, url, state, claimed_at,
                       CASE ends_as WHEN 'dispatcher_lost' THEN 'failed' ELSE 'retry' END, 'dispatcher_lost'
                FROM fitting WHERE claim_no IS NOT NULL
                UNION ALL
                SELECT job_id, id, attempts + 1, seq, lane_id, endpoint_id, url, state, now(), 'failed', ends_as
                FROM fitting WHERE ends_as IN ('gone', 'endpoint_deleted')
            ), ended AS (
                DELETE FROM webhook_delivery d USING fitting p WHERE d.id = p.id AND p.ends_as IS NOT NULL
            ), claimed AS (
                UPDATE webhook_delivery d
                SET attempts = d.attempts + 1, claim_no = nextval('delivery_claim_no'), claimed_at = now(),
                    claimed_until = now() + make_interval(secs => $4)
                FROM fitting p WHERE d.id = p.id AND p.ends_as IS NULL
                RETURNING p.*, d.claim_no AS no, d.attempts AS number
            ), passed AS (
                UPDATE webhook_lane l
                SET not_before = CASE WHEN gate.not_before IS NOT NULL THEN now() + make_interval(secs => $4) END,
                    next_slot_at = gate.paid_until + gate.spacing * taken.deliveries
                FROM gate JOIN (SELECT lane_id, count(*) AS deliveries FROM claimed GROUP BY lane_id) AS taken
                  ON taken.lane_id = gate.id
                WHERE l.id = gate.id
            )
            SELECT id AS "id?: DeliveryId", no, number, claim_no IS NOT NULL AS "lost!", ends_as,
                   lane_id AS "lane?: LaneId", client_id AS "client?: ClientId", terminal, redelivery,
                   extract(epoch FROM now() - created_at)::float8 AS age,
                   extract(epoch FROM now() - at)::float8 AS event_age,
                   url, signed_by AS "signed_by?: SecretOwner", endpoint_id AS "endpoint: EndpointId", changed_at, traceparent,
                   job_id AS "job?: JobId", model, metadata, seq, attempt, state AS "state?: JobState", previous_state,
                   error, at, bytes, is_open, is_probe, state <> 'done' OR bytes <= $13 AS is_complete,
                   made.names, made.content_types, made.sizes, made.digests, made.data AS "data: Vec<Option<Vec<u8>>>"
            FROM (SELECT * FROM claimed
                  UNION ALL
                  SELECT fitting.*, NULL, NULL FROM fitting WHERE ends_as IS NOT NULL) AS t
            CROSS JOIN LATERAL (
                SELECT array_agg(name) AS names, array_agg(content_type) AS content_types, array_agg(size) AS sizes,
                       array_agg(sha256) AS digests, array_agg(data) AS data
                FROM (SELECT name, content_type, size, sha256, CASE WHEN size <= $10 THEN data END AS data FROM artifact
                      WHERE t.state = 'done' AND t.bytes <= $13
                        AND job_id = t.job_id AND attempt = t.attempt AND job_id < $12 ORDER BY name) AS a
            ) AS made"#,
            &lanes,                      // $1 lane_id
            &since,                      // $2 since
            &at_most,                    // $3 at_most
            terms.lease.as_secs_f64(),   // $4 seconds of the lease
            terms.max_attempts_terminal, // $5 max_attempts_terminal
            terms.max_attempts,          // $6 max_attempts
            &of_lane,                    // $7 heavy_bytes of the lane
            heavy_bytes,                 // $8 heavy bytes in all
            LIGHT,                       // $9 bytes of a light one
            terms.inline_limit,          // $10 inline_limit
            OPENS_AT,                    // $11 failures of an open lane
            end_of_tomorrow(self.clock().now()).uuid(), // $12 no job is of a later day
            small,                       // $13 bytes of artifacts that come with the claim
        )
        .fetch_all(self.once())
        .await?;
        let lost = rows.iter().filter(|row| row.lost).count();
        let (claimed, ended): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| row.no.is_some());
        let to_send = claimed.into_iter().filter_map(|row| Some(delivery_of!(row))).collect();
        let ended = ended.into_iter().filter_map(|row| {
            Some(EndedUnsent {
                job: row.job?,
                seq: row.seq?,
                code: match row.ends_as.as_deref() {
                    Some("gone") => "gone",
                    Some("endpoint_deleted") => "endpoint_deleted",
                    _ => "dispatcher_lost",
                },
            })
        });
        let claimed = ClaimedDeliveries { to_send, ended: ended.collect(), lost };
        if !claimed.ended.is_empty() {
            self.tell([Write::GivenUpUnsent]);
        }
        Ok(claimed)
    }

    /// Makes a claim hold for `lease` from now on, and with it the gate of a lane that it tries out. Returns false if the claim
    /// is no longer in force.
    pub async fn extend_claim(
        &self,
        claim: &DeliveryClaim,
        is_probe: bool,
        lease: Duration,
    ) -> Result<bool, StoreError> {
        let extended = sqlx::query_scalar!(
            r#"-- extend_claim
            WITH extended AS (
                UPDATE webhook_delivery SET claimed_until = now() + make_interval(secs => $3)
                WHERE id = $1 AND claim_no = $2
                RETURNING lane_id, claimed_until
            ), gate AS (
                UPDATE webhook_lane l SET not_before = e.claimed_until
                FROM extended e WHERE $4 AND l.id = e.lane_id AND l.not_before < e.claimed_until
            )
            SELECT EXISTS (SELECT FROM extended) AS "extended!""#,
            claim.id.uuid(),
            claim.no,
            lease.as_secs_f64(),
            is_probe,
        )
        .fetch_one(self.once())
        .await?;
        Ok(extended)
    }
}
