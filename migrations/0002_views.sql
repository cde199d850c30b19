-- What people ask of the journal, as views; and a comment on every relation and column.
--
--   steps          outcomes of steps                       a filter over journal_outcomes
--   tool_calls     … of tools, model_calls … of models     the same filter, by kind
--   turns          sums over steps, a row a turn
--   attempts       every try: failed, finished, or without an outcome
--   transcript     messages in order, a row a message
--   in_doubt       `once` attempts that nobody has decided about     starts from open runs
--   inbox          what waits for a person                           starts from held runs
--   resumes        each time a run changed hands, and what that saved
--   spend          model calls and their price; what may have been billed besides
--
-- Views run with the rights of the reader (security_invoker), or they would pass by row-level
-- security. Recorded values are hostile: only -> and ->> touch them, which never fail on `json`,
-- and nothing in them is cast.

-- Model calls that may have been billed are intents without an outcome. Two small entries for a
-- call that takes seconds; without them, the spend of one day reads the whole journal.
CREATE INDEX journal_model_intents ON agentrun.journal (at)
    WHERE event = 'attempt_started' AND kind = 'model';
CREATE INDEX journal_model_outcomes ON agentrun.journal (run_id, step)
    WHERE event IN ('attempt_failed', 'step_finished') AND kind = 'model';

-- Claims after the first are rare; `resumes` across all runs starts from them.
CREATE INDEX journal_resumes ON agentrun.journal (at) WHERE event = 'claimed' AND epoch > 1;

CREATE FUNCTION agentrun.text_of(content json) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE json_typeof(content)
        WHEN 'string' THEN content #>> '{}'
        WHEN 'array' THEN (
            SELECT string_agg(CASE json_typeof(part)
                       WHEN 'string' THEN part #>> '{}'
                       WHEN 'object' THEN coalesce(
                           part ->> 'text', part ->> 'refusal', part ->> 'thinking',
                           CASE WHEN part ->> 'type' = 'tool_result' THEN part ->> 'content' END,
                           '[' || (part ->> 'type') || ']')
                   END, E'\n' ORDER BY n)
            FROM json_array_elements(
                CASE json_typeof(content) WHEN 'array' THEN content END
            ) WITH ORDINALITY AS e(part, n))
        WHEN 'object' THEN CASE
            WHEN content -> '$ref' IS NOT NULL THEN '[recorded earlier in this run]'
            ELSE content ->> 'text' END
    END
$$;
COMMENT ON FUNCTION agentrun.text_of(json) IS
    'The readable text of a message''s content, whatever shape a provider gave it. Never raises.';

CREATE FUNCTION agentrun.elements(list json) RETURNS TABLE (element json, n bigint)
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT e.value, e.ordinality
    FROM json_array_elements(CASE json_typeof(list) WHEN 'array' THEN list END)
         WITH ORDINALITY AS e
$$;
COMMENT ON FUNCTION agentrun.elements(json) IS
    'The elements of a JSON array with their position; none for anything else. Never raises.';

CREATE VIEW agentrun.steps WITH (security_invoker = true) AS
SELECT j.run_id, r.key, r.agent, j.seq, j.step, j.turn, j.kind, j.name, j.ident, j.effect,
       j.status, j.attempt, j.key AS idempotency_key, j.model, j.input_tokens, j.output_tokens,
       j.cached_tokens, j.reasoning_tokens, j.cost, j.priced_by, j.worker, j.epoch,
       j.started_at, j.at,
       round(extract(epoch FROM j.at - j.started_at) * 1000)::bigint AS duration_ms,
       j.codec, j.input, j.output
FROM agentrun.journal j JOIN agentrun.runs r USING (run_id)
WHERE j.event = 'step_finished';

