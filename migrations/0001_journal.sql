-- The schema `agentrun`: durable agent runs in your own Postgres.
--
-- Tables                                                        who writes, when
--   runs          one row a run; a projection of the journal    submit, claim, park, finish
--   journal       append-only events; the only source of truth  the run's owner alone
--   payloads      large values, compressed, by digest           with the row that names them
--   workers       one row a process that executes runs          heartbeats
--   mail          what others tell a run: resolutions, …        anybody; the owner reads it
--   late_results  answers that arrived after the run was lost   the former owner; insert only
--
-- Every key begins with the run, so no hot statement but the claim crosses runs.
-- The journal's columns hold what people filter by; values are `json` in canonical ASCII, since
-- jsonb would rewrite 1e2, -0.0 and the order of keys, and refuses NUL.

CREATE TABLE agentrun.runs (
    run_id      uuid        NOT NULL PRIMARY KEY,
    key         text        NOT NULL UNIQUE,
    agent       text        NOT NULL,
    status      text        NOT NULL CHECK (status IN
                    ('queued', 'running', 'waiting', 'held', 'done', 'failed', 'cancelled')),
    owner       text,
    epoch       bigint      NOT NULL DEFAULT 0,
    open_doubt  integer,
    reason      text,
    wake_at     timestamptz,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    changed_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    CHECK ((status = 'running') = (owner IS NOT NULL))
) WITH (fillfactor = 70);

-- Open runs only: finished ones, the bulk, never weigh on a claim or on the inbox.
CREATE INDEX runs_open ON agentrun.runs (status, created_at)
    WHERE status IN ('queued', 'running', 'waiting', 'held');

CREATE TABLE agentrun.journal (
    run_id        uuid        NOT NULL,
    seq           bigint      NOT NULL,
    epoch         bigint      NOT NULL,
    worker        text        NOT NULL,
    batch         uuid        NOT NULL,
    event         text        NOT NULL,
    at            timestamptz NOT NULL DEFAULT clock_timestamp(),
    step          integer,
    turn          integer,
    kind          text,
    name          text,
    ident         text,
    attempt       integer,
    effect        text,
    key           text,
    status        text,
    started_at    timestamptz,
    fingerprint   text,
    overlapping      boolean     NOT NULL DEFAULT false,
    model         text,
    input_tokens  integer,
    output_tokens integer,
    cached_tokens integer,
    reasoning_tokens integer,
    cost          numeric,
    priced_by     text,
    by            text,
    reason        text,
    codec         smallint    NOT NULL DEFAULT 0,
    input         json,
    output        json,
    PRIMARY KEY (run_id, seq)
);

-- One partial index for the questions people ask across runs: outcomes by kind and time.
CREATE INDEX journal_outcomes ON agentrun.journal (kind, at) WHERE event = 'step_finished';

CREATE FUNCTION agentrun.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'agentrun.% is append-only: % refused', TG_TABLE_NAME, TG_OP
        USING HINT = 'The journal is the record of what happened; it is never edited.';
END $$;

CREATE TRIGGER journal_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON agentrun.journal
    FOR EACH STATEMENT EXECUTE FUNCTION agentrun.refuse_change();

CREATE TABLE agentrun.payloads (
    run_id  uuid    NOT NULL,
    digest  text    NOT NULL,
    size    bigint  NOT NULL,
    zstd    bytea   NOT NULL,
    PRIMARY KEY (run_id, digest)
);
ALTER TABLE agentrun.payloads ALTER COLUMN zstd SET STORAGE EXTERNAL;

-- No index on what heartbeats touch, room on the page: every beat is a HOT update.
CREATE TABLE agentrun.workers (
    worker        text        NOT NULL PRIMARY KEY,
    host          text        NOT NULL,
    pid           integer     NOT NULL,
    process       text,
    agents        text[]      NOT NULL DEFAULT '{}',
    lease         interval    NOT NULL,
    session_pid   integer,
    session_start timestamptz,
    server_start  timestamptz NOT NULL,
    started_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    beat_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    dead_at       timestamptz,
    cause         text
) WITH (fillfactor = 50);

CREATE TABLE agentrun.mail (
    run_id   uuid        NOT NULL,
    id       uuid        NOT NULL,
    kind     text        NOT NULL,
    step     integer,
    by       text,
    reason   text,
    codec    smallint    NOT NULL DEFAULT 0,
    payload  json,
    sent_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (run_id, id)
);

CREATE TABLE agentrun.late_results (
    run_id   uuid        NOT NULL,
    step     integer     NOT NULL,
    attempt  integer     NOT NULL,
    worker   text        NOT NULL,
    status   text        NOT NULL,
    codec    smallint    NOT NULL DEFAULT 0,
    output   json,
    at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (run_id, step, attempt)
);
CREATE TRIGGER late_results_append_only BEFORE UPDATE OR DELETE OR TRUNCATE
    ON agentrun.late_results FOR EACH STATEMENT EXECUTE FUNCTION agentrun.refuse_change();
