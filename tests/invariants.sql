-- What must hold in every database, at any moment: no row back when all is well.
--
-- %(status_after)s is core.state.STATUS_AFTER as JSON, so that the table of states stands once.

WITH journal AS (
    SELECT *,
           row_number() OVER run AS place,
           lag(epoch) OVER run AS epoch_before
    FROM agentrun.journal
    WINDOW run AS (PARTITION BY run_id ORDER BY seq)
),
moves AS (  -- the last event of each run that decides about its status
    SELECT DISTINCT ON (j.run_id) j.*,
           coalesce(s.value, j.status) AS run_status
    FROM journal j LEFT JOIN json_each_text(%(status_after)s::json) s ON s.key = j.event
    WHERE s.key IS NOT NULL OR j.event = 'parked'
    ORDER BY j.run_id, j.seq DESC
),
projected AS (
    SELECT run_id, run_status AS status, epoch,
           CASE WHEN run_status = 'running' THEN worker END AS owner,
           parked_for, CASE WHEN event = 'parked' THEN step END AS parked_step,
           CASE WHEN event IN ('parked', 'run_failed', 'run_cancelled') THEN reason END AS reason
    FROM moves
),
summed AS (
    /* summaries.sql */
)
SELECT 'hole' AS rule, run_id, 'seq ' || seq || ' is row ' || place AS detail
FROM journal WHERE seq <> place
UNION ALL
SELECT 'beginning', run_id, event || ' in epoch ' || epoch
FROM journal WHERE place = 1 AND (event <> 'created' OR epoch <> 0)
UNION ALL
SELECT 'epoch', run_id, event || ' at ' || seq || ': ' || epoch_before || ' to ' || epoch
FROM journal WHERE place > 1 AND epoch <> epoch_before + (event = 'claimed')::int
UNION ALL
SELECT 'owners of an epoch', run_id, 'epoch ' || epoch || ': ' || string_agg(DISTINCT worker, ', ')
FROM journal GROUP BY run_id, epoch HAVING count(DISTINCT worker) > 1
UNION ALL
SELECT 'outcome twice', run_id, 'step ' || step || ' at ' || seq
FROM journal o
WHERE event = 'step_finished' AND EXISTS (
    SELECT FROM journal earlier
    WHERE earlier.run_id = o.run_id AND earlier.step = o.step AND earlier.seq < o.seq
      AND earlier.event = 'step_finished'
      AND NOT EXISTS (
          SELECT FROM journal between_
          WHERE between_.run_id = o.run_id AND between_.seq BETWEEN earlier.seq AND o.seq
            AND (between_.event = 'diverged'
                 OR between_.event = 'resolved' AND between_.status = 'reopened'
                    AND between_.step = o.step)))
UNION ALL
SELECT 'attempt after the outcome', run_id, 'step ' || step || ' at ' || seq
FROM journal a
WHERE event = 'attempt_started' AND EXISTS (
    SELECT FROM journal earlier
    WHERE earlier.run_id = a.run_id AND earlier.step = a.step AND earlier.seq < a.seq
      AND earlier.event = 'step_finished'
      AND NOT EXISTS (
          SELECT FROM journal between_
          WHERE between_.run_id = a.run_id AND between_.seq BETWEEN earlier.seq AND a.seq
            AND between_.event = 'resolved' AND between_.status = 'reopened'
            AND between_.step = a.step))
UNION ALL
SELECT 'letter read for nothing', run_id, 'step ' || step || ' at ' || seq
FROM journal r
WHERE event = 'received' AND kind = 'wait' AND NOT EXISTS (
    SELECT FROM journal outcome
    WHERE outcome.run_id = r.run_id AND outcome.seq = r.seq + 1 AND outcome.step = r.step
      AND outcome.event = 'step_finished')
UNION ALL
SELECT 'outcome without intent', run_id, 'step ' || step || ' attempt ' || attempt || ' at ' || seq
FROM journal o
WHERE event = 'step_finished' AND effect NOT IN ('read', 'transaction') AND NOT EXISTS (
    SELECT FROM journal intent
    WHERE intent.run_id = o.run_id AND intent.step = o.step AND intent.seq < o.seq
      AND (intent.event = 'attempt_started' AND intent.attempt = o.attempt
           OR intent.event = 'resolved'))
UNION ALL
SELECT 'run without journal', run_id, key FROM agentrun.runs
WHERE run_id NOT IN (SELECT run_id FROM journal)
UNION ALL
SELECT 'left of a pruned run', t.run_id, left_.part
FROM agentrun.tombstones t JOIN (
    SELECT run_id, 'runs' AS part FROM agentrun.runs UNION ALL
    SELECT run_id, 'journal' FROM journal UNION ALL
    SELECT run_id, 'summaries' FROM agentrun.summaries UNION ALL
    SELECT run_id, 'payloads' FROM agentrun.payloads UNION ALL
    SELECT run_id, 'mail' FROM agentrun.mail UNION ALL
    SELECT run_id, 'late_results' FROM agentrun.late_results UNION ALL
    SELECT run_id, 'budgets' FROM agentrun.budgets UNION ALL
    SELECT run_id, 'reservations' FROM agentrun.reservations UNION ALL
    SELECT run_id, 'counted_calls' FROM agentrun.counted_calls
) left_ USING (run_id)
UNION ALL
SELECT 'projection', p.run_id,
       format('runs (%%s, %%s, %%s, %%s, %%s, %%s), journal (%%s, %%s, %%s, %%s, %%s, %%s)',
              r.status, r.epoch, r.owner, r.parked_for, r.parked_step, r.reason,
              p.status, p.epoch, p.owner, p.parked_for, p.parked_step, p.reason)
FROM projected p LEFT JOIN agentrun.runs r USING (run_id)
WHERE (r.status, r.epoch, r.owner, r.parked_for, r.parked_step, r.reason)
      IS DISTINCT FROM (p.status, p.epoch, p.owner, p.parked_for, p.parked_step, p.reason)
UNION ALL
SELECT 'summary', n.run_id, format('summaries %%s, journal %%s', s, n)
FROM summed n LEFT JOIN agentrun.summaries s USING (run_id)
WHERE (s.turns, s.model_calls, s.input_tokens, s.output_tokens, s.cached_tokens, s.reasoning_tokens,
       s.cost, s.unpriced, s.failed_step, s.error_type, s.error) IS DISTINCT FROM
      (n.turns, n.model_calls, n.input_tokens, n.output_tokens, n.cached_tokens, n.reasoning_tokens,
       n.cost, n.unpriced, n.failed_step, n.error_type, n.error)
ORDER BY 1, 2
