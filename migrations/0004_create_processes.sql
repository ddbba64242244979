-- Who is alive, and who may speak for which Ollama.

-- One row a worker process. A worker that has not renewed for its own `ttl` is dead, and its leases are rescued.
CREATE TABLE worker (
    id          uuid PRIMARY KEY,
    host_id     text NOT NULL,
    roles       text[] NOT NULL,
    ttl         interval NOT NULL,
    started_at  timestamptz NOT NULL DEFAULT now(),
    renewed_at  timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

-- One row an Ollama host. Its holder alone claims jobs for it; `fence` rises with every change of holder.
CREATE TABLE host (
    id            text PRIMARY KEY,
    url           text NOT NULL,
    holder        uuid,
    fence         bigint NOT NULL DEFAULT 0,
    ttl           interval NOT NULL,
    renewed_at    timestamptz NOT NULL DEFAULT now(),
    slots         integer NOT NULL CHECK (slots >= 1),
    -- Whether Ollama answered when its holder last asked.
    reachable     boolean NOT NULL DEFAULT false,
    -- When the holder last published its models; NULL before the first time.
    published_at  timestamptz
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

-- What a host said it has. It stays when the host goes away: a dead Ollama never makes a known model unknown.
CREATE TABLE host_model (
    host_id    text NOT NULL,
    -- The name as Ollama compares it.
    canonical  text NOT NULL,
    -- The name as /api/tags gives it.
    label      text NOT NULL,
    -- Whether it can chat or generate at all, or only embeds.
    completes  boolean NOT NULL,
    PRIMARY KEY (host_id, canonical)
);
