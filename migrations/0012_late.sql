-- Answers that came after their worker had lost the run: what they cost, and whether that was paid
-- twice. An attempt whose answer is here was billed for certain, and is no longer possibly so.
--
--   late_answers   a row a late answer to a model call    over late_results and the journal

ALTER TABLE agentrun.late_results
    ADD COLUMN model text,
    ADD COLUMN input_tokens integer,
    ADD COLUMN output_tokens integer,
    ADD COLUMN cached_tokens integer,
    ADD COLUMN reasoning_tokens integer,
    ADD COLUMN audio_tokens integer,
    ADD COLUMN cost numeric,
    ADD COLUMN priced_by text;

CREATE VIEW agentrun.late_answers WITH (security_invoker = true) AS
SELECT l.run_id, r.key, r.agent, i.seq, l.step, i.turn, l.attempt,
       coalesce(l.model, i.model) AS model,
       CASE WHEN o.attempt = l.attempt THEN 'adopted'
            WHEN b.billing IN ('confirmed', 'unpriced') AND o.billing IN ('confirmed', 'unpriced')
                THEN 'paid twice'
            ELSE b.billing END AS billing,
       l.input_tokens, l.output_tokens, l.cached_tokens, l.reasoning_tokens, l.audio_tokens,
       l.cost, CASE WHEN l.cost IS NULL THEN i.cost END AS reserved,
       coalesce(l.priced_by, i.priced_by) AS priced_by, l.worker, l.at,
       o.attempt AS other_attempt, o.worker AS other_worker, o.cost AS other_cost, o.at AS other_at,
       (SELECT c.reason FROM agentrun.journal c
        WHERE c.run_id = l.run_id AND c.event = 'claimed' AND c.seq > i.seq
        ORDER BY c.seq LIMIT 1) AS reason
FROM agentrun.late_results l
JOIN agentrun.runs r USING (run_id)
CROSS JOIN LATERAL (
    SELECT agentrun.billing(
        'step_finished', l.status, l.codec, l.output, l.cost, l.input_tokens)
) b (billing)
CROSS JOIN LATERAL (
    SELECT a.seq, a.turn, a.model, a.cost, a.priced_by FROM agentrun.journal a
    WHERE a.run_id = l.run_id AND a.step = l.step AND a.attempt = l.attempt AND a.kind = 'model'
      AND a.event = 'attempt_started'
    ORDER BY a.seq DESC LIMIT 1
) i
LEFT JOIN LATERAL (
    SELECT f.attempt, f.worker, f.cost, f.at,
           agentrun.billing(f.event, f.status, f.codec, f.output, f.cost, f.input_tokens) AS billing
    FROM agentrun.journal f
    WHERE f.run_id = l.run_id AND f.step = l.step AND f.event = 'step_finished' AND f.seq > i.seq
    ORDER BY f.seq DESC LIMIT 1
) o ON true;

CREATE OR REPLACE VIEW agentrun.spend WITH (security_invoker = true) AS
SELECT o.run_id, r.key, r.agent, o.seq, o.step, o.turn, o.attempt,
       coalesce(o.model, i.model) AS model, b.billing, o.input_tokens, o.output_tokens,
       o.cached_tokens, o.reasoning_tokens, o.audio_tokens, o.cost,
       CASE WHEN o.cost IS NULL THEN i.cost END AS reserved,
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
WHERE a.kind = 'model' AND NOT a.answered
  AND NOT EXISTS (SELECT FROM agentrun.late_results l
                  WHERE l.run_id = a.run_id AND l.step = a.step AND l.attempt = a.attempt)
UNION ALL
SELECT l.run_id, l.key, l.agent, l.seq, l.step, l.turn, l.attempt, l.model, l.billing,
       l.input_tokens, l.output_tokens, l.cached_tokens, l.reasoning_tokens, l.audio_tokens,
       l.cost, l.reserved, l.priced_by, l.worker, l.at
FROM agentrun.late_answers l
WHERE l.billing NOT IN ('adopted', 'not billed');

CREATE OR REPLACE VIEW agentrun.spend_by_run WITH (security_invoker = true) AS
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
           count(*) AS tree_runs,
           sum(c.twice) FILTER (WHERE t.run_id = r.run_id)::bigint AS paid_twice,
           sum(c.twice)::bigint AS tree_paid_twice
    FROM agentrun.tree(r.run_id) t
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(s.cost), 0) AS cost, count(*) AS calls,
               count(*) FILTER (WHERE s.billing = 'unpriced'
                                OR s.billing = 'paid twice' AND s.cost IS NULL) AS unpriced,
               count(*) FILTER (WHERE s.billing IN ('possibly billed', 'reserved')) AS unknown,
               count(*) FILTER (WHERE s.billing = 'paid twice') AS twice
        FROM agentrun.spend s WHERE s.run_id = t.run_id
    ) c
) s;