CREATE VIEW agentrun.tool_calls WITH (security_invoker = true) AS
SELECT run_id, key, agent, seq, step, turn, name, effect, status, attempt, idempotency_key,
       CASE WHEN codec & 4 <> 0 THEN input ELSE input -> 'args' END AS args,
       CASE WHEN codec & 8 <> 0 THEN output ELSE output -> 'result' END AS result,
       CASE WHEN codec & 8 = 0 THEN output -> 'error' ->> 'type' END AS error_type,
       CASE WHEN codec & 8 = 0 THEN output -> 'error' ->> 'message' END AS error,
       worker, started_at, at, duration_ms
FROM agentrun.steps
WHERE kind = 'tool';

CREATE VIEW agentrun.model_calls WITH (security_invoker = true) AS
SELECT run_id, key, agent, seq, step, turn, model, status, attempt, idempotency_key,
       output ->> 'status' AS http_status,
       coalesce(output -> 'body' -> 'choices' -> 0 ->> 'finish_reason',
                output -> 'body' ->> 'stop_reason',
                output -> 'body' ->> 'status') AS finish_reason,
       output ->> 'ending' AS ending,
       input_tokens, output_tokens, cached_tokens, reasoning_tokens, cost, priced_by,
       worker, started_at, at, duration_ms
FROM agentrun.steps
WHERE kind = 'model';

CREATE VIEW agentrun.turns WITH (security_invoker = true) AS
SELECT run_id, key, agent, turn,
       min(started_at) AS started_at,
       max(at) AS at,
       round(extract(epoch FROM max(at) - min(started_at)) * 1000)::bigint AS duration_ms,
       count(*) FILTER (WHERE kind = 'model') AS model_calls,
       count(*) FILTER (WHERE kind = 'tool') AS tool_calls,
       count(*) FILTER (WHERE status = 'error') AS errors,
       sum(input_tokens) AS input_tokens,
       sum(output_tokens) AS output_tokens,
       sum(cost) AS cost,
       count(*) FILTER (WHERE kind = 'model' AND cost IS NULL
                        AND (status <> 'error' OR input_tokens IS NOT NULL)) AS unpriced
FROM agentrun.steps
WHERE turn IS NOT NULL
GROUP BY run_id, key, agent, turn;

CREATE VIEW agentrun.attempts WITH (security_invoker = true) AS
SELECT j.run_id, r.key, r.agent, j.seq, j.step, j.turn, j.kind, j.name, j.model, j.effect,
       j.attempt, true AS answered,
       CASE j.event WHEN 'attempt_failed' THEN 'failed' ELSE j.status END AS status,
       CASE WHEN j.codec & 8 = 0 THEN j.output -> 'error' ->> 'type' END AS error_type,
       CASE WHEN j.codec & 8 = 0 THEN j.output -> 'error' ->> 'message' END AS error,
       j.reason, j.key AS idempotency_key, j.worker, j.epoch, j.started_at, j.at
FROM agentrun.journal j JOIN agentrun.runs r USING (run_id)
WHERE j.event IN ('attempt_failed', 'step_finished')
UNION ALL
SELECT a.run_id, r.key, r.agent, a.seq, a.step, a.turn, a.kind, a.name, a.model, a.effect,
       a.attempt, false,
       CASE WHEN r.status = 'running' AND r.epoch = a.epoch THEN 'in flight'
            ELSE 'no outcome' END,
       NULL, NULL, NULL, a.key, a.worker, a.epoch, a.at, NULL
FROM agentrun.journal a JOIN agentrun.runs r USING (run_id)
WHERE a.event = 'attempt_started'
  AND NOT EXISTS (
      SELECT FROM agentrun.journal o
      WHERE o.run_id = a.run_id AND o.step = a.step AND o.kind = a.kind AND o.seq > a.seq
        AND o.event IN ('attempt_failed', 'step_finished')
        -- an earlier attempt's answer may come late and be adopted: then this one was not sent
        AND (o.attempt = a.attempt OR o.attempt < a.attempt AND o.event = 'step_finished'));

