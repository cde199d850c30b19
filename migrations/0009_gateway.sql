-- What a gateway holds of the calls that go through it: a row an upstream call.
--
--   gateway_calls   with the intent, before the request leaves; ended by whoever saw its end
--
-- A call that is open belongs to a live gateway, or is lost with it: `gateway` names a worker, and
-- its death is told like that of any other. Rows go when they are old; nothing refers to them.

CREATE TABLE agentrun.gateway_calls (
    key          text        NOT NULL,
    call         integer     NOT NULL,
    fingerprint  text        NOT NULL,
    upstream     text        NOT NULL,
    path         text        NOT NULL,
    status       text        NOT NULL DEFAULT 'open'
        CHECK (status IN ('open', 'answered', 'refused', 'broken', 'lost')),
    reason       text,
    gateway      text        NOT NULL,
    nonce        uuid        NOT NULL,
    started_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at     timestamptz,
    http_status  integer,
    headers      json,
    digest       text,
    size         bigint,
    zstd         bytea,
    PRIMARY KEY (key, call),
    CHECK (status <> 'answered' OR zstd IS NOT NULL)
);
CREATE INDEX gateway_calls_open ON agentrun.gateway_calls (gateway) WHERE status = 'open';
CREATE INDEX gateway_calls_ended ON agentrun.gateway_calls (ended_at);

COMMENT ON TABLE agentrun.gateway_calls IS
    'Calls that `agentrun gateway` made for those who asked with an idempotency key.';
COMMENT ON COLUMN agentrun.gateway_calls.key IS 'The idempotency key; a step''s, or the caller''s.';
COMMENT ON COLUMN agentrun.gateway_calls.call IS 'Which upstream call under this key, from 1.';
COMMENT ON COLUMN agentrun.gateway_calls.fingerprint IS
    'Of upstream, path and body, less what clients randomise and the limit on the reply.';
COMMENT ON COLUMN agentrun.gateway_calls.upstream IS 'The provider, as the gateway calls it.';
COMMENT ON COLUMN agentrun.gateway_calls.path IS 'Below the provider''s address, without query.';
COMMENT ON COLUMN agentrun.gateway_calls.status IS
    'open: under way; answered: whole, and served again; refused: surely not billed; broken: no '
    'whole answer came, possibly billed; lost: its gateway died with it, possibly billed.';
COMMENT ON COLUMN agentrun.gateway_calls.reason IS 'Why it was refused, broken or lost.';
COMMENT ON COLUMN agentrun.gateway_calls.gateway IS 'The gateway process, a row of workers.';
COMMENT ON COLUMN agentrun.gateway_calls.nonce IS 'Of the process that wrote the row.';
COMMENT ON COLUMN agentrun.gateway_calls.started_at IS 'When it was to be sent.';
COMMENT ON COLUMN agentrun.gateway_calls.ended_at IS 'When its end was known.';
COMMENT ON COLUMN agentrun.gateway_calls.http_status IS 'The status of its response, if any came.';
COMMENT ON COLUMN agentrun.gateway_calls.headers IS
    'The headers of an answer as they came, pairs of name and value, without cookies.';
COMMENT ON COLUMN agentrun.gateway_calls.digest IS 'Of the answer''s bytes.';
COMMENT ON COLUMN agentrun.gateway_calls.size IS 'Bytes of the answer.';
COMMENT ON COLUMN agentrun.gateway_calls.zstd IS
    'The answer''s content-decoded bytes, compressed; known secrets are removed.';
