-- Users and sync calls in the queue: among the jobs of a client its users take turns, and a call whose caller waits goes
-- before the other jobs of the same user and priority.

-- Whoever waits for a lock stops everybody who comes after. So give way to readers (a backup, say); `foreman migrate`
-- tries again. No row is rewritten: the columns have constant defaults.
SET LOCAL lock_timeout = '50ms';

-- For whom the client submitted the job, '' where it did not say. Binaries of the version before this one leave it so.
ALTER TABLE job ADD COLUMN user_name text COLLATE "C" NOT NULL DEFAULT '';

-- The same in the rooms of the unfinished jobs. `sync`: a caller waits on the connection for the answer. A worker of the
-- version before this one forgets both when it hands a job back.
ALTER TABLE job_ready
    ADD COLUMN user_name text COLLATE "C" NOT NULL DEFAULT '',
    ADD COLUMN sync boolean NOT NULL DEFAULT false;
ALTER TABLE job_scheduled
    ADD COLUMN user_name text COLLATE "C" NOT NULL DEFAULT '',
    ADD COLUMN sync boolean NOT NULL DEFAULT false;
ALTER TABLE job_lease
    ADD COLUMN user_name text COLLATE "C" NOT NULL DEFAULT '',
    ADD COLUMN sync boolean NOT NULL DEFAULT false;
