-- Retention: finished runs are removed in batches, and each leaves a tombstone of its key.
--
--   tombstones     one row a run that was removed; it keeps the key from being used again
--   prune          removes one batch of runs, or says what it would remove
--
-- The journal stays append-only, with one door, and no setting opens it: a run goes only when it has
-- ended and has a tombstone, and the rows of a run only when the run itself is gone.

CREATE TABLE agentrun.tombstones (
    run_id     uuid        NOT NULL PRIMARY KEY,
    key        text        NOT NULL UNIQUE,
    agent      text        NOT NULL,
    status     text        NOT NULL,
    ended_at   timestamptz NOT NULL,
    events     bigint      NOT NULL,
    bytes      bigint      NOT NULL,
    batch      uuid        NOT NULL,
    pruned_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- What one call of prune removed, and which keys are old enough to be forgotten.
CREATE INDEX tombstones_by_age ON agentrun.tombstones (pruned_at);

-- Where a batch begins to look: at what ended first.
CREATE INDEX runs_ended ON agentrun.runs (changed_at, run_id)
    WHERE status IN ('done', 'failed', 'cancelled') AND parent IS NULL;

CREATE FUNCTION agentrun.refuse_removal_of_runs() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (
        SELECT FROM removed m LEFT JOIN agentrun.tombstones t USING (run_id)
        WHERE t.run_id IS NULL OR m.status NOT IN ('done', 'failed', 'cancelled')
    ) THEN
        RAISE EXCEPTION 'agentrun.runs keeps what is not pruned: % refused', TG_OP
            USING HINT = 'Finished runs are removed whole, by `agentrun prune`.';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER runs_kept AFTER DELETE ON agentrun.runs
    REFERENCING OLD TABLE AS removed
    FOR EACH STATEMENT EXECUTE FUNCTION agentrun.refuse_removal_of_runs();

CREATE FUNCTION agentrun.refuse_removal() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (
        SELECT FROM (SELECT DISTINCT run_id FROM removed) m
        LEFT JOIN agentrun.tombstones t USING (run_id)
        LEFT JOIN agentrun.runs r USING (run_id)
        WHERE t.run_id IS NULL OR r.run_id IS NOT NULL
    ) THEN
        RAISE EXCEPTION 'agentrun.% is append-only: % refused', TG_TABLE_NAME, TG_OP
            USING HINT = 'Finished runs are removed whole, by `agentrun prune`.';
    END IF;
    RETURN NULL;
END $$;

DROP TRIGGER journal_append_only ON agentrun.journal;
CREATE TRIGGER journal_append_only BEFORE UPDATE OR TRUNCATE ON agentrun.journal
    FOR EACH STATEMENT EXECUTE FUNCTION agentrun.refuse_change();
CREATE TRIGGER journal_kept AFTER DELETE ON agentrun.journal
    REFERENCING OLD TABLE AS removed
    FOR EACH STATEMENT EXECUTE FUNCTION agentrun.refuse_removal();

DROP TRIGGER late_results_append_only ON agentrun.late_results;
CREATE TRIGGER late_results_append_only BEFORE UPDATE OR TRUNCATE ON agentrun.late_results
    FOR EACH STATEMENT EXECUTE FUNCTION agentrun.refuse_change();
CREATE TRIGGER late_results_kept AFTER DELETE ON agentrun.late_results
    REFERENCING OLD TABLE AS removed
    FOR EACH STATEMENT EXECUTE FUNCTION agentrun.refuse_removal();

-- Whoever creates a run looks for a tombstone first. One that was set since then, while he waited
-- for the pruned run to go, only a new look can see: he has to begin anew.
CREATE FUNCTION agentrun.refuse_pruned_key() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM agentrun.tombstones t WHERE t.key = NEW.key) THEN
        RAISE EXCEPTION 'the run % was pruned a moment ago', quote_literal(NEW.key)
            USING ERRCODE = 'serialization_failure';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER runs_not_pruned AFTER INSERT ON agentrun.runs
    FOR EACH ROW EXECUTE FUNCTION agentrun.refuse_pruned_key();