CREATE VIEW agentrun.transcript WITH (security_invoker = true) AS
WITH said AS (  -- the run is joined in each part, so that a condition on its key reaches them
    SELECT r.run_id, r.key, a.seq, a.step, a.turn, a.at, e.n, e.element AS message
    FROM agentrun.runs r JOIN agentrun.journal a USING (run_id)
    CROSS JOIN LATERAL (
        SELECT coalesce(a.input -> 'body' -> 'messages', a.input -> 'body' -> 'input') AS list
    ) m
    CROSS JOIN LATERAL agentrun.elements(
        CASE json_typeof(m.list)
            WHEN 'array' THEN m.list
            WHEN 'object' THEN m.list -> 'then'  -- shared: only what is new in this request
            WHEN 'string' THEN json_build_array(
                json_build_object('role', 'user', 'content', m.list))
        END) e
    WHERE a.event = 'attempt_started' AND a.kind = 'model' AND a.attempt = 1
      AND a.codec & 4 = 0
    UNION ALL
    SELECT r.run_id, r.key, o.seq, o.step, o.turn, o.at, e.n, e.message
    FROM agentrun.runs r JOIN agentrun.journal o USING (run_id)
    CROSS JOIN LATERAL (SELECT o.output -> 'body' AS body) b
    CROSS JOIN LATERAL (
        SELECT c.n, c.element -> 'message' AS message FROM agentrun.elements(b.body -> 'choices') c
        UNION ALL
        SELECT i.n, i.element FROM agentrun.elements(b.body -> 'output') i
        UNION ALL
        SELECT 1, b.body WHERE json_typeof(b.body -> 'content') = 'array'
    ) e
    WHERE o.event = 'step_finished' AND o.kind = 'model' AND o.codec & 8 = 0
    UNION ALL
    SELECT r.run_id, r.key, p.seq, p.step, p.turn, p.at, 1,
           json_build_object('role', CASE p.event WHEN 'step_finished' THEN 'assistant'
                                                  ELSE 'request' END,
                             'content', '[in payloads] ' || coalesce(v.value ->> 'preview', ''))
    FROM agentrun.runs r JOIN agentrun.journal p USING (run_id)
    CROSS JOIN LATERAL (
        SELECT CASE p.event WHEN 'step_finished' THEN p.output ELSE p.input END AS value
    ) v
    WHERE p.kind = 'model'
      AND (p.event = 'attempt_started' AND p.attempt = 1 AND p.codec & 4 <> 0
           OR p.event = 'step_finished' AND p.codec & 8 <> 0)
)
SELECT s.run_id, s.key, s.seq, s.n AS position, s.step, s.turn,
       coalesce(s.message ->> 'role',
                CASE s.message ->> 'type'
                    WHEN 'function_call' THEN 'assistant'
                    WHEN 'function_call_output' THEN 'tool'
                    ELSE s.message ->> 'type' END) AS role,
       CASE WHEN s.message -> '$ref' IS NOT NULL THEN '[recorded earlier in this run]'
            ELSE agentrun.text_of(coalesce(
                s.message -> 'content', s.message -> 'output', s.message -> 'summary'))
       END AS content,
       CASE WHEN json_typeof(s.message -> 'tool_calls') = 'array' THEN s.message -> 'tool_calls'
            WHEN s.message ->> 'type' = 'function_call' THEN json_build_array(s.message)
       END AS tool_calls,
       s.message ->> 'name' AS name,
       coalesce(s.message ->> 'tool_call_id', s.message ->> 'call_id') AS call_id,
       s.at
FROM said s
WHERE json_typeof(s.message) = 'object';

CREATE VIEW agentrun.in_doubt WITH (security_invoker = true) AS
SELECT r.run_id, r.key, r.agent, r.status AS run_status, d.seq, d.step, i.turn, i.kind, i.name,
       i.effect, i.attempt,
       CASE WHEN i.codec & 4 <> 0 THEN i.input ELSE i.input -> 'args' END AS args,
       i.key AS idempotency_key, i.worker, i.at AS started_at, d.at, d.reason
