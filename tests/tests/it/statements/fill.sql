-- Words for rows that can be named before they are there. Job n of the test is the one of n ms past midnight.

CREATE SCHEMA filled;
CREATE FUNCTION filled.job(n bigint) RETURNS uuid LANGUAGE sql STABLE RETURN
    (left(replace(ulid_floor(date_trunc('day', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC'
                             + make_interval(secs => n / 1000.0))::text, '-', ''), 12)
     || lpad(to_hex(n), 20, '0'))::uuid;
CREATE FUNCTION filled.jobs(first bigint, count bigint) RETURNS uuid[] LANGUAGE sql STABLE RETURN
    ARRAY(SELECT filled.job(n) FROM generate_series(first, first + count - 1) AS n);
CREATE FUNCTION filled.id(n bigint) RETURNS uuid LANGUAGE sql IMMUTABLE RETURN
    lpad(to_hex(n), 32, '0')::uuid;
CREATE FUNCTION filled.ids(first bigint, count bigint) RETURNS uuid[] LANGUAGE sql IMMUTABLE RETURN
    ARRAY(SELECT filled.id(n) FROM generate_series(first, first + count - 1) AS n);
-- Client 1 has all jobs but four: one in each room.
CREATE FUNCTION filled.client_of(n bigint) RETURNS uuid LANGUAGE sql IMMUTABLE RETURN
    filled.id(CASE WHEN n IN (40000, 90000, 100100, 150000) THEN 2 ELSE 1 END);
-- Deliveries are given out in order, too.
CREATE FUNCTION filled.delivery(n bigint) RETURNS uuid LANGUAGE sql STABLE RETURN filled.job(n);
CREATE FUNCTION filled.deliveries(first bigint, count bigint) RETURNS uuid[] LANGUAGE sql STABLE RETURN
    filled.jobs(first, count);

-- Rows.

INSERT INTO client (id, name, key_digest)
SELECT filled.id(n), 'client ' || n, decode(lpad(to_hex(n), 64, '0'), 'hex') FROM generate_series(1, 5000) AS n;
INSERT INTO job (id, client_id, model, model_label, load_key, path, body, expires_at, webhook_url, webhook_lane,
                 webhook_origin, api_id)
SELECT filled.job(n), filled.client_of(n), 'tiny-a', 'tiny-a', 'tiny-a', '/api/chat', '{}', now() + interval '7 days',
       'http://127.0.0.1:9/', filled.id(CASE WHEN n BETWEEN 50001 AND 51000 THEN n % 100 + 2 ELSE 1 END),
       'http://127.0.0.1:9', CASE WHEN n % 100 = 0 THEN filled.id(1) END
FROM generate_series(1, 200000) AS n;

-- Five have expired.
INSERT INTO job_ready (client_id, job_id, load_key, user_name, priority, attempt, seq, bytes, eligible_at, expires_at)
SELECT filled.client_of(n), filled.job(n), 'tiny-' || chr((97 + n % 2)::integer), 'user ' || n % 3, 0, n % 2, 1, 2, now(),
       now() + CASE WHEN n <= 5 THEN interval '-1 second' ELSE interval '7 days' END
FROM generate_series(1, 80000) AS n;
-- Five are due.
INSERT INTO job_scheduled (client_id, job_id, load_key, priority, attempt, seq, bytes, due_at, eligible_at, expires_at)
SELECT filled.client_of(n), filled.job(n), 'tiny-a', 0, 1, 3, 2,
       now() + CASE WHEN n <= 80005 THEN interval '-1 second' ELSE interval '1 hour' END, now(), now() + interval '7 days'
FROM generate_series(80001, 100000) AS n;
INSERT INTO job_lease (job_id, client_id, lease_no, worker_id, load_key, priority, attempt, failures, rescues, seq, bytes,
                       eligible_at, expires_at)
SELECT filled.job(n), filled.client_of(n), n, filled.id(n % 20 + 1), 'tiny-a', 0, 1, 0, 0, 1, 2, now(),
       now() + interval '7 days'
FROM generate_series(100001, 100150) AS n;
INSERT INTO job_done (job_id, client_id, state, lease_no, seq, attempt, failures, rescues, eligible_at, loading_at,
                      working_at, completed_at)
SELECT filled.job(n), filled.client_of(n), CASE WHEN n % 100 = 0 THEN 'cancelled' ELSE 'done' END, n, 4, 1, 0, 0, now(),
       now(), now(), now()
FROM generate_series(100151, 200000) AS n;
INSERT INTO artifact (job_id, name, attempt, content_type, size, sha256, data)
SELECT filled.job(n), 'completion', 1, 'application/json', 2, decode(repeat('0', 64), 'hex'), '{}'
FROM generate_series(150000, 200000) AS n;

INSERT INTO outbox (job_id, seq, attempt, state, previous_state, at)
SELECT filled.job(n), 1, 0, 'queued', '', now() FROM generate_series(1, 50000) AS n;
INSERT INTO job_event (job_id, seq, attempt, state, previous_state, at)
SELECT filled.job(n), 1, 0, 'queued', '', now() FROM generate_series(50001, 200000) AS n;

-- Lane 1 is that of a receiver which has been down for long.
INSERT INTO webhook_lane (id, client_id, origin)
SELECT filled.id(n), filled.id(n), 'http://127.0.0.1:' || n FROM generate_series(1, 3000) AS n;
INSERT INTO webhook_delivery (id, lane_id, job_id, seq, terminal, attempts, next_attempt_at)
SELECT filled.delivery(n), filled.id(CASE WHEN n <= 51000 THEN n % 100 + 2 ELSE 1 END), filled.job(n), 1, false,
       (n > 51000)::integer, now() + CASE WHEN n <= 51000 THEN interval '-1 second' ELSE interval '1 hour' END
FROM generate_series(50001, 100000) AS n;
UPDATE webhook_delivery SET attempts = 1, claim_no = 1, claimed_at = now(), claimed_until = now() + interval '1 minute'
WHERE id BETWEEN filled.delivery(50001) AND filled.delivery(50010);
-- Client 2 has a hundred endpoints, the others a few. One is deleted.
INSERT INTO webhook_endpoint (id, client_id, description, url, origin, secret, secret_hint, deleted_at)
SELECT filled.id(500000 + n), filled.id(CASE WHEN n <= 3 THEN 1 WHEN n <= 103 THEN 2 ELSE n - 101 END), '', 'http://127.0.0.1:9/',
       'http://127.0.0.1:9', '\x00', '', CASE WHEN n = 104 THEN now() - interval '2 days' END
FROM generate_series(1, 3000) AS n;
INSERT INTO webhook_attempt (job_id, delivery_id, attempt, seq, lane_id, endpoint_id, url, state, at, outcome, error_code)
SELECT filled.job(n), filled.delivery(n), 1, 1, filled.id(1), CASE WHEN n % 2 = 0 THEN filled.id(500001) END,
       'http://127.0.0.1:9/', 'queued', now(),
       CASE WHEN n <= 100000 THEN 'retry' ELSE 'delivered' END, CASE WHEN n <= 100000 THEN 'refused' END
FROM generate_series(51001, 150000) AS n;

-- Five have expired.
INSERT INTO idempotency_key (client_id, key, job_id, body_digest, expires_at)
SELECT filled.client_of(n), 'key ' || n, filled.job(n), decode(repeat('0', 64), 'hex'),
       now() + CASE WHEN n <= 5 THEN interval '-1 second' ELSE interval '1 day' END
FROM generate_series(1, 50000) AS n;
INSERT INTO worker (id, host_id, roles, ttl) SELECT filled.id(n), 'host ' || n, '{run,relay}', '20 s' FROM generate_series(1, 20) AS n;
INSERT INTO host (id, url, holder, fence, ttl, slots, published_at)
SELECT 'host ' || n, 'http://127.0.0.1:11434', filled.id(n), n, '20 s', 4, now() FROM generate_series(1, 20) AS n;
INSERT INTO api_process (id, ttl) SELECT filled.id(n), '20 s' FROM generate_series(1, 20) AS n;
INSERT INTO host_plan (host_id, plan) SELECT 'host ' || n, '{}' FROM generate_series(1, 20) AS n;
INSERT INTO host_model (host_id, canonical, label, completes) SELECT 'host ' || n, 'tiny-a', 'tiny-a', true FROM generate_series(1, 20) AS n;
INSERT INTO host_unload (host_id, canonical) SELECT 'host ' || n, 'tiny-a' FROM generate_series(1, 20) AS n;

-- Client 1 has many users. Of a hundred entries nothing is added up yet.
INSERT INTO usage_hour
SELECT filled.id(1), date_trunc('hour', now(), 'UTC') - make_interval(hours => (n % 800)::integer), 'user ' || n / 800, 'tiny-a',
       1, 0, 0, 0, 1, 0, 1, 1
FROM generate_series(0, 39999) AS n;
INSERT INTO usage_entry (hour, client_id, user_name, model, done)
SELECT date_trunc('hour', now(), 'UTC'), filled.id(1), 'user ' || n, 'tiny-a', 1 FROM generate_series(1, 100) AS n;

-- What was written counts at once.
SELECT pg_stat_force_next_flush();