CREATE FUNCTION agentrun.size_of(
    run uuid, OUT events bigint, OUT bytes bigint
) LANGUAGE sql STABLE AS $$
    SELECT j.events, j.bytes + p.bytes
    FROM (
        SELECT count(*) AS events,
               coalesce(sum(coalesce(pg_column_size(input), 0)
                            + coalesce(pg_column_size(output), 0)), 0)::bigint AS bytes
        FROM agentrun.journal WHERE run_id = run
    ) j, (
        SELECT coalesce(sum(pg_column_size(zstd)), 0)::bigint AS bytes
        FROM agentrun.payloads WHERE run_id = run
    ) p
$$;

-- A tree of runs goes as a whole, once the run at its top and all below it ended that long ago; of
-- what status and agent, only the top is asked. One call is one batch, in one transaction. The next
-- one goes on behind `until_at` and `until_id`, which are null when there was nothing to look at.
CREATE FUNCTION agentrun.prune(
    ended_before timestamptz,
    statuses text[] DEFAULT '{done,failed,cancelled}',
    of_agent text DEFAULT NULL,
    dry_run boolean DEFAULT false,
    batch uuid DEFAULT gen_random_uuid(),
    after_at timestamptz DEFAULT '-infinity',
    after_id uuid DEFAULT '00000000-0000-0000-0000-000000000000',
    most_runs integer DEFAULT 500,
    most_bytes bigint DEFAULT 16777216,
    OUT runs bigint, OUT events bigint, OUT bytes bigint,
    OUT until_at timestamptz, OUT until_id uuid
) LANGUAGE plpgsql AS $$
DECLARE
    tree   record;
    size   record;
    locked bigint;
    gone   uuid[] := '{}';
BEGIN
    runs := 0; events := 0; bytes := 0;
    FOR tree IN
        SELECT top.run_id, top.changed_at, below.*
        FROM (
            SELECT r.run_id, r.changed_at FROM agentrun.runs r
            WHERE r.status IN ('done', 'failed', 'cancelled') AND r.status = ANY (statuses)
              AND r.changed_at < ended_before AND (r.changed_at, r.run_id) > (after_at, after_id)
              AND r.parent IS NULL AND (of_agent IS NULL OR r.agent = of_agent)
            ORDER BY r.changed_at, r.run_id LIMIT most_runs
        ) top
        CROSS JOIN LATERAL (
            SELECT array_agg(r.run_id) AS ids,
                   bool_and(r.status IN ('done', 'failed', 'cancelled')
                            AND r.changed_at < ended_before) AS is_over
            FROM agentrun.tree(top.run_id) t JOIN agentrun.runs r USING (run_id)
        ) below
        ORDER BY top.changed_at, top.run_id
    LOOP
        until_at := tree.changed_at; until_id := tree.run_id;
        CONTINUE WHEN tree.is_over IS NOT TRUE;
        IF NOT dry_run THEN
            -- Who is about to claim one, to send it a letter or to call a child, has it locked, or
            -- has done so since: the tree is kept. Who comes later waits, and finds it gone.
            PERFORM FROM agentrun.runs r
            WHERE r.run_id = ANY (tree.ids) AND r.status IN ('done', 'failed', 'cancelled')
              AND r.changed_at < ended_before
            FOR UPDATE SKIP LOCKED;
            GET DIAGNOSTICS locked = ROW_COUNT;
            CONTINUE WHEN locked < (SELECT count(*) FROM agentrun.tree(tree.run_id));
            gone := gone || tree.ids;
        END IF;
        WITH found AS (
            SELECT r.run_id, r.key, r.agent, r.status, r.changed_at, s.events, s.bytes
            FROM agentrun.runs r CROSS JOIN LATERAL agentrun.size_of(r.run_id) s
            WHERE r.run_id = ANY (tree.ids)
        ), buried AS (
            INSERT INTO agentrun.tombstones
                (run_id, key, agent, status, ended_at, events, bytes, batch)
            SELECT f.*, prune.batch FROM found f WHERE NOT dry_run
        )
        SELECT sum(f.events) AS events, sum(f.bytes) AS bytes INTO size FROM found f;
        runs := runs + cardinality(tree.ids);
        events := events + size.events;
        bytes := bytes + size.bytes;
        EXIT WHEN runs >= most_runs OR bytes >= most_bytes;
    END LOOP;
    DELETE FROM agentrun.runs r WHERE r.run_id = ANY (gone);
    DELETE FROM agentrun.journal j WHERE j.run_id = ANY (gone);
    DELETE FROM agentrun.payloads p WHERE p.run_id = ANY (gone);
    DELETE FROM agentrun.mail m WHERE m.run_id = ANY (gone);
    DELETE FROM agentrun.late_results l WHERE l.run_id = ANY (gone);
    DELETE FROM agentrun.budgets b WHERE b.run_id = ANY (gone);
    DELETE FROM agentrun.reservations v WHERE v.run_id = ANY (gone);