FROM agentrun.runs r
CROSS JOIN LATERAL (
    SELECT DISTINCT ON (j.step) j.event, j.seq, j.step, j.at, j.reason
    FROM agentrun.journal j
    WHERE j.run_id = r.run_id AND j.event IN ('in_doubt', 'resolved', 'step_finished')
    ORDER BY j.step, j.seq DESC
) d
LEFT JOIN LATERAL (
    SELECT a.* FROM agentrun.journal a
    WHERE a.run_id = r.run_id AND a.step = d.step AND a.event = 'attempt_started'
      AND a.seq < d.seq
    ORDER BY a.seq DESC LIMIT 1
) i ON true
WHERE r.status IN ('queued', 'running', 'waiting', 'held') AND r.open_doubt IS NOT NULL
  AND d.event = 'in_doubt';

CREATE VIEW agentrun.inbox WITH (security_invoker = true) AS
SELECT d.run_id, d.key, d.agent, d.step, 'doubt' AS waits_for, d.name, d.effect, d.attempt,
       d.args, d.idempotency_key, d.reason, d.at AS since
FROM agentrun.in_doubt d
WHERE d.run_status = 'held'
  AND NOT EXISTS (  -- somebody has decided, and the run has not read it yet
    SELECT FROM agentrun.mail m
    WHERE m.run_id = d.run_id AND m.step = d.step AND m.sent_at > d.at)
UNION ALL
SELECT r.run_id, r.key, r.agent, p.step, 'decision', coalesce(p.name, i.name),
       coalesce(p.effect, i.effect), coalesce(p.attempt, i.attempt),
       CASE WHEN p.codec & 4 <> 0 THEN p.input ELSE coalesce(p.input, i.input) -> 'args' END,
       coalesce(p.key, i.key), coalesce(p.reason, r.reason), p.at
FROM agentrun.runs r
CROSS JOIN LATERAL (
    SELECT j.* FROM agentrun.journal j
    WHERE j.run_id = r.run_id AND j.event = 'parked'
    ORDER BY j.seq DESC LIMIT 1
) p
LEFT JOIN LATERAL (
    SELECT a.* FROM agentrun.journal a
    WHERE a.run_id = r.run_id AND a.step = p.step AND a.seq < p.seq AND a.name IS NOT NULL
    ORDER BY a.seq DESC LIMIT 1
) i ON true
WHERE r.status = 'held'
  AND NOT EXISTS (
    SELECT FROM agentrun.mail m
    WHERE m.run_id = r.run_id AND m.step = p.step AND m.sent_at > p.at)
  AND NOT EXISTS (SELECT FROM agentrun.in_doubt d WHERE d.run_id = r.run_id AND d.step = p.step);

CREATE VIEW agentrun.resumes WITH (security_invoker = true) AS
SELECT c.run_id, r.key, r.agent, c.seq, c.worker, c.epoch, c.at, c.reason,
       before.replayed, after.rerun, before.saved, before.saved_unpriced, after.in_doubt
