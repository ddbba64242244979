-- Which host means to load what, so that several hosts settle on different models, and two that are idle do not both come to
-- help with the same small rest.

CREATE TABLE host_intent (
    -- A load key without its context.
    load_key  text COLLATE "C" PRIMARY KEY,
    -- The host that said last that it loads this.
    host_id   text NOT NULL,
    -- Rises with each intent. A host that has not seen the last one gets nothing.
    number    bigint NOT NULL DEFAULT 1,
    said_at   timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
CREATE INDEX host_intent_age ON host_intent (said_at);
