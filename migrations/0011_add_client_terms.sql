-- What an operator grants a client or asks of it, where that differs from everybody else's. NULL is the default: for what may be
-- queued, the settings of the api.

-- Whoever waits for a lock stops everybody who comes after. So give way to readers; `foreman migrate` tries again.
SET LOCAL lock_timeout = '50ms';

ALTER TABLE client
    -- The client's part of the GPU, beside the weight 1 of the others.
    ADD COLUMN weight float8 CHECK (weight BETWEEN 0.01 AND 100),
    -- How many jobs, and bytes of their bodies, may wait. A job over that is refused.
    ADD COLUMN max_queued bigint CHECK (max_queued >= 0),
    ADD COLUMN max_queued_bytes bigint CHECK (max_queued_bytes >= 0),
    -- How many jobs may run at the same time. The others wait.
    ADD COLUMN max_running integer CHECK (max_running >= 1),
    -- Past this much of the GPU's time in a day, the client goes last.
    ADD COLUMN gpu_seconds_a_day float8 CHECK (gpu_seconds_a_day >= 0 AND gpu_seconds_a_day < 'Infinity');

-- Workers read the terms that concern them again and again. There may be thousands of clients, and few of them have any.
CREATE INDEX client_terms ON client (id)
    WHERE weight IS NOT NULL OR max_running IS NOT NULL OR gpu_seconds_a_day IS NOT NULL;
