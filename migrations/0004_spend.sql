-- What runs cost: by call, by run, and by tree of runs.
--
--   spend          a row an attempt at a model call that was paid, may have been, or is under way
--   spend_by_run   sums over it, a row a run, with those of its child runs beside them
--   tree           a run and all below it
--
-- A budget reserves the worst case of a call with its intent (the columns `output_tokens`, `cost`
-- and others of an `attempt_started` row); `spend` shows it until it is known what was used.

ALTER TABLE agentrun.runs ADD COLUMN parent uuid;
CREATE INDEX runs_parent ON agentrun.runs (parent) WHERE parent IS NOT NULL;
COMMENT ON COLUMN agentrun.runs.parent IS 'The run that called this one as its child, if any.';

UPDATE agentrun.runs r SET parent = p.run_id
FROM agentrun.journal c JOIN agentrun.runs p ON p.key = c.input -> 'parent' ->> 'key'
WHERE c.run_id = r.run_id AND c.seq = 1 AND c.codec & 4 = 0;

ALTER TABLE agentrun.journal ADD COLUMN audio_tokens integer;

-- The spend of one day must not read the whole journal: neither its outcomes nor its failures.
CREATE INDEX journal_model_ends ON agentrun.journal (at)
    WHERE event IN ('attempt_failed', 'step_finished') AND kind = 'model';

-- `CREATE OR REPLACE` adds columns at the end only.
CREATE OR REPLACE VIEW agentrun.steps WITH (security_invoker = true) AS
SELECT j.run_id, r.key, r.agent, j.seq, j.step, j.turn, j.kind, j.name, j.ident, j.effect,
       j.status, j.attempt, j.key AS idempotency_key, j.model, j.input_tokens, j.output_tokens,
       j.cached_tokens, j.reasoning_tokens, j.cost, j.priced_by, j.worker, j.epoch,
       j.started_at, j.at,
       round(extract(epoch FROM j.at - j.started_at) * 1000)::bigint AS duration_ms,
       j.codec, j.input, j.output, j.audio_tokens
FROM agentrun.journal j JOIN agentrun.runs r USING (run_id)
WHERE j.event = 'step_finished';

CREATE FUNCTION agentrun.tree(root uuid) RETURNS TABLE (run_id uuid)
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    WITH RECURSIVE below AS (
        SELECT root AS run_id
        UNION ALL
        SELECT r.run_id FROM below b JOIN agentrun.runs r ON r.parent = b.run_id
    )
    SELECT run_id FROM below
$$;
COMMENT ON FUNCTION agentrun.tree IS 'A run and all runs below it: its children, and theirs.';

CREATE FUNCTION agentrun.billing(
    event text, status text, codec smallint, output json, cost numeric, input_tokens integer
) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE
        WHEN cost IS NOT NULL THEN 'confirmed'
        WHEN input_tokens IS NOT NULL THEN 'unpriced'
        WHEN event = 'step_finished' AND status IN ('ok', 'abandoned') THEN 'unpriced'
        WHEN codec & 8 <> 0 THEN 'possibly billed'
        -- refused by the provider, or never sent
        WHEN output ->> 'status' ~ '^[45]' OR output -> 'error' ->> 'type' ~ '^HTTP '
            OR coalesce(output -> 'error' ->> 'type', output -> 'error' ->> 0) IN
               ('ConnectError', 'ConnectTimeout', 'PoolTimeout', 'ProxyError',
                'UnsupportedProtocol', 'LocalProtocolError')
            THEN 'not billed'
        ELSE 'possibly billed'
    END
$$;
COMMENT ON FUNCTION agentrun.billing IS
    'Whether the provider charges for an attempt at a model call that ended so.';

DROP VIEW agentrun.spend;
CREATE VIEW agentrun.spend WITH (security_invoker = true) AS
SELECT o.run_id, r.key, r.agent, o.seq, o.step, o.turn, o.attempt,
       coalesce(o.model, i.model) AS model, b.billing, o.input_tokens, o.output_tokens, o.cached_tokens, o.reasoning_tokens,
       o.audio_tokens, o.cost, CASE WHEN o.cost IS NULL THEN i.cost END AS reserved,
       coalesce(o.priced_by, i.priced_by) AS priced_by, o.worker, o.at
FROM agentrun.journal o
JOIN agentrun.runs r USING (run_id)
CROSS JOIN LATERAL (
    SELECT agentrun.billing(o.event, o.status, o.codec, o.output, o.cost, o.input_tokens)
) b (billing)
LEFT JOIN LATERAL (
    SELECT a.model, a.cost, a.priced_by FROM agentrun.journal a
    WHERE o.cost IS NULL AND a.run_id = o.run_id AND a.step = o.step AND a.attempt = o.attempt
      AND a.event = 'attempt_started' AND a.seq < o.seq
    ORDER BY a.seq DESC LIMIT 1
) i ON true
WHERE o.event IN ('attempt_failed', 'step_finished') AND o.kind = 'model'
  AND b.billing <> 'not billed'
UNION ALL
SELECT a.run_id, a.key, a.agent, a.seq, a.step, a.turn, a.attempt, i.model,
       CASE a.status WHEN 'in flight' THEN 'reserved' ELSE 'possibly billed' END,
       NULL, NULL, NULL, NULL, NULL, NULL, i.cost, i.priced_by, a.worker, a.started_at
FROM agentrun.attempts a JOIN agentrun.journal i USING (run_id, seq)
WHERE a.kind = 'model' AND NOT a.answered;

