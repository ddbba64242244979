-- A lane can be held back: because its receiver asked for that, because it fails again and again, or because its endpoint
-- has a rate limit.

-- Whoever waits for a lock stops everybody who comes after. So give way to readers; `foreman migrate` tries again.
SET LOCAL lock_timeout = '50ms';

ALTER TABLE webhook_lane
    -- Failed attempts in a row. From ten on the lane is open: one delivery at a time tries it out.
    ADD COLUMN failures integer NOT NULL DEFAULT 0 CHECK (failures >= 0),
    -- Set while the lane is held back. From then on one delivery may be claimed; its report clears this or sets it anew.
    ADD COLUMN not_before timestamptz,
    -- Where the endpoint has a rate limit: when all slots claimed so far are paid for.
    ADD COLUMN next_slot_at timestamptz,
    -- The code of the last failure.
    ADD COLUMN last_error text;

-- How the webhooks to an endpoint with a rate limit are spaced, and how many of them may go out together. In no second are
-- there more than the limit: a twentieth together, and the rest a little further apart for that.
CREATE FUNCTION rate_slots(rate_limit integer, OUT spacing interval, OUT burst integer)
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT make_interval(secs => CASE WHEN rate_limit < 20 THEN 1.0 ELSE 1.05 END / rate_limit), greatest(rate_limit / 20, 1)
$$;
