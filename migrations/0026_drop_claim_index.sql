-- The version before the last one claimed by this index. `job_ready_group` has the same use for load keys.

-- Whoever waits for a lock stops everybody who comes after. So give way to readers; `foreman migrate` tries again.
SET LOCAL lock_timeout = '50ms';

DROP INDEX job_ready_claim;
