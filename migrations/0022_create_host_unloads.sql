-- Models that an operator wants out of a host's memory. The holder of the host deletes a row once its Ollama has answered.

CREATE TABLE host_unload (
    host_id    text NOT NULL,
    -- The model's name as Ollama compares it.
    canonical  text NOT NULL,
    asked_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (host_id, canonical)
);