FROM agentrun.journal c
JOIN agentrun.runs r USING (run_id)
CROSS JOIN LATERAL (
    SELECT coalesce(min(n.seq), 9223372036854775807) AS seq
    FROM agentrun.journal n
    WHERE n.run_id = c.run_id AND n.seq > c.seq AND n.event = 'claimed'
) next
CROSS JOIN LATERAL (
    -- The last word on each step before this claim, less what an accepted divergence set aside.
    SELECT array_agg(s.step) FILTER (WHERE s.event = 'attempt_started') AS open,
           count(*) FILTER (WHERE s.finished) AS replayed,
           coalesce(sum(s.cost) FILTER (WHERE s.finished), 0) AS saved,
           count(*) FILTER (WHERE s.finished AND s.kind = 'model' AND s.cost IS NULL
                            AND (s.status <> 'error' OR s.input_tokens IS NOT NULL))
               AS saved_unpriced
    FROM (
        SELECT DISTINCT ON (j.step) j.step, j.event, j.kind, j.status, j.cost, j.input_tokens,
               j.event = 'step_finished' OR j.event = 'resolved'
                   AND j.status IN ('happened', 'unknown', 'fail') AS finished,
               first_value(j.seq) OVER first AS born,
               first_value(j.ident) OVER first AS ident
        FROM agentrun.journal j
        WHERE j.run_id = c.run_id AND j.seq < c.seq AND j.step IS NOT NULL
          AND j.event IN ('attempt_started', 'attempt_failed', 'step_finished', 'resolved')
        WINDOW first AS (PARTITION BY j.step ORDER BY j.seq)
        ORDER BY j.step, j.seq DESC
    ) s
    WHERE NOT EXISTS (
        SELECT FROM agentrun.journal d
        WHERE d.run_id = c.run_id AND d.event = 'diverged' AND d.seq < c.seq AND d.seq > s.born
          AND starts_with(s.ident, coalesce(substring(d.ident FROM '^.*[/>]'), ''))
          AND s.born >= (SELECT coalesce(max(b.born), 0) FROM (
                  SELECT min(f.seq) AS born FROM agentrun.journal f
                  WHERE f.run_id = c.run_id AND f.seq < d.seq AND f.ident = d.ident
                    AND f.step IS NOT NULL GROUP BY f.step) b))
) before
CROSS JOIN LATERAL (
    SELECT count(DISTINCT e.step) FILTER (
               WHERE e.event = 'attempt_started' AND e.step = ANY (before.open)) AS rerun,
           -- a decision at once, without the run having parked, is a doubt too
           count(*) FILTER (WHERE e.event = 'in_doubt'
                            OR e.event = 'resolved' AND e.status <> 'reopened'
                               AND e.previous IS DISTINCT FROM 'in_doubt') AS in_doubt
    FROM (
        SELECT j.seq, j.step, j.event, j.status,
               lag(j.event) OVER (PARTITION BY j.step ORDER BY j.seq) AS previous
        FROM agentrun.journal j
        WHERE j.run_id = c.run_id AND j.step IS NOT NULL AND j.seq < next.seq
          AND j.event IN ('attempt_started', 'in_doubt', 'resolved')
    ) e
    WHERE e.seq > c.seq
) after
WHERE c.event = 'claimed' AND c.epoch > 1;

CREATE VIEW agentrun.spend WITH (security_invoker = true) AS
SELECT run_id, key, agent, seq, step, turn, attempt, model,
       CASE WHEN cost IS NULL THEN 'unpriced' ELSE 'confirmed' END AS billing,
       input_tokens, output_tokens, cached_tokens, reasoning_tokens, cost, priced_by, worker, at
FROM agentrun.steps
WHERE kind = 'model'
  AND (status <> 'error' OR cost IS NOT NULL OR input_tokens IS NOT NULL)
UNION ALL
SELECT run_id, key, agent, seq, step, turn, attempt, model, 'possibly billed',
       NULL, NULL, NULL, NULL, NULL, NULL, worker, started_at
FROM agentrun.attempts
WHERE kind = 'model' AND NOT answered;

-- Comments. A column means the same wherever it appears, so most are written once, by name;
-- those of a relation, and of columns that mean something else there, follow.
DO $comments$
DECLARE
    c record;
