-- A decision about an approval is no doubt, and a step may be cancelled by its agent.

CREATE OR REPLACE VIEW agentrun.resumes WITH (security_invoker = true) AS
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
                            OR e.event = 'resolved'
                               AND e.status NOT IN ('reopened', 'approved', 'rejected')
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

COMMENT ON COLUMN agentrun.steps.status IS 'How the step ended: ok, error, abandoned or cancelled.';
COMMENT ON COLUMN agentrun.tool_calls.status IS
    'How the step ended: ok, error, abandoned or cancelled.';
COMMENT ON COLUMN agentrun.model_calls.status IS
    'How the step ended: ok, error, abandoned or cancelled.';
COMMENT ON COLUMN agentrun.attempts.status IS
    'ok, error, abandoned, cancelled; failed: another followed; in flight; no outcome: its worker '
    'was lost.';
COMMENT ON COLUMN agentrun.journal.status IS
    'Of an outcome: ok, error, abandoned, cancelled; of `parked`: waiting, held; of `resolved`: the '
    'decision; of `attempt_failed`: rolled_back where the database ended the transaction.';
