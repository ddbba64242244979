-- What the holder of a host tells of its scheduling: for people who wait, and for the next holder. A row of its own,
-- because the host's row is locked by every claim.

CREATE TABLE host_plan (
    host_id       text PRIMARY KEY,
    -- JSON that only Foreman reads.
    plan          text NOT NULL,
    published_at  timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
