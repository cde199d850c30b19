-- Limits that all workers share: how much a provider takes, and whether it takes anything now.
--
--   limits    one row a limit, a token bucket      set by people; filled and drawn by `permit`
--   permits   one row a call that asks or is made  who makes the call; gone once it is over
--   holds     one row a model that takes nothing   who was told so; everybody waits
--
-- Nothing here is history, and losing the last second of it costs a refused call at worst: whoever
-- writes here does not wait for the disk (`synchronous_commit = off`), so that a bucket's row is
-- locked only for as long as the statement runs.

CREATE TABLE agentrun.limits (
    model       text             NOT NULL PRIMARY KEY,
    rpm         integer          CHECK (rpm > 0),
    tpm         integer          CHECK (tpm > 0),
    concurrency integer          CHECK (concurrency > 0),
    requests    double precision NOT NULL DEFAULT 1,
    tokens      double precision NOT NULL DEFAULT 0,
    filled_at   timestamptz      NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

CREATE TABLE agentrun.permits (
    run_id     uuid        NOT NULL,
    key        text        NOT NULL,
    model      text        NOT NULL,
    worker     text        NOT NULL,
    priority   integer     NOT NULL,
    tokens     bigint      NOT NULL,
    asked_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    next_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    granted_at timestamptz,
    PRIMARY KEY (run_id, key)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
-- The line, which is empty while there is enough for all; and what counts for `concurrency`.
CREATE INDEX permits_line ON agentrun.permits (model, priority DESC, asked_at)
    WHERE granted_at IS NULL;
CREATE INDEX permits_granted ON agentrun.permits (model) WHERE granted_at IS NOT NULL;

CREATE TABLE agentrun.holds (
    model    text        NOT NULL PRIMARY KEY,
    until    timestamptz NOT NULL,
    circuit  boolean     NOT NULL DEFAULT false,
    worker   text        NOT NULL,
    reason   text        NOT NULL
);

-- Whether a call may be made now: 0, or in how many seconds to ask again. Who asks again keeps the
-- place in the line: by priority, then by when they asked first. Nobody takes what one before them
-- could have; those who are late in coming back by more than a second hold up nobody.
CREATE FUNCTION agentrun.permit(
    of_run uuid, of_key text, of_model text, of_worker text, of_priority integer, of_tokens bigint
) RETURNS double precision LANGUAGE plpgsql AS $$
DECLARE
    l      agentrun.limits;
    other  record;
    moment timestamptz;
    -- A second brings so much, a little less than allowed: a minute of the provider's clock, which
    -- begins at any time, never holds more.
    calls  double precision;
    flow   double precision;
    -- What is left, and then what is left by those before us.
    turns  double precision;
    room   double precision;
    places bigint := 0;
    since  timestamptz;  -- when it asked first
    wait   double precision;
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    SELECT * INTO l FROM agentrun.limits WHERE model = of_model FOR UPDATE;
    IF NOT FOUND THEN
        RETURN 0;  -- it was removed
    END IF;
    moment := clock_timestamp();
    calls := l.rpm * 0.97 / 60;
    flow := l.tpm * 0.97 / 60;
    -- A bucket holds what a second brings, and one call at least.
    wait := extract(epoch FROM moment - l.filled_at);
    l.requests := least(greatest(1, calls), l.requests + calls * wait);
    l.tokens := coalesce(least(flow, l.tokens + flow * wait), 0);
    turns := l.requests;
    room := l.tokens;
    SELECT asked_at INTO since FROM agentrun.permits
    WHERE run_id = of_run AND key = of_key AND model = of_model;
    since := coalesce(since, moment);

    FOR other IN
        SELECT a.run_id, a.key, a.tokens FROM agentrun.permits a
        WHERE a.model = of_model AND a.granted_at IS NULL
          AND a.next_at BETWEEN moment - interval '1 s' AND moment
          AND (a.priority > of_priority OR a.priority = of_priority AND a.asked_at < since)
    LOOP
        turns := turns - 1;
        room := room - other.tokens;
        places := places - 1;
    END LOOP;
    IF l.concurrency IS NOT NULL THEN
        SELECT l.concurrency + places - count(*) INTO places
        FROM agentrun.permits g JOIN agentrun.workers w USING (worker)
        WHERE g.model = of_model AND g.granted_at IS NOT NULL
          AND NOT (g.run_id = of_run AND g.key = of_key)
          -- What dead workers held is free again.
          AND w.dead_at IS NULL AND w.beat_at + w.lease >= moment;
    END IF;
    wait := greatest(
        CASE WHEN turns < 1 THEN (1 - turns) / calls END,
        -- More than a second brings is let go as soon as a second's is there, and owed then.
        CASE WHEN room < least(of_tokens, flow) THEN (least(of_tokens, flow) - room) / flow END,
        CASE WHEN l.concurrency IS NOT NULL AND places < 1 THEN 0.05 END);
    IF wait > 0 THEN
        INSERT INTO agentrun.permits
            (run_id, key, model, worker, priority, tokens, asked_at, next_at)
        VALUES (of_run, of_key, of_model, of_worker, of_priority, of_tokens, since,
                moment + make_interval(secs => wait))
        ON CONFLICT (run_id, key) DO UPDATE
        SET model = excluded.model, worker = excluded.worker, priority = excluded.priority,
            tokens = excluded.tokens, asked_at = excluded.asked_at, next_at = excluded.next_at,
            granted_at = NULL;
        -- Whose worker died has a day to go on.
        DELETE FROM agentrun.permits d USING agentrun.workers w
        WHERE d.model = of_model AND w.worker = d.worker AND d.next_at < moment - interval '1 day'
          AND (w.dead_at IS NOT NULL OR w.beat_at + w.lease < moment);
        RETURN wait;
    END IF;
    -- Calls a minute need no settling.
    IF l.tpm IS NULL AND l.concurrency IS NULL THEN
        DELETE FROM agentrun.permits WHERE run_id = of_run AND key = of_key;
    ELSE
        INSERT INTO agentrun.permits
            (run_id, key, model, worker, priority, tokens, asked_at, granted_at)
        VALUES (of_run, of_key, of_model, of_worker, of_priority, of_tokens, since, moment)
        ON CONFLICT (run_id, key) DO UPDATE
        SET model = excluded.model, worker = excluded.worker, tokens = excluded.tokens,
            granted_at = excluded.granted_at;
    END IF;
    -- Drawn is what is ours; those before us have not taken theirs yet.
    UPDATE agentrun.limits
    SET requests = l.requests - 1, tokens = l.tokens - of_tokens, filled_at = moment
    WHERE model = of_model;
    RETURN 0;
END $$;

-- The call is over, or will not be made: what it did not use goes back into the bucket.
CREATE FUNCTION agentrun.release(of_run uuid, of_key text, of_worker text, used bigint)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    WITH over AS (
        DELETE FROM agentrun.permits p
        WHERE p.run_id = of_run AND p.key = of_key AND p.worker = of_worker
        RETURNING p.model, p.tokens, p.granted_at
    )
    UPDATE agentrun.limits l SET tokens = l.tokens + o.tokens - used
    FROM over o
    WHERE l.model = o.model AND o.granted_at IS NOT NULL AND o.tokens <> used;
END $$;

COMMENT ON TABLE agentrun.limits IS
    'How much a provider takes of all workers together; `agentrun limits set`.';
COMMENT ON COLUMN agentrun.limits.model IS
    'Provider and model, as in openai/gpt-5-mini; * stands for anything. The longest that fits '
    'counts.';
COMMENT ON COLUMN agentrun.limits.rpm IS 'Calls a minute; null is no limit, as in all of them.';
COMMENT ON COLUMN agentrun.limits.tpm IS 'Tokens a minute, of requests and replies together.';
COMMENT ON COLUMN agentrun.limits.concurrency IS 'Calls at a time.';
COMMENT ON COLUMN agentrun.limits.requests IS 'Calls that the bucket held at filled_at.';
COMMENT ON COLUMN agentrun.limits.tokens IS 'Tokens that it held then; owed, if negative.';
COMMENT ON COLUMN agentrun.limits.filled_at IS 'When it was drawn from last.';

COMMENT ON TABLE agentrun.permits IS 'Calls that wait for a limit, and those under way.';
COMMENT ON COLUMN agentrun.permits.run_id IS 'The run; derived from namespace and key.';
COMMENT ON COLUMN agentrun.permits.key IS 'The idempotency key of the step.';
COMMENT ON COLUMN agentrun.permits.model IS 'The limit.';
COMMENT ON COLUMN agentrun.permits.worker IS 'The worker that makes the call.';
COMMENT ON COLUMN agentrun.permits.priority IS 'Of the run; the highest goes first.';
COMMENT ON COLUMN agentrun.permits.tokens IS 'What the call may use, by estimate.';
COMMENT ON COLUMN agentrun.permits.asked_at IS 'When it was asked first: its place in the line.';
COMMENT ON COLUMN agentrun.permits.next_at IS 'When it is asked again, at the earliest.';
COMMENT ON COLUMN agentrun.permits.granted_at IS 'Since when the call may be made; null: it waits.';

COMMENT ON TABLE agentrun.holds IS 'Models that take no call for now.';
COMMENT ON COLUMN agentrun.holds.model IS 'Provider and model.';
COMMENT ON COLUMN agentrun.holds.until IS 'Until when.';
COMMENT ON COLUMN agentrun.holds.circuit IS
    'Whether calls failed in a row, so that afterwards one alone tries first.';
COMMENT ON COLUMN agentrun.holds.worker IS 'The worker that found out.';
COMMENT ON COLUMN agentrun.holds.reason IS 'What it was told.';

COMMENT ON FUNCTION agentrun.permit IS
    'Whether a model call may be made now: 0, or in how many seconds to ask again.';
COMMENT ON FUNCTION agentrun.release IS 'That a model call is over, and what it used.';
