-- A job's life, split by lifecycle: the wide request is written once and never again, what moves is narrow, and
-- what has ended lies in partitions by day that go as a whole. A job stands in exactly one of job_ready,
-- job_scheduled, job_lease and job_done.

-- An id is a ULID kept as uuid: its first 48 bits are milliseconds since 1970, so ids sort by age, and every
-- table whose key begins with a job's id can be partitioned by day on it.
CREATE FUNCTION ulid_floor(moment timestamptz) RETURNS uuid
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN (lpad(to_hex(floor(extract(epoch FROM moment) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid;

CREATE FUNCTION ulid_time(id uuid) RETURNS timestamptz
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN to_timestamp((('x' || lpad(left(replace(id::text, '-', ''), 12), 16, '0'))::bit(64)::bigint) / 1000.0);

-- Ids that Postgres gives out itself (deliveries): stamped now, the rest random.
CREATE FUNCTION ulid_now() RETURNS uuid
    LANGUAGE sql VOLATILE
    RETURN (left(replace(ulid_floor(clock_timestamp())::text, '-', ''), 12)
            || right(replace(gen_random_uuid()::text, '-', ''), 20))::uuid;

-- The request, as it will be sent. `body` is text: nobody queries it, jsonb would reorder it, and a single
-- escaped NUL in it would fail a whole batch.
CREATE TABLE job (
    id              uuid NOT NULL PRIMARY KEY,
    client_id       uuid NOT NULL,
    model           text NOT NULL,
    -- The model as /api/tags names it: the only form that may become a metric's label.
    model_label     text NOT NULL,
    load_key        text NOT NULL,
    path            text NOT NULL,
    body            text NOT NULL,
    priority        smallint NOT NULL DEFAULT 0 CHECK (priority BETWEEN -100 AND 100),
    -- NULL leaves it to the worker's own setting.
    max_attempts    smallint CHECK (max_attempts BETWEEN 1 AND 20),
    metadata        text,
    webhook_url     text,
    -- The receiver's lane; derived from client and origin, so that the relay can create it unasked.
    webhook_lane    uuid,
    webhook_origin  text,
    -- The states that are sent; NULL is all of them.
    webhook_events  text[],
    run_at          timestamptz,
    expires_at      timestamptz NOT NULL,
    retry_of        uuid,
    traceparent     text,
    created_at      timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT webhook_is_whole CHECK ((webhook_url IS NULL) = (webhook_lane IS NULL)
                                   AND (webhook_url IS NULL) = (webhook_origin IS NULL))
) PARTITION BY RANGE (id);

-- What may be claimed now. The claim walks one index in exactly its order: key, client, priority, age.
CREATE TABLE job_ready (
    client_id    uuid NOT NULL,
    job_id       uuid NOT NULL,
    load_key     text COLLATE "C" NOT NULL,
    priority     smallint NOT NULL,
    attempt      integer NOT NULL DEFAULT 0 CHECK (attempt >= 0),
    failures     smallint NOT NULL DEFAULT 0 CHECK (failures >= 0),
    rescues      smallint NOT NULL DEFAULT 0 CHECK (rescues >= 0),
    seq          integer NOT NULL CHECK (seq >= 1),
    bytes        integer NOT NULL,
    eligible_at  timestamptz NOT NULL,
    expires_at   timestamptz NOT NULL,
    PRIMARY KEY (client_id, job_id)
) WITH (fillfactor = 60, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000,
        autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 50000,
        autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 20000);
CREATE INDEX job_ready_claim ON job_ready (load_key, client_id, priority DESC, job_id);
CREATE INDEX job_ready_expiry ON job_ready (expires_at);

-- What waits for a time: a backoff, or the submitter's run_at.
CREATE TABLE job_scheduled (
    client_id    uuid NOT NULL,
    job_id       uuid NOT NULL,
    load_key     text COLLATE "C" NOT NULL,
    priority     smallint NOT NULL,
    attempt      integer NOT NULL DEFAULT 0 CHECK (attempt >= 0),
    failures     smallint NOT NULL DEFAULT 0 CHECK (failures >= 0),
    rescues      smallint NOT NULL DEFAULT 0 CHECK (rescues >= 0),
    seq          integer NOT NULL CHECK (seq >= 1),
    bytes        integer NOT NULL,
    due_at       timestamptz NOT NULL,
    eligible_at  timestamptz NOT NULL,
    expires_at   timestamptz NOT NULL,
    PRIMARY KEY (client_id, job_id)
) WITH (fillfactor = 60, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000,
        autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 20000);
CREATE INDEX job_scheduled_due ON job_scheduled (due_at);
CREATE INDEX job_scheduled_expiry ON job_scheduled (expires_at);

-- Numbers every claim ever made; a holder proves its own with each write.
CREATE SEQUENCE lease_no;

-- What a worker holds.
CREATE TABLE job_lease (
    job_id       uuid NOT NULL PRIMARY KEY,
    client_id    uuid NOT NULL,
    lease_no     bigint NOT NULL,
    worker_id    uuid NOT NULL,
    phase        text NOT NULL DEFAULT 'held' CHECK (phase IN ('held', 'loading', 'working')),
    cancel       boolean NOT NULL DEFAULT false,
    load_key     text COLLATE "C" NOT NULL,
    priority     smallint NOT NULL,
    attempt      integer NOT NULL CHECK (attempt >= 1),
    failures     smallint NOT NULL CHECK (failures >= 0),
    rescues      smallint NOT NULL CHECK (rescues >= 0),
    seq          integer NOT NULL CHECK (seq >= 1),
    bytes        integer NOT NULL,
    eligible_at  timestamptz NOT NULL,
    expires_at   timestamptz NOT NULL,
    claimed_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    loading_at   timestamptz,
    working_at   timestamptz,
    CONSTRAINT phase_has_its_times CHECK ((phase <> 'held') = (loading_at IS NOT NULL)
                                      AND (phase = 'working') = (working_at IS NOT NULL))
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000,
        autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 20000);
CREATE INDEX job_lease_worker ON job_lease (worker_id);
CREATE INDEX job_lease_cancel ON job_lease (worker_id) WHERE cancel;

-- The outcome. `lease_no` is the claim that brought it, NULL where nobody held the job.
CREATE TABLE job_done (
    job_id             uuid NOT NULL PRIMARY KEY,
    client_id          uuid NOT NULL,
    state              text NOT NULL CHECK (state IN ('done', 'failed', 'cancelled', 'expired')),
    lease_no           bigint,
    seq                integer NOT NULL CHECK (seq >= 2),
    attempt            integer NOT NULL CHECK (attempt >= 0),
    failures           smallint NOT NULL,
    rescues            smallint NOT NULL,
    error              text,
    error_code         text,
    prompt_tokens      bigint,
    completion_tokens  bigint,
    eligible_at        timestamptz NOT NULL,
    loading_at         timestamptz,
    working_at         timestamptz,
    completed_at       timestamptz NOT NULL,
    CONSTRAINT a_success_has_run CHECK (state <> 'done' OR (working_at IS NOT NULL AND lease_no IS NOT NULL AND error IS NULL)),
    CONSTRAINT a_failure_says_why CHECK (state <> 'failed' OR (error IS NOT NULL AND error_code IS NOT NULL))
) PARTITION BY RANGE (job_id);
CREATE INDEX job_done_list ON job_done (client_id, state, job_id DESC);

CREATE TABLE artifact (
    job_id        uuid NOT NULL,
    name          text NOT NULL,
    attempt       integer NOT NULL,
    content_type  text NOT NULL,
    size          bigint NOT NULL CHECK (size = octet_length(data)),
    sha256        bytea NOT NULL CHECK (octet_length(sha256) = 32),
    data          bytea NOT NULL,
    PRIMARY KEY (job_id, name)
) PARTITION BY RANGE (job_id);

-- One row a transition, written in its transaction; the relay moves it on and deletes it.
CREATE TABLE outbox (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job_id          uuid NOT NULL,
    seq             integer NOT NULL,
    attempt         integer NOT NULL,
    state           text NOT NULL,
    previous_state  text NOT NULL,
    error           text,
    at              timestamptz NOT NULL,
    CONSTRAINT the_first_is_queued CHECK ((seq = 1) = (previous_state = '') AND (seq > 1 OR (state = 'queued' AND attempt = 0))),
    CONSTRAINT a_legal_transition CHECK ((previous_state, state) IN (
        ('', 'queued'),
        ('queued', 'loading'), ('loading', 'working'), ('working', 'done'),
        ('loading', 'queued'), ('working', 'queued'),
        ('queued', 'failed'), ('loading', 'failed'), ('working', 'failed'),
        ('queued', 'cancelled'), ('loading', 'cancelled'), ('working', 'cancelled'),
        ('queued', 'expired')))
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000,
        autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 50000,
        autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 20000);
CREATE INDEX outbox_job ON outbox (job_id);

-- The history of every job, written by the relay.
CREATE TABLE job_event (
    job_id          uuid NOT NULL,
    seq             integer NOT NULL,
    attempt         integer NOT NULL,
    state           text NOT NULL,
    previous_state  text NOT NULL,
    error           text,
    at              timestamptz NOT NULL,
    PRIMARY KEY (job_id, seq)
) PARTITION BY RANGE (job_id);

-- Lists run newest first within a client.
CREATE INDEX job_list ON job (client_id, id DESC);

-- A job as the world sees it, whichever room it stands in: everything that shows a job selects from here, and so reads
-- all rooms in one statement. A job that waits for another try shows when its last attempt began.
CREATE VIEW job_now AS
SELECT j.id, j.client_id, j.model, j.load_key, j.priority, j.max_attempts, j.metadata, j.webhook_url, j.webhook_events,
       j.run_at, j.expires_at, j.retry_of, j.created_at,
       CASE WHEN d.job_id IS NOT NULL THEN d.state WHEN l.phase <> 'held' THEN l.phase ELSE 'queued' END AS state,
       coalesce(r.seq, s.seq, l.seq, d.seq) AS seq,
       coalesce(r.attempt, s.attempt, l.attempt, d.attempt) AS attempt,
       coalesce(r.failures, s.failures, l.failures, d.failures) AS failures,
       coalesce(r.rescues, s.rescues, l.rescues, d.rescues) AS rescues,
       coalesce(r.eligible_at, s.eligible_at, l.eligible_at, d.eligible_at) AS eligible_at,
       coalesce(l.cancel, d.state = 'cancelled', false) AS cancel_requested,
       CASE WHEN coalesce(r.attempt, s.attempt, l.attempt, d.attempt) > 0
            THEN coalesce(l.loading_at, d.loading_at, (
                SELECT min(e.at)
                FROM (SELECT job_id, attempt, state, at FROM job_event
                      UNION ALL SELECT job_id, attempt, state, at FROM outbox) AS e
                WHERE e.job_id = j.id AND e.state = 'loading'
                  AND e.attempt = coalesce(r.attempt, s.attempt, l.attempt, d.attempt)))
       END AS loading_at,
       coalesce(l.working_at, d.working_at) AS working_at,
       d.completed_at, d.error, d.error_code, d.prompt_tokens, d.completion_tokens
FROM job j
LEFT JOIN job_ready r ON r.client_id = j.client_id AND r.job_id = j.id
LEFT JOIN job_scheduled s ON s.client_id = j.client_id AND s.job_id = j.id
LEFT JOIN job_lease l ON l.job_id = j.id
LEFT JOIN job_done d ON d.job_id = j.id;