CREATE VIEW agentrun.spend_by_run WITH (security_invoker = true) AS
SELECT r.run_id, r.key, r.agent, p.key AS parent_key, s.*
FROM agentrun.runs r
LEFT JOIN agentrun.runs p ON p.run_id = r.parent
CROSS JOIN LATERAL (
    SELECT sum(c.cost) FILTER (WHERE t.run_id = r.run_id) AS cost,
           sum(c.calls) FILTER (WHERE t.run_id = r.run_id)::bigint AS calls,
           sum(c.unpriced) FILTER (WHERE t.run_id = r.run_id)::bigint AS unpriced,
           sum(c.unknown) FILTER (WHERE t.run_id = r.run_id)::bigint AS possibly_billed,
           sum(c.cost) AS tree_cost,
           sum(c.calls)::bigint AS tree_calls,
           sum(c.unpriced)::bigint AS tree_unpriced,
           sum(c.unknown)::bigint AS tree_possibly_billed,
           count(*) AS tree_runs
    FROM agentrun.tree(r.run_id) t
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(s.cost), 0) AS cost, count(*) AS calls,
               count(*) FILTER (WHERE s.billing = 'unpriced') AS unpriced,
               count(*) FILTER (WHERE s.billing IN ('possibly billed', 'reserved')) AS unknown
        FROM agentrun.spend s WHERE s.run_id = t.run_id
    ) c
) s;

COMMENT ON COLUMN agentrun.journal.audio_tokens IS
    'Of the input and output tokens, those of audio.';
COMMENT ON COLUMN agentrun.steps.audio_tokens IS
    'Of the input and output tokens, those of audio.';
COMMENT ON COLUMN agentrun.journal.cost IS
    'US dollars; of an attempt_started row what a budget reserved. Null is not known, never free.';
COMMENT ON COLUMN agentrun.journal.input_tokens IS
    'From the provider; of an attempt_started row the estimate that a budget was asked for.';
COMMENT ON COLUMN agentrun.journal.output_tokens IS
    'From the provider; of an attempt_started row the most that may be written.';

COMMENT ON VIEW agentrun.spend IS
    'Attempts at model calls: what they cost, or may have cost. Group it by agent, model, turn, '
    'at::date; spend_by_run has the sums of runs and their children.';
COMMENT ON COLUMN agentrun.spend.run_id IS 'The run; derived from namespace and key.';
COMMENT ON COLUMN agentrun.spend.key IS 'The run''s key, chosen by the caller.';
COMMENT ON COLUMN agentrun.spend.agent IS 'The agent''s name.';
COMMENT ON COLUMN agentrun.spend.seq IS 'Journal row of the outcome, or else of the intent.';
COMMENT ON COLUMN agentrun.spend.step IS 'Number of the step in its run.';
COMMENT ON COLUMN agentrun.spend.turn IS 'Number of the turn.';
COMMENT ON COLUMN agentrun.spend.attempt IS 'Which try at the step, from 1.';
COMMENT ON COLUMN agentrun.spend.model IS 'The model that answered, or else that was asked.';
COMMENT ON COLUMN agentrun.spend.billing IS
    'confirmed; unpriced: answered, price not known; reserved: under way; possibly billed: sent, '
    'and what became of it is not known.';
COMMENT ON COLUMN agentrun.spend.input_tokens IS 'Cached ones included; from the provider.';
COMMENT ON COLUMN agentrun.spend.output_tokens IS 'Reasoning included; from the provider.';
COMMENT ON COLUMN agentrun.spend.cached_tokens IS 'Of the input tokens, those read from a cache.';
COMMENT ON COLUMN agentrun.spend.reasoning_tokens IS 'Of the output tokens, those of reasoning.';
COMMENT ON COLUMN agentrun.spend.audio_tokens IS 'Of input and output tokens, those of audio.';
COMMENT ON COLUMN agentrun.spend.cost IS 'US dollars. Null is not known, never free.';
COMMENT ON COLUMN agentrun.spend.reserved IS
    'US dollars it costs at most, where a budget reserved them and the cost is not known.';
COMMENT ON COLUMN agentrun.spend.priced_by IS 'Price list and its version.';
COMMENT ON COLUMN agentrun.spend.worker IS 'The worker that wrote this.';
COMMENT ON COLUMN agentrun.spend.at IS 'When it was written, by the database clock.';

COMMENT ON VIEW agentrun.spend_by_run IS 'What each run has cost, and its tree of child runs.';
COMMENT ON COLUMN agentrun.spend_by_run.run_id IS 'The run; derived from namespace and key.';
COMMENT ON COLUMN agentrun.spend_by_run.key IS 'The run''s key, chosen by the caller.';
COMMENT ON COLUMN agentrun.spend_by_run.agent IS 'The agent''s name.';
COMMENT ON COLUMN agentrun.spend_by_run.parent_key IS 'The run whose child it is, if any.';
COMMENT ON COLUMN agentrun.spend_by_run.cost IS 'US dollars of its confirmed calls.';
COMMENT ON COLUMN agentrun.spend_by_run.calls IS 'Its attempts at model calls that count in spend.';
COMMENT ON COLUMN agentrun.spend_by_run.unpriced IS 'Of them, those whose price is not known.';
COMMENT ON COLUMN agentrun.spend_by_run.possibly_billed IS
    'Of them, those possibly billed, or under way.';
COMMENT ON COLUMN agentrun.spend_by_run.tree_cost IS 'As cost, of the run and all below it.';
COMMENT ON COLUMN agentrun.spend_by_run.tree_calls IS 'As calls, of the run and all below it.';
COMMENT ON COLUMN agentrun.spend_by_run.tree_unpriced IS 'As unpriced, of the run and all below.';
COMMENT ON COLUMN agentrun.spend_by_run.tree_possibly_billed IS
    'As possibly_billed, of the run and all below it.';
COMMENT ON COLUMN agentrun.spend_by_run.tree_runs IS 'How many runs that are.';
