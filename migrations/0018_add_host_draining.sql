-- Hosts that take no new jobs, because an operator wants to work on them. The column is in the host's row, and the claim reads
-- it under the row's lock: so it outlives restarts and changes of holder, and no claim passes by it.

-- Whoever waits for a lock stops everybody who comes after. So give way to readers; `foreman migrate` tries again.
SET LOCAL lock_timeout = '50ms';

-- When the host was drained; NULL while it takes jobs. Workers of the version before this one claim for it all the same.
ALTER TABLE host ADD COLUMN drained_at timestamptz;
