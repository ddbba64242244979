-- Registered endpoints: receivers that a client sets up once, for all of its jobs. An endpoint's id is the id of its lane too.

-- Whoever waits for a lock stops everybody who comes after. So give way to readers (a backup, say); `foreman migrate`
-- tries again.
SET LOCAL lock_timeout = '50ms';

CREATE TABLE webhook_endpoint (
    id                uuid PRIMARY KEY,
    client_id         uuid NOT NULL,
    description       text NOT NULL CHECK (length(description) <= 200),
    url               text NOT NULL CHECK (octet_length(url) <= 2048),
    -- scheme://host:port of the URL.
    origin            text NOT NULL,
    -- The states to tell of; NULL for all of them.
    events            text[] CHECK (cardinality(events) > 0),
    -- The models whose jobs to tell of; NULL for all of them.
    models            text[] CHECK (cardinality(models) > 0),
    -- The names of the client's own headers, and sealed the headers themselves: their values are often secrets.
    header_names      text[] NOT NULL DEFAULT '{}',
    headers           bytea,
    -- Webhooks per second; NULL for no limit.
    rate_limit        integer CHECK (rate_limit BETWEEN 1 AND 1000),
    -- The secrets, sealed. The previous one also signs until `previous_until`.
    secret            bytea NOT NULL,
    secret_hint       text NOT NULL,
    previous_secret   bytea,
    previous_until    timestamptz,
    -- A disabled endpoint gathers its webhooks. `asked`: by its client; `gone`: it answered 410.
    disabled_at       timestamptz,
    disabled_because  text CHECK (disabled_because IN ('asked', 'gone')),
    created_at        timestamptz NOT NULL DEFAULT now(),
    updated_at        timestamptz NOT NULL DEFAULT now(),
    -- Nobody sees a deleted endpoint any more. Its row stays until its last delivery has ended.
    deleted_at        timestamptz,
    CONSTRAINT headers_are_whole CHECK ((cardinality(header_names) = 0) = (headers IS NULL)),
    CONSTRAINT previous_secret_has_an_end CHECK ((previous_secret IS NULL) = (previous_until IS NULL)),
    CONSTRAINT disabled_has_a_reason CHECK ((disabled_at IS NULL) = (disabled_because IS NULL))
);
CREATE INDEX webhook_endpoint_client ON webhook_endpoint (client_id, id);

-- The lanes of a client's endpoints may have one origin, also that of its jobs' own URLs.
CREATE INDEX webhook_lane_client ON webhook_lane (client_id);
ALTER TABLE webhook_lane DROP CONSTRAINT webhook_lane_client_id_origin_key;

-- Set where the receiver is a registered endpoint, so that an endpoint's deliveries can be listed. Building this index
-- reads the attempts of all days once; meanwhile reports of webhooks wait, and are written after it.
ALTER TABLE webhook_attempt ADD COLUMN endpoint_id uuid;
CREATE INDEX webhook_attempt_endpoint ON webhook_attempt (endpoint_id, delivery_id)
    WHERE endpoint_id IS NOT NULL AND outcome <> 'retry';