COMMENT ON COLUMN agentrun.late_results.model IS 'The model that answered a model call.';
COMMENT ON COLUMN agentrun.late_results.input_tokens IS 'Cached ones included; from the provider.';
COMMENT ON COLUMN agentrun.late_results.output_tokens IS 'Reasoning included; from the provider.';
COMMENT ON COLUMN agentrun.late_results.cached_tokens IS
    'Of the input tokens, those read from a cache.';
COMMENT ON COLUMN agentrun.late_results.reasoning_tokens IS
    'Of the output tokens, those of reasoning.';
COMMENT ON COLUMN agentrun.late_results.audio_tokens IS
    'Of the input and output tokens, those of audio.';
COMMENT ON COLUMN agentrun.late_results.cost IS 'US dollars. Null is not known, never free.';
COMMENT ON COLUMN agentrun.late_results.priced_by IS 'Price list and its version.';

COMMENT ON COLUMN agentrun.spend.billing IS
    'confirmed; unpriced: answered, price not known; reserved: under way; possibly billed: sent, '
    'and what became of it is not known; paid twice: see late_answers.';
COMMENT ON COLUMN agentrun.spend_by_run.paid_twice IS
    'Of its calls, those whose answer came after another was paid.';
COMMENT ON COLUMN agentrun.spend_by_run.tree_paid_twice IS
    'As paid_twice, of the run and all below it.';

COMMENT ON VIEW agentrun.late_answers IS
    'Answers to model calls that came after their worker had lost the run: adopted, or paid twice.';
COMMENT ON COLUMN agentrun.late_answers.run_id IS 'The run; derived from namespace and key.';
COMMENT ON COLUMN agentrun.late_answers.key IS 'The run''s key, chosen by the caller.';
COMMENT ON COLUMN agentrun.late_answers.agent IS 'The agent''s name.';
COMMENT ON COLUMN agentrun.late_answers.seq IS 'Journal row of the intent.';
COMMENT ON COLUMN agentrun.late_answers.step IS 'Number of the step in its run.';
COMMENT ON COLUMN agentrun.late_answers.turn IS 'Number of the turn.';
COMMENT ON COLUMN agentrun.late_answers.attempt IS 'The try that it answers, from 1.';
COMMENT ON COLUMN agentrun.late_answers.model IS 'The model that answered, or else that was asked.';
COMMENT ON COLUMN agentrun.late_answers.billing IS
    'adopted: it is the outcome of its step; paid twice: another attempt''s answer is, and both '
    'are billed; while there is no outcome, and where the other was not billed, as in spend.';
COMMENT ON COLUMN agentrun.late_answers.input_tokens IS 'Cached ones included; from the provider.';
COMMENT ON COLUMN agentrun.late_answers.output_tokens IS 'Reasoning included; from the provider.';
COMMENT ON COLUMN agentrun.late_answers.cached_tokens IS
    'Of the input tokens, those read from a cache.';
COMMENT ON COLUMN agentrun.late_answers.reasoning_tokens IS
    'Of the output tokens, those of reasoning.';
COMMENT ON COLUMN agentrun.late_answers.audio_tokens IS
    'Of the input and output tokens, those of audio.';
COMMENT ON COLUMN agentrun.late_answers.cost IS 'US dollars. Null is not known, never free.';
COMMENT ON COLUMN agentrun.late_answers.reserved IS
    'US dollars it costs at most, where a budget reserved them and the cost is not known.';
COMMENT ON COLUMN agentrun.late_answers.priced_by IS 'Price list and its version.';
COMMENT ON COLUMN agentrun.late_answers.worker IS 'The worker that got it.';
COMMENT ON COLUMN agentrun.late_answers.at IS 'When it came, by the database clock.';
COMMENT ON COLUMN agentrun.late_answers.other_attempt IS 'The attempt that is the outcome.';
COMMENT ON COLUMN agentrun.late_answers.other_worker IS 'The worker that made that attempt.';
COMMENT ON COLUMN agentrun.late_answers.other_cost IS 'US dollars of that attempt.';
COMMENT ON COLUMN agentrun.late_answers.other_at IS 'When its outcome was written.';
COMMENT ON COLUMN agentrun.late_answers.reason IS 'Why the run changed hands meanwhile.';