BEGIN
    FOR c IN
        SELECT t.relname, a.attname, d.said
        FROM (VALUES
            ('run_id', 'The run; derived from namespace and key.'),
            ('key', 'The run''s key, chosen by the caller; unique in the database.'),
            ('agent', 'The agent''s name.'),
            ('seq', 'Position in the run''s journal, from 1, without holes.'),
            ('epoch', 'Fencing number: +1 each time the run changes hands.'),
            ('worker', 'The worker that wrote this.'),
            ('event', 'What happened: created, claimed, attempt_started, step_finished, …'),
            ('at', 'When it was written, by the database clock.'),
            ('step', 'Number of the step in its run, as `agentrun show` prints it.'),
            ('turn', 'Number of the turn: one model call and the tool calls it asked for.'),
            ('kind', 'turn, model, tool, function, wait or child.'),
            ('name', 'Name of the tool or function.'),
            ('ident', 'Where in the path of the code the step stands.'),
            ('attempt', 'Which try at the step, from 1.'),
            ('effect', 'Effect class: read, idempotent, transaction or once.'),
            ('idempotency_key', 'The same for every attempt of the step.'),
            ('status', 'How the step ended: ok, error or abandoned.'),
            ('started_at', 'When the attempt that gave the outcome began.'),
            ('duration_ms', 'Milliseconds from started_at to at.'),
            ('model', 'Model that was asked.'),
            ('input_tokens', 'Tokens of the request, cached ones included; from the provider.'),
            ('output_tokens', 'Tokens of the reply, reasoning included; from the provider.'),
            ('cached_tokens', 'Of the input tokens, those read from the provider''s cache.'),
            ('reasoning_tokens', 'Of the output tokens, those spent on reasoning.'),
            ('cost', 'US dollars. Null is not known, never free.'),
            ('priced_by', 'Price list and its version.'),
            ('unpriced', 'Model calls whose price is not known.'),
            ('overlapping', 'The step began while another of its scope was under way.'),
            ('by', 'Who decided.'),
            ('reason', 'Why, in words.'),
            ('codec', 'Flags: 1 input escaped, 2 output escaped, 4 input in payloads, 8 output in '
                'payloads, 16 input shared with earlier rows, 32 a secret was removed.'),
            ('input', 'What was asked. Escaped: ␛ and four hex digits stand for NUL or a lone '
                'surrogate. In payloads: {payload, size, preview}.'),
            ('output', 'What came of it; written as input is.'),
            ('args', 'Arguments of the tool, by name.'),
            ('result', 'What the tool returned.'),
            ('error_type', 'Type of the error, if it ended in one.'),
            ('error', 'Message of the error, if it ended in one.')
        ) AS d(attname, said)
        JOIN pg_attribute a ON a.attname = d.attname AND a.attnum > 0
        JOIN pg_class t ON t.oid = a.attrelid AND t.relkind IN ('r', 'v')
        WHERE t.relnamespace = 'agentrun'::regnamespace AND t.relname <> 'migrations'
    LOOP
        EXECUTE format('COMMENT ON COLUMN agentrun.%I.%I IS %L', c.relname, c.attname, c.said);
    END LOOP;
END $comments$;

COMMENT ON SCHEMA agentrun IS 'Durable agent runs: what happened, and who did it.';

COMMENT ON TABLE agentrun.runs IS
    'One row a run: a projection of the journal that says what is to be done next.';
COMMENT ON COLUMN agentrun.runs.status IS
    'queued, running, waiting (for time or mail), held (for a person), done, failed, cancelled.';
COMMENT ON COLUMN agentrun.runs.owner IS 'The worker that executes the run; null unless running.';
COMMENT ON COLUMN agentrun.runs.open_doubt IS 'The step for which a parked run waits, if any.';
COMMENT ON COLUMN agentrun.runs.reason IS 'Why the run is parked or failed.';
COMMENT ON COLUMN agentrun.runs.wake_at IS 'When a waiting run is to be claimed again.';
COMMENT ON COLUMN agentrun.runs.created_at IS 'When the run was submitted.';
COMMENT ON COLUMN agentrun.runs.changed_at IS 'When this row last changed.';

COMMENT ON TABLE agentrun.journal IS
    'Append-only, ordered events of all runs: the only source of truth.';
COMMENT ON COLUMN agentrun.journal.batch IS
    'Nonce of the commit that wrote the row; tells a resent row from a rival''s.';
COMMENT ON COLUMN agentrun.journal.key IS
    'Idempotency key of the step; in the first event, the run''s key.';
COMMENT ON COLUMN agentrun.journal.status IS
    'Of an outcome: ok, error, abandoned; of `parked`: waiting, held; of `resolved`: the decision.';
COMMENT ON COLUMN agentrun.journal.fingerprint IS
    'Of what was asked, canonical: detects that resumed code asks for something else.';
