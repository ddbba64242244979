-- Who may submit. A client signs in with a key that is stored as a digest alone, and its webhooks are signed
-- with a secret that is stored sealed. While `previous_until` is ahead, the key and the secret of before a
-- rotation stay good, so that a team can roll them out without a gap.

CREATE TABLE client (
    id                uuid PRIMARY KEY,
    name              text NOT NULL UNIQUE CHECK (length(name) BETWEEN 1 AND 200),
    is_admin          boolean NOT NULL DEFAULT false,
    -- NULL for a client that is a source address (authentication off): nobody can sign in as it.
    key_digest        bytea UNIQUE CHECK (length(key_digest) = 32),
    previous_key      bytea UNIQUE CHECK (length(previous_key) = 32),
    secret            bytea,
    previous_secret   bytea,
    previous_until    timestamptz,
    created_at        timestamptz NOT NULL DEFAULT now(),
    revoked_at        timestamptz,
    CONSTRAINT previous_has_an_end CHECK ((previous_key IS NULL AND previous_secret IS NULL) OR previous_until IS NOT NULL)
);

-- One use of a client's Idempotency-Key. The first insert wins; it is free again after `expires_at`.
CREATE TABLE idempotency_key (
    client_id    uuid NOT NULL,
    key          text NOT NULL CHECK (octet_length(key) BETWEEN 1 AND 255),
    job_id       uuid NOT NULL,
    body_digest  bytea NOT NULL,
    expires_at   timestamptz NOT NULL,
    PRIMARY KEY (client_id, key)
);
CREATE INDEX idempotency_key_expiry ON idempotency_key (expires_at);
