-- The context length with which a job ran.

-- Whoever waits for a lock stops everybody who comes after. So give way to readers (a backup, say); `foreman migrate`
-- tries again. No row is rewritten and none is read: the column has neither a default nor a check.
SET LOCAL lock_timeout = '50ms';

-- In tokens. NULL where the job did not run, where it ran in the cloud, and where Ollama did not tell. Binaries of the
-- version before this one leave it so.
ALTER TABLE job_done ADD COLUMN context bigint;