COMMENT ON COLUMN agentrun.journal.name IS
    'Name of the tool or function; in the first event, of the agent.';

COMMENT ON TABLE agentrun.payloads IS 'Values too large for a row, compressed; by run and digest.';
COMMENT ON COLUMN agentrun.payloads.digest IS 'Digest of the text; `payload` in the row.';
COMMENT ON COLUMN agentrun.payloads.size IS 'Bytes of the text before compression.';
COMMENT ON COLUMN agentrun.payloads.zstd IS 'The JSON text, compressed with zstd.';

COMMENT ON TABLE agentrun.workers IS 'One row a process that executes runs; its heartbeat.';
COMMENT ON COLUMN agentrun.workers.worker IS 'Name of the worker, unique for each incarnation.';
COMMENT ON COLUMN agentrun.workers.host IS 'Machine it runs on.';
COMMENT ON COLUMN agentrun.workers.pid IS 'Its process id there.';
COMMENT ON COLUMN agentrun.workers.process IS
    'What tells this process from a later one with the same id.';
COMMENT ON COLUMN agentrun.workers.agents IS 'Agents it can execute.';
COMMENT ON COLUMN agentrun.workers.lease IS 'How long after a beat its runs stay its own.';
COMMENT ON COLUMN agentrun.workers.session_pid IS
    'Backend of its heartbeat connection; null behind a pooler.';
COMMENT ON COLUMN agentrun.workers.session_start IS 'When that backend started.';
COMMENT ON COLUMN agentrun.workers.server_start IS 'When the server it registered with started.';
COMMENT ON COLUMN agentrun.workers.started_at IS 'When it registered.';
COMMENT ON COLUMN agentrun.workers.beat_at IS 'Last heartbeat, by the database clock.';
COMMENT ON COLUMN agentrun.workers.dead_at IS 'When it was declared dead; final.';
COMMENT ON COLUMN agentrun.workers.cause IS 'Why it was declared dead, or `stopped`.';

COMMENT ON TABLE agentrun.mail IS
    'What others tell a run: resolutions, cancels, signals. The owner journals what it reads.';
COMMENT ON COLUMN agentrun.mail.id IS 'Chosen by the sender, so that sending twice is once.';
COMMENT ON COLUMN agentrun.mail.kind IS 'What the mail is for.';
COMMENT ON COLUMN agentrun.mail.step IS 'The step it is about, if any.';
COMMENT ON COLUMN agentrun.mail.by IS 'Who sent it.';
COMMENT ON COLUMN agentrun.mail.codec IS 'Flags of the payload, as in the journal''s input.';
COMMENT ON COLUMN agentrun.mail.payload IS 'What it says.';
COMMENT ON COLUMN agentrun.mail.sent_at IS 'When it arrived, by the database clock.';

COMMENT ON TABLE agentrun.late_results IS
    'Answers that arrived after their worker lost the run; the owner may adopt them. Insert only.';
COMMENT ON COLUMN agentrun.late_results.worker IS 'The former owner, which got the answer.';

COMMENT ON VIEW agentrun.steps IS
    'Outcomes of steps. A step that was reopened has a row for each outcome; the last one counts.';
COMMENT ON VIEW agentrun.tool_calls IS 'Outcomes of tool calls: who did what, with what result.';
COMMENT ON VIEW agentrun.model_calls IS 'Outcomes of model calls.';
COMMENT ON COLUMN agentrun.model_calls.http_status IS 'Status of the provider''s answer, as text.';
COMMENT ON COLUMN agentrun.model_calls.finish_reason IS 'Why the model stopped, as it says.';
COMMENT ON COLUMN agentrun.model_calls.ending IS
    'complete, abandoned (the code read no further) or cut (the connection broke).';
