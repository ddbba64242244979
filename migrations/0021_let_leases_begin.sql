-- A lease may let its job begin before anybody asks, so that the request goes out the moment a slot is free. Whoever finds
-- such a lease without its holder must assume that the job has run.

-- Whoever waits for a lock stops everybody who comes after. So give way to readers; `foreman migrate` tries again.
SET LOCAL lock_timeout = '50ms';

ALTER TABLE job_lease ADD COLUMN may_begin boolean NOT NULL DEFAULT false;
