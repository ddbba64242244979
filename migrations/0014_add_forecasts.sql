-- When the holder of a host expects the waiting jobs to begin: for people who wait. It stands beside the plan and not in it, because
-- it is much larger and nobody else reads it.

-- Whoever waits for a lock stops everybody who comes after. So give way to readers; `foreman migrate` tries again.
SET LOCAL lock_timeout = '50ms';

ALTER TABLE host_plan
    -- JSON that only Foreman reads. NULL while no job waits.
    ADD COLUMN forecast text,
    ADD COLUMN forecast_at timestamptz;
