-- Budgets: what runs may spend, and what is reserved of it. Both are projections of journals.
--
--   budgets        one row a run with a budget      with the run; raised by who approves
--   reservations   one row an attempt at a call     by the run's owner, before the intent
--
-- A reservation is decided on while the lock of its tree of runs is held, in a transaction of its
-- own; its amounts go into the journal with the attempt's intent. It stands until the journal has
-- the outcome, and if that never comes, for good: the call may have been billed.

CREATE TABLE agentrun.budgets (
    run_id       uuid    NOT NULL PRIMARY KEY,
    usd          numeric,
    tokens       bigint,
    turns        integer,
    model_calls  integer,
    wall         double precision,
    on_exhausted text    NOT NULL DEFAULT 'pause'
);

CREATE TABLE agentrun.reservations (
    run_id   uuid    NOT NULL,
    step     integer NOT NULL,
    attempt  integer NOT NULL,
    turn     integer,
    epoch    bigint  NOT NULL,
    usd      numeric,
    tokens   bigint  NOT NULL,
    billing  text    NOT NULL DEFAULT 'reserved',
    PRIMARY KEY (run_id, step, attempt)
);
CREATE INDEX reservations_open ON agentrun.reservations (run_id) WHERE billing = 'reserved';

CREATE FUNCTION agentrun.top(below uuid) RETURNS uuid
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    WITH RECURSIVE above AS (
        SELECT r.run_id, r.parent FROM agentrun.runs r WHERE r.run_id = below
        UNION ALL
        SELECT r.run_id, r.parent FROM above a JOIN agentrun.runs r ON r.run_id = a.parent
    )
    SELECT run_id FROM above WHERE parent IS NULL
$$;
COMMENT ON FUNCTION agentrun.top IS 'The run at the top of the tree of child runs.';

COMMENT ON TABLE agentrun.budgets IS 'What a run may spend, its children included.';
COMMENT ON COLUMN agentrun.budgets.run_id IS 'The run; derived from namespace and key.';
COMMENT ON COLUMN agentrun.budgets.usd IS 'US dollars; null is no limit, as in all these columns.';
COMMENT ON COLUMN agentrun.budgets.tokens IS 'Tokens of requests and replies together.';
COMMENT ON COLUMN agentrun.budgets.turns IS 'Turns.';
COMMENT ON COLUMN agentrun.budgets.model_calls IS 'Model calls.';
COMMENT ON COLUMN agentrun.budgets.wall IS 'Seconds since the run was created.';
COMMENT ON COLUMN agentrun.budgets.on_exhausted IS 'pause (into the inbox) or fail.';

COMMENT ON TABLE agentrun.reservations IS
    'What attempts at model calls take of the budgets above them, at most or in fact.';
COMMENT ON COLUMN agentrun.reservations.run_id IS 'The run; derived from namespace and key.';
COMMENT ON COLUMN agentrun.reservations.step IS 'Number of the step in its run.';
COMMENT ON COLUMN agentrun.reservations.attempt IS 'Which try at the step, from 1.';
COMMENT ON COLUMN agentrun.reservations.turn IS 'Number of the turn.';
COMMENT ON COLUMN agentrun.reservations.epoch IS 'Of the claim that reserved it.';
COMMENT ON COLUMN agentrun.reservations.usd IS
    'US dollars, the real ones once they are known; null: the model has no known price.';
COMMENT ON COLUMN agentrun.reservations.tokens IS 'Tokens, the real ones once they are known.';
COMMENT ON COLUMN agentrun.reservations.billing IS
    'reserved, while the journal has no outcome; then as in spend, or not billed.';
