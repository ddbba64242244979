-- Webhooks: what is still to be sent moves in one narrow table; every attempt ever made is kept beside its job
-- until the job's day goes.

-- One receiver: a client together with the origin (scheme, host, port) of the URLs it names.
CREATE TABLE webhook_lane (
    id            uuid PRIMARY KEY,
    client_id     uuid NOT NULL,
    origin        text NOT NULL,
    -- Whether the last attempt succeeded; NULL before the first. Unproven and failing lanes share a part of the pool.
    healthy       boolean,
    last_used_at  timestamptz NOT NULL DEFAULT now(),
    UNIQUE (client_id, origin)
);

CREATE SEQUENCE delivery_claim_no;

CREATE TABLE webhook_delivery (
    id               uuid NOT NULL DEFAULT ulid_now() PRIMARY KEY,
    lane_id          uuid NOT NULL,
    job_id           uuid NOT NULL,
    seq              integer NOT NULL,
    -- A terminal event has the whole retry schedule; the others few attempts, so that they cannot hold it back.
    terminal         boolean NOT NULL,
    -- Asked for again by a person: the stated exception from the order.
    redelivery       boolean NOT NULL DEFAULT false,
    attempts         smallint NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    -- When it may be claimed. A claim leaves it alone: it stands in an index, and a claim that touches none is written
    -- in place.
    next_attempt_at  timestamptz NOT NULL,
    -- The claim in force and its end, NULL while nobody sends.
    claim_no         bigint,
    claimed_at       timestamptz,
    claimed_until    timestamptz,
    created_at       timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT a_claim_is_whole CHECK (num_nulls(claim_no, claimed_at, claimed_until) IN (0, 3))
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000,
        autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 50000,
        autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 20000);
CREATE INDEX webhook_delivery_due ON webhook_delivery (lane_id, next_attempt_at);
CREATE INDEX webhook_delivery_order ON webhook_delivery (job_id, lane_id, seq);

-- Every attempt, and as a last row without an answer every delivery that ended unsent. The row that ended a
-- delivery says `delivered` or `failed`, the others `retry`.
CREATE TABLE webhook_attempt (
    job_id       uuid NOT NULL,
    delivery_id  uuid NOT NULL,
    attempt      smallint NOT NULL,
    seq          integer NOT NULL,
    lane_id      uuid NOT NULL,
    url          text NOT NULL,
    state        text NOT NULL,
    at           timestamptz NOT NULL,
    outcome      text NOT NULL CHECK (outcome IN ('retry', 'delivered', 'failed')),
    status       smallint,
    error_code   text,
    latency_ms   integer,
    response     bytea,
    PRIMARY KEY (job_id, delivery_id, attempt),
    CONSTRAINT a_failure_has_a_code CHECK ((outcome = 'delivered') = (error_code IS NULL))
) PARTITION BY RANGE (job_id);
CREATE INDEX webhook_attempt_delivery ON webhook_attempt (delivery_id);
-- The receivers that answered 410, hardly any: each claim asks whether its job has one.
CREATE INDEX webhook_attempt_gone ON webhook_attempt (job_id) WHERE outcome = 'failed' AND error_code = 'gone';
