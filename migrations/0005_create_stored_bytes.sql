-- How many bytes of request bodies each client has stored on a day, as each api process counted them. What a client
-- stores stays for days even where the job is cancelled at once, so that the bound on what is queued does not bound it.
-- Every api writes rows of its own, every few seconds: nobody waits for anybody's row.

CREATE TABLE stored_bytes (
    client_id  uuid NOT NULL,
    -- In UTC.
    day        date NOT NULL,
    -- The process; a new one after each start.
    api_id     uuid NOT NULL,
    bytes      bigint NOT NULL CHECK (bytes >= 0),
    PRIMARY KEY (client_id, day, api_id)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
CREATE INDEX stored_bytes_day ON stored_bytes (day);
