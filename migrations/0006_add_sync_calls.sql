-- Sync calls: requests whose caller waits on the connection for Ollama's answer. Such a job names the api process that
-- waits for it, so that its answer finds the way there, and so that nothing runs for callers who are gone.

-- Whoever waits for the lock on `job` stops every insert that comes after. So give way to readers (a backup, say);
-- `foreman migrate` tries again.
SET LOCAL lock_timeout = '50ms';

-- The api process whose caller waits for the answer. NULL for a job that nobody waits for; binaries of the version
-- before this one leave it so. There is no index for the unfinished jobs of one api: to build it would stop every
-- insert while the jobs of all days are read. These jobs are found through the rooms, where only unfinished jobs stand.
ALTER TABLE job ADD COLUMN api_id uuid;

-- Where apis read the live answers of this worker. NULL for a worker that gives none.
ALTER TABLE worker ADD COLUMN stream_url text;

-- One row an api process that may have callers. An api that has not renewed for its own `ttl` is dead, and the jobs that
-- its callers waited for are cancelled.
CREATE TABLE api_process (
    id          uuid PRIMARY KEY,
    ttl         interval NOT NULL,
    started_at  timestamptz NOT NULL DEFAULT now(),
    renewed_at  timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