COMMENT ON VIEW agentrun.turns IS 'Sums over the finished steps of each turn.';
COMMENT ON COLUMN agentrun.turns.started_at IS 'When its first step began.';
COMMENT ON COLUMN agentrun.turns.at IS 'When its last step ended.';
COMMENT ON COLUMN agentrun.turns.model_calls IS 'Number of model calls.';
COMMENT ON COLUMN agentrun.turns.tool_calls IS 'Number of tool calls.';
COMMENT ON COLUMN agentrun.turns.errors IS 'Number of steps that ended in an error.';
COMMENT ON COLUMN agentrun.turns.cost IS 'US dollars of the priced model calls; see unpriced.';
COMMENT ON VIEW agentrun.attempts IS 'Every try at a step, those without an outcome included.';
COMMENT ON COLUMN agentrun.attempts.status IS
    'ok, error, abandoned; failed: another followed; in flight; no outcome: its worker was lost.';
COMMENT ON COLUMN agentrun.attempts.answered IS
    'Whether an outcome is recorded; if not, the effect may or may not have taken place.';
COMMENT ON COLUMN agentrun.attempts.seq IS 'Journal row of the outcome, or else of the intent.';
COMMENT ON COLUMN agentrun.attempts.started_at IS 'When the attempt began.';
COMMENT ON COLUMN agentrun.attempts.at IS 'When it ended; null without an outcome.';
COMMENT ON VIEW agentrun.transcript IS
    'The conversation, a row a message: ORDER BY seq, position. Of each request only what is new '
    'where the row shares (see journal.codec); a system prompt outside the messages is not listed.';
COMMENT ON COLUMN agentrun.transcript.position IS 'Position within the same journal row.';
COMMENT ON COLUMN agentrun.transcript.role IS
    'system, user, assistant, tool, …; `request` for one that lies in payloads.';
COMMENT ON COLUMN agentrun.transcript.content IS 'Text of the message; parts joined by newlines.';
COMMENT ON COLUMN agentrun.transcript.tool_calls IS 'Tool calls the message asks for, as sent.';
COMMENT ON COLUMN agentrun.transcript.name IS 'Name given in the message.';
COMMENT ON COLUMN agentrun.transcript.call_id IS 'The tool call that the message answers.';
COMMENT ON VIEW agentrun.in_doubt IS
    'Attempts of `once` effects with an intent and no outcome, in open runs, not decided yet.';
COMMENT ON COLUMN agentrun.in_doubt.run_status IS 'Status of the run.';
COMMENT ON COLUMN agentrun.in_doubt.worker IS 'The worker that began the attempt.';
COMMENT ON COLUMN agentrun.in_doubt.started_at IS 'When the attempt began.';
COMMENT ON COLUMN agentrun.in_doubt.at IS 'When the doubt was raised.';
COMMENT ON VIEW agentrun.inbox IS
    'What waits for a person: doubts to resolve, decisions to take.';
COMMENT ON COLUMN agentrun.inbox.waits_for IS
    'doubt: `agentrun resolve`; decision: an approval or a budget, see reason.';
COMMENT ON COLUMN agentrun.inbox.since IS 'Since when it waits.';
COMMENT ON VIEW agentrun.resumes IS
    'Each time a run changed hands: what was served from the journal, and what was done again.';
COMMENT ON COLUMN agentrun.resumes.worker IS 'The worker that took the run.';
COMMENT ON COLUMN agentrun.resumes.replayed IS 'Steps finished before, not performed again.';
COMMENT ON COLUMN agentrun.resumes.rerun IS 'Steps that were open and were attempted again.';
COMMENT ON COLUMN agentrun.resumes.saved IS 'US dollars of model calls that were not paid again.';
COMMENT ON COLUMN agentrun.resumes.saved_unpriced IS 'Such calls whose price is not known.';
COMMENT ON COLUMN agentrun.resumes.in_doubt IS 'Doubts that this resume raised.';
COMMENT ON VIEW agentrun.spend IS
    'Model calls and their price, and attempts that may have been billed without an answer.';
COMMENT ON COLUMN agentrun.spend.seq IS 'Journal row of the outcome, or else of the intent.';
COMMENT ON COLUMN agentrun.spend.billing IS
    'confirmed; unpriced: answered, price not known; possibly billed: sent, no outcome recorded.';
