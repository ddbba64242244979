-- The claim walks this index in exactly its order: load key, client, user, priority, sync calls first, age.

-- A migration of its own, because building the index reads all waiting jobs (about three seconds for a million), and this
-- way only writers wait meanwhile. It does not build the index concurrently: that would wait for every old snapshot (a
-- backup, say), and an interrupted build would leave an index that nobody uses.
SET LOCAL lock_timeout = '50ms';

CREATE INDEX job_ready_group ON job_ready (load_key, client_id, user_name, priority DESC, sync DESC, job_id);

-- `job_ready_claim` stays for workers of the version before this one, whose claims would otherwise sort all waiting jobs
-- of a client. The next version drops it.
