-- Runs that wait, and workers that take them up.
--
-- A run waits for a time (`wake_at`), for mail, or for a person. `queue` and `priority` decide which
-- worker takes a queued run and when.

ALTER TABLE agentrun.runs
    ADD COLUMN queue text NOT NULL DEFAULT 'default',
    ADD COLUMN priority integer NOT NULL DEFAULT 0;
ALTER TABLE agentrun.journal ADD COLUMN wake_at timestamptz;

COMMENT ON COLUMN agentrun.runs.queue IS 'Which workers may take the run: those that serve this queue.';
COMMENT ON COLUMN agentrun.runs.priority IS 'Of several queued runs the highest is taken first.';
COMMENT ON COLUMN agentrun.journal.wake_at IS 'For `parked`: when the run is to be taken up again, at the latest.';

-- What a worker asks for, in the order it asks: finished runs never weigh on it.
CREATE INDEX runs_queued ON agentrun.runs (queue, priority DESC, created_at) WHERE status = 'queued';
-- Sleepers by the time they wake; those that wait for mail alone have no time and no entry.
CREATE INDEX runs_due ON agentrun.runs (wake_at)
    WHERE status IN ('waiting', 'held') AND wake_at IS NOT NULL;

-- Tell a run something, in plain SQL: select agentrun.send('ticket-42', 'approve', 3, '{}', 'ada');
--
-- The letter's id makes it once; the owner of the run journals it. A parked run becomes due.
CREATE FUNCTION agentrun.send(
    run_key text, kind text, step integer DEFAULT NULL, payload json DEFAULT '{}',
    by text DEFAULT current_user, reason text DEFAULT NULL, codec smallint DEFAULT 0,
    id uuid DEFAULT gen_random_uuid()
) RETURNS uuid LANGUAGE plpgsql AS $$
DECLARE
    target uuid;
BEGIN
    SELECT r.run_id INTO target FROM agentrun.runs r WHERE r.key = run_key;
    IF target IS NULL THEN
        RAISE EXCEPTION 'no run has the key %', quote_literal(run_key)
            USING ERRCODE = 'no_data_found';
    END IF;
    INSERT INTO agentrun.mail (run_id, id, kind, step, by, reason, codec, payload)
    VALUES (target, send.id, send.kind, send.step, send.by, send.reason, send.codec, send.payload)
    ON CONFLICT DO NOTHING;
    UPDATE agentrun.runs r SET wake_at = clock_timestamp()
    WHERE r.run_id = target AND r.status IN ('waiting', 'held');
    RETURN send.id;
END $$;
COMMENT ON FUNCTION agentrun.send IS
    'Tell a run something: a signal, an approval, a decision, a cancellation. Returns the id.';
