-- rate_slots in two functions that Postgres inlines. A function with two results it parses and plans each time that a statement
-- calls it, and every look of the dispatcher does. rate_slots stays for workers that run an older version.

CREATE FUNCTION rate_spacing(rate_limit integer) RETURNS interval
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN make_interval(secs => CASE WHEN rate_limit < 20 THEN 1.0 ELSE 1.05 END / rate_limit);

CREATE FUNCTION rate_burst(rate_limit integer) RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN greatest(rate_limit / 20, 1);
