-- What the jobs of each client and user have used of each model, hour by hour. These rows outlive the jobs.

-- Written by every statement that ends an attempt or a job, together with it. Rows are only inserted here, so that nobody waits
-- for the row of anybody else. A janitor adds them up into `usage_hour`.
CREATE TABLE usage_entry (
    id                 bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- The beginning of the hour in which the attempts or jobs ended.
    hour               timestamptz NOT NULL,
    client_id          uuid NOT NULL,
    user_name          text COLLATE "C" NOT NULL,
    -- As Ollama compares models.
    model              text COLLATE "C" NOT NULL,
    -- Jobs that ended, by their last state.
    done               integer NOT NULL DEFAULT 0,
    failed             integer NOT NULL DEFAULT 0,
    cancelled          integer NOT NULL DEFAULT 0,
    expired            integer NOT NULL DEFAULT 0,
    -- Of all attempts, also of those after which the job went back to the queue.
    gpu_seconds        float8 NOT NULL DEFAULT 0,
    loads              integer NOT NULL DEFAULT 0,
    prompt_tokens      bigint NOT NULL DEFAULT 0,
    completion_tokens  bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000,
        autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 50000,
        autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 20000);

CREATE TABLE usage_hour (
    client_id          uuid NOT NULL,
    hour               timestamptz NOT NULL,
    user_name          text COLLATE "C" NOT NULL,
    model              text COLLATE "C" NOT NULL,
    done               bigint NOT NULL,
    failed             bigint NOT NULL,
    cancelled          bigint NOT NULL,
    expired            bigint NOT NULL,
    gpu_seconds        float8 NOT NULL,
    loads              bigint NOT NULL,
    prompt_tokens      bigint NOT NULL,
    completion_tokens  bigint NOT NULL,
    PRIMARY KEY (client_id, hour, user_name, model)
) WITH (fillfactor = 70);
CREATE INDEX usage_hour_age ON usage_hour (hour);