END $$;

-- As before, and a letter holds on to its run: it goes with it, or its sender learns that it went.
CREATE OR REPLACE FUNCTION agentrun.send(
    run_key text, kind text, step integer DEFAULT NULL, payload json DEFAULT '{}',
    by text DEFAULT current_user, reason text DEFAULT NULL, codec smallint DEFAULT 0,
    id uuid DEFAULT gen_random_uuid()
) RETURNS uuid LANGUAGE plpgsql AS $$
DECLARE
    target uuid;
BEGIN
    SELECT r.run_id INTO target FROM agentrun.runs r WHERE r.key = run_key FOR KEY SHARE;
    IF target IS NULL THEN
        RAISE EXCEPTION '%', CASE WHEN EXISTS (
                SELECT FROM agentrun.tombstones t WHERE t.key = run_key
            ) THEN format('the run %L was pruned', run_key)
            ELSE format('no run has the key %L', run_key) END
            USING ERRCODE = 'no_data_found';
    END IF;
    INSERT INTO agentrun.mail (run_id, id, kind, step, by, reason, codec, payload)
    VALUES (target, send.id, send.kind, send.step, send.by, send.reason, send.codec, send.payload)
    ON CONFLICT DO NOTHING;
    UPDATE agentrun.runs r SET wake_at = clock_timestamp()
    WHERE r.run_id = target AND r.status IN ('waiting', 'held');
    RETURN send.id;
END $$;

COMMENT ON FUNCTION agentrun.prune IS
    'Remove one batch of finished runs that ended before this, whole trees only, and '
    'leave tombstones of their keys. Returns how much that was, and where the next batch begins.';
COMMENT ON FUNCTION agentrun.size_of IS
    'Events of a run, and the bytes that its recorded values take, compressed as they are stored.';
COMMENT ON TABLE agentrun.tombstones IS
    'Runs that were pruned. A key that has a row here is not executed again; a row that is deleted '
    'frees its key.';
COMMENT ON COLUMN agentrun.tombstones.run_id IS 'The run; derived from namespace and key.';
COMMENT ON COLUMN agentrun.tombstones.key IS 'The run''s key, chosen by the caller.';
COMMENT ON COLUMN agentrun.tombstones.agent IS 'The agent''s name.';
COMMENT ON COLUMN agentrun.tombstones.status IS 'How it had ended: done, failed or cancelled.';
COMMENT ON COLUMN agentrun.tombstones.ended_at IS 'When it had ended.';
COMMENT ON COLUMN agentrun.tombstones.events IS 'Events its journal had.';
COMMENT ON COLUMN agentrun.tombstones.bytes IS
    'Bytes its recorded values took, compressed as they were stored.';
COMMENT ON COLUMN agentrun.tombstones.batch IS 'The call of prune that removed it.';
COMMENT ON COLUMN agentrun.tombstones.pruned_at IS 'When it was removed, by the database clock.';
