-- The slots of a rate limit were a little too close together for some limits: of 440 a second, 441 might go out within one. The
-- burst goes out in no time, and the rest of the limit in the second after it. So a slot is the second divided by the rest and one
-- more, and a microsecond is never rounded down.

CREATE OR REPLACE FUNCTION rate_spacing(rate_limit integer) RETURNS interval
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN make_interval(secs => ceil(1000000.0 / (rate_limit + 1 - greatest(rate_limit / 20, 1))) / 1000000);

-- For workers that run an older version.
CREATE OR REPLACE FUNCTION rate_slots(rate_limit integer, OUT spacing interval, OUT burst integer)
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT rate_spacing(rate_limit), rate_burst(rate_limit)
$$;
