-- What has come of streamed replies so far, while they come: a row a stream, written a few times a
-- second for all streams of a process together, and gone once the outcome is recorded. Where the
-- call has to be made again, the next attempt's intent takes it into the journal.

CREATE TABLE agentrun.partials (
    run_id  uuid        NOT NULL,
    step    integer     NOT NULL,
    attempt integer     NOT NULL,
    epoch   bigint      NOT NULL,
    codec   smallint    NOT NULL DEFAULT 0,
    body    json        NOT NULL,
    at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (run_id, step, attempt)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

-- With a run that is pruned goes what a crash left of it.
CREATE FUNCTION agentrun.forget_partials() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM agentrun.partials p USING gone WHERE p.run_id = gone.run_id;
    RETURN NULL;
END $$;
CREATE TRIGGER partials_gone AFTER DELETE ON agentrun.runs
    REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION agentrun.forget_partials();

COMMENT ON TABLE agentrun.partials IS 'Streamed replies of model calls that are under way.';
COMMENT ON COLUMN agentrun.partials.run_id IS 'The run; derived from namespace and key.';
COMMENT ON COLUMN agentrun.partials.step IS 'Number of the step in its run.';
COMMENT ON COLUMN agentrun.partials.attempt IS 'Which try at the step, from 1.';
COMMENT ON COLUMN agentrun.partials.epoch IS 'Of the claim under which it was written.';
COMMENT ON COLUMN agentrun.partials.codec IS 'How the value is stored, as in journal.';
COMMENT ON COLUMN agentrun.partials.body IS 'The reply so far, as a call without a stream has it.';
COMMENT ON COLUMN agentrun.partials.at IS 'When it was written.';
