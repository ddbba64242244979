-- The scan walks this index from group to group of one client, and from there to the next client. So the groups of one
-- client keep nobody from the groups of another.

-- A migration of its own, because building the index reads all waiting jobs (about three seconds for a million), and this
-- way only writers wait meanwhile. It does not build the index concurrently: that would wait for every old snapshot (a
-- backup, say), and an interrupted build would leave an index that nobody uses.
SET LOCAL lock_timeout = '50ms';

CREATE INDEX job_ready_scan ON job_ready (client_id, user_name, load_key, priority, sync, job_id);

-- `job_ready_group` stays for the statements that look for jobs of a load key, and for workers of the version before this
-- one.
